"""Turns of many conversations as one table, and how they are dealt to rows of a batch that go on from turn to turn.

Requires torch.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SHORTEST_PIECE = 32  # turns


@dataclass
class Turns:
    """Turns of many conversations, one after the other, each conversation in order.

    Args:
        pooled: `(turns, pooled_size)` float32.
        labels: `(turns, 3)` in label units; -100 marks a missing one.
        starts: `(turns,)` boolean, True on the first turn of each conversation (or of each speaker's part of it).

    Raises:
        ValueError: the lengths differ, there is no turn, or the first turn is not a start.

    Example:
        >>> turns = Turns.grouped(torch.randn(4, 8), torch.zeros(4, 3), ["a", "b", "a", "b"])
        >>> turns.rows.tolist(), turns.starts.tolist()
        ([0, 2, 1, 3], [True, False, True, False])
    """

    pooled: Tensor
    labels: Tensor
    starts: Tensor
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def __post_init__(self) -> None:
        number = len(self.pooled)
        if number == 0 or len(self.labels) != number or len(self.starts) != number:
            raise ValueError(
                f"Turns needs one row of pooled, labels and starts for each turn, and at least one turn; got {number}, "
                f"{len(self.labels)} and {len(self.starts)}."
            )
        if self.starts.dtype != torch.bool or not self.starts[0]:
            raise ValueError(
                "Turns: starts must be boolean, and True on the first row. For turns without context: "
                "torch.ones(len(pooled), dtype=torch.bool)"
            )
        if not len(self.rows):
            self.rows = torch.arange(number)

    @classmethod
    def grouped(cls, pooled: Tensor, labels: Tensor, keys: Sequence[Hashable]) -> "Turns":
        """Puts the turns with the same key together, in their given order.

        Args:
            pooled, labels: as in the class.
            keys: what a turn shares its memory with: the conversation's id, or (conversation, speaker).

        Returns:
            The turns; `rows` holds where each one stood before.
        """
        place: dict[Hashable, int] = {}
        group = torch.tensor([place.setdefault(key, len(place)) for key in keys])
        rows = torch.argsort(group, stable=True)
        group = group[rows]
        starts = torch.ones(len(group), dtype=torch.bool)
        starts[1:] = group[1:] != group[:-1]
        return cls(pooled[rows], labels[rows], starts, rows)

    def __len__(self) -> int:
        return len(self.pooled)

    def spans(self) -> list[tuple[int, int]]:
        """First row and end of each conversation."""
        first = torch.nonzero(self.starts)[:, 0].tolist()
        return list(zip(first, [*first[1:], len(self)], strict=True))


def lanes(turns: Turns, number: int, generator: torch.Generator) -> Tensor:
    """Conversations in a random order, dealt to lanes that are read in parallel.

    Each goes to the lane that is shortest so far, whole; one longer than a quarter of a lane (and than 32 turns) in
    pieces of that length, or its lane would go on alone after the others have run out.

    Args:
        turns: the turns.
        number: how many lanes; no more than there are conversations.
        generator: draws the order.

    Returns:
        `(lanes, length)` int64: the row of `turns` that a lane reads at each time, -1 where it has run out.
    """
    most = max(SHORTEST_PIECE, math.ceil(len(turns) / number / 4))
    spans = [(at, min(at + most, end)) for first, end in turns.spans() for at in range(first, end, most)]
    filled: list[list[int]] = [[] for _ in range(min(number, len(spans)))]
    for index in torch.randperm(len(spans), generator=generator).tolist():
        min(filled, key=len).extend(range(*spans[index]))
    table = torch.full((len(filled), max(map(len, filled))), -1, dtype=torch.long)
    for lane, rows in enumerate(filled):
        table[lane, : len(rows)] = torch.tensor(rows)
    return table
