"""Training with context: turns of many conversations as rows of a batch, and heads that learn through their memory.

Requires torch. It was measured (scripts/conversations.py), and it earns next to nothing.
"""

import copy
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from liminal_hf.metrics import mean_pearson
from liminal_hf.modeling.configuration_liminal import MISSING_LABEL
from liminal_hf.modeling.memory import ConversationMemory, mean_of_newest
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression

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


@dataclass
class Readings:
    """What a model made of `Turns`, in their order.

    Args:
        logits: `(turns, 3)` in label units.
        uncertainty: `(turns, 3)` standard deviations, or None.
        before: `(turns, features)`, the memory before each turn was read, as numbers for a forecast: the mean of the
            last three remembered states, the last one, the last PAD, and whether there was a turn; None for a head
            without memory.
    """

    logits: Tensor
    uncertainty: Tensor | None
    before: Tensor | None


@torch.no_grad()
def read_turns(model: LiminalForPADRegression, turns: Turns, batch_size: int = 256) -> Readings:
    """Reads conversations turn by turn, turn t of up to `batch_size` of them together.

    Args:
        model: any head; the model's mode is left as it was, the reading is without dropout.
        turns: the turns.
        batch_size: conversations at a time; no result depends on it.

    Example:
        >>> from liminal_hf import LiminalConfig
        >>> model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16))
        >>> read_turns(model, Turns.grouped(torch.randn(3, 8), torch.zeros(3, 3), ["a", "a", "b"])).logits.shape
        torch.Size([3, 3])
    """
    was_training = model.training
    model.eval()
    spans = sorted(turns.spans(), key=lambda span: span[0] - span[1])
    logits = turns.pooled.new_empty(len(turns), 3)
    uncertainty, before = [], []
    order = []
    for start in range(0, len(spans), batch_size):
        chosen = spans[start : start + batch_size]
        memory = model.initial_memory(len(chosen)) if model.base.head.has_memory else None
        for time in range(chosen[0][1] - chosen[0][0]):
            # The longest come first, so that those that go on are the first rows.
            rows = [first + time for first, end in chosen if first + time < end]
            if memory is not None:
                memory = memory.rows(torch.arange(len(rows)))
                before.append(_as_features(memory))
            output = model(pooled_embeds=turns.pooled[rows], memory=memory)
            memory = output.memory
            logits[rows] = output.logits
            if output.uncertainty is not None:
                uncertainty.append(output.uncertainty)
            order += rows
    model.train(was_training)
    back = torch.argsort(torch.tensor(order))
    return Readings(
        logits,
        torch.cat(uncertainty)[back] if uncertainty else None,
        torch.cat(before)[back] if before else None,
    )


def _as_features(memory: ConversationMemory) -> Tensor:
    known = (memory.count > 0).to(memory.slots.dtype)[:, None]
    return torch.cat([mean_of_newest(memory.slots, memory.count), memory.slots[:, -1], memory.pad, known], dim=1)


@dataclass
class ConversationTraining:
    """How `train_conversations` trains; the defaults are those that were measured (`scripts/conversations.py`).

    Args:
        epochs: passes over the turns.
        learning_rate, weight_decay: of AdamW; the rate warms up over 5% of the updates, then falls as a cosine.
        lanes: conversations that are read in parallel.
        window: turns between two updates, over which the error is carried back; the memory itself goes on.
        forget: probability that a conversation's memory is emptied before a turn, so that the model also learns to
            start in the middle.
        ema_decay: decay of the moving average of the weights, which is what is evaluated and kept.
        max_norm: gradient clipping.
        seed: seeds the order, the forgetting and dropout.
    """

    epochs: int = 10
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    lanes: int = 32
    window: int = 4
    forget: float = 0.05
    ema_decay: float = 0.99
    max_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "lanes", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"ConversationTraining: {name} must be at least 1, got {getattr(self, name)}.")
        for name in ("forget", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"ConversationTraining: {name} must be in 0..1 (below 1), got {getattr(self, name)}.")


def train_conversations(
    model: LiminalForPADRegression,
    train: Turns,
    validation: Turns,
    settings: ConversationTraining | None = None,
) -> list[dict[str, float]]:
    """Trains a head on conversations by truncated back-propagation through its memory (Williams & Peng 1990).

    Lanes of conversations are read in parallel. After every `window` turns the losses of all of them are summed, the
    weights updated, and the memory goes on without its graph; where the next conversation of a lane begins, or the
    next piece of a very long one, that row's memory alone is emptied. The averaged weights of the epoch with the best
    mean r on `validation` are kept.

    Args:
        model: changed in place; only parameters with `requires_grad` are trained.
        train, validation: the turns; turns without context are conversations of one turn.
        settings: see `ConversationTraining`.

    Returns:
        One dict per epoch: `epoch`, `train_loss` (mean over the labels), `pearson_mean` on validation.

    Raises:
        ValueError: the loss is no longer finite.

    Example:
        >>> from liminal_hf import LiminalConfig
        >>> model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16))
        >>> turns = Turns.grouped(torch.randn(40, 8), torch.rand(40, 3), [i // 5 for i in range(40)])
        >>> len(train_conversations(model, turns, turns, ConversationTraining(epochs=2)))
        2
    """
    settings = settings or ConversationTraining()
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)
    has_memory = model.base.head.has_memory
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    updates = settings.epochs * math.ceil(lanes(train, settings.lanes, generator).shape[1] / settings.window)
    # The length of the lanes differs a little from epoch to epoch: the schedule must not run below zero.
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, updates))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for epoch in range(1, settings.epochs + 1):
        model.train()
        table = lanes(train, settings.lanes, generator)
        memory = model.initial_memory(len(table)) if has_memory else None
        before = torch.full((len(table),), -2)
        total, count = 0.0, 0
        for start in range(0, table.shape[1], settings.window):
            part = table[:, start : start + settings.window]
            labels = train.labels[part.clamp_min(0)].masked_fill((part < 0)[..., None], MISSING_LABEL)
            number = int(labels.ne(MISSING_LABEL).sum())
            loss = torch.zeros(())
            for time in range(part.shape[1]):
                rows = part[:, time].clamp_min(0)
                if memory is not None:
                    lost = torch.rand(len(rows), generator=generator) < settings.forget
                    # A long conversation is read in pieces: what does not follow on knows nothing of what was before.
                    memory = memory.reset(train.starts[rows] | (rows != before + 1) | lost)
                    before = rows
                output = model(
                    pooled_embeds=train.pooled[rows],
                    memory=memory,
                    labels=labels[:, time],
                    num_items_in_batch=max(number, 1),
                )
                loss, memory = loss + output.loss, output.memory
            if not math.isfinite(loss.item()):
                raise ValueError(
                    f"The loss became {loss.item()} in epoch {epoch}. Lower learning_rate (now "
                    f"{settings.learning_rate}) and check pooled and labels for values that are not finite."
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, settings.max_norm)
            optimizer.step()
            scheduler.step()
            average.update_parameters(model)
            memory = memory.detach() if memory is not None else None
            total, count = total + loss.item() * number, count + number
        averaged = cast(LiminalForPADRegression, average.module)
        score = mean_pearson(read_turns(averaged, validation).logits.numpy(), validation.labels.numpy())
        history.append({"epoch": float(epoch), "train_loss": total / max(count, 1), "pearson_mean": score})
        if not best or score > max(entry["pearson_mean"] for entry in history[:-1]):
            best = copy.deepcopy(averaged.state_dict())
    model.load_state_dict(best)
    model.eval()
    return history


def _warm_cosine(step: int, updates: int, warm_up: float = 0.05) -> float:
    warm = max(1, round(warm_up * updates))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, updates - warm))))
