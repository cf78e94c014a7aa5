"""The memory of a conversation: the state that a caller keeps, and the modules that read and write it.

Requires torch and transformers. The state is an argument that goes in and comes back, never hidden on a module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils import ModelOutput

from .errors import LiminalError

# transformers wants a default of every field of an output; a field with this one is always given.
GIVEN: Any = None


class NamedTensors(ModelOutput):
    """A `ModelOutput` that does not look through all fields at each assignment.

    Example:
        >>> memory = ConversationMemory.empty(batch_size=1, memory_slots=4, latent_size=8)
        >>> memory.turn = memory.turn + 1
        >>> memory["turn"], memory.to_tuple()[2]
        (tensor([1]), tensor([1]))
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """As in `ModelOutput`, which makes a set of all fields for each of them."""
        if value is None or name not in type(self).__dataclass_fields__:  # type: ignore[attr-defined]
            object.__setattr__(self, name, value)
        else:
            self[name] = value


class StateRows:
    """What states share that have one row per conversation or person: a dataclass of tensors, `turn` among them."""

    def reset(self, rows: Tensor) -> Self:
        """A copy in which the rows marked True in `rows` (`torch.BoolTensor` of shape `(batch,)`) are empty again.

        Raises:
            LiminalError: `rows` is not a boolean per row.
        """
        turn: Tensor = self["turn"]  # type: ignore[index]
        if rows.dtype != torch.bool or rows.shape != turn.shape:
            raise LiminalError(
                f"{type(self).__name__}.reset takes one boolean per row, shape {tuple(turn.shape)}; got "
                f"{rows.dtype} of shape {tuple(rows.shape)}. For row 0: torch.arange(batch) == 0"
            )
        return self._map(lambda value: value.masked_fill(rows.view(-1, *[1] * (value.dim() - 1)), 0))

    def rows(self, index: Tensor) -> Self:
        """The rows chosen by `index` (integers or booleans), in that order."""
        return self._map(lambda value: value[index])

    def detach(self) -> Self:
        """The same state, cut off from the graph (truncated back-propagation)."""
        return self._map(Tensor.detach)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{name: change(value) for name, value in self.items()})  # type: ignore[attr-defined]


@dataclass
class ConversationMemory(StateRows, NamedTensors):
    """What is remembered of a conversation, per row of the batch, in tensors of fixed size.

    Args:
        slots (`torch.FloatTensor` of shape `(batch, memory_slots, latent_size)`): remembered states, the newest last.
        count (`torch.LongTensor` of shape `(batch,)`): how many slots are in use, 0..memory_slots.
        turn (`torch.LongTensor` of shape `(batch,)`): how many turns have been read.
        pad (`torch.FloatTensor` of shape `(batch, T)`): the last turn's answer in label units; 0 before the first turn.

    Example:
        >>> memory = ConversationMemory.empty(batch_size=2, memory_slots=4, latent_size=8)
        >>> memory.slots.shape, memory.count.tolist()
        (torch.Size([2, 4, 8]), [0, 0])
    """

    slots: Tensor = GIVEN
    count: Tensor = GIVEN
    turn: Tensor = GIVEN
    pad: Tensor = GIVEN

    @classmethod
    def shapes(
        cls, batch_size: int, memory_slots: int, latent_size: int, num_targets: int = 3
    ) -> dict[str, tuple[int, ...]]:
        """The shape of each field, by name; the names are the fields, in their order."""
        return {
            "slots": (batch_size, memory_slots, latent_size),
            "count": (batch_size,),
            "turn": (batch_size,),
            "pad": (batch_size, num_targets),
        }

    @classmethod
    def empty(
        cls,
        batch_size: int,
        memory_slots: int,
        latent_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        num_targets: int = 3,
    ) -> ConversationMemory:
        """The memory before the first turn."""
        dtypes = {"slots": dtype, "count": torch.long, "turn": torch.long, "pad": dtype}
        shapes = cls.shapes(batch_size, memory_slots, latent_size, num_targets)
        return cls(**{name: torch.zeros(shape, device=device, dtype=dtypes[name]) for name, shape in shapes.items()})

    def to(self, *args: object, **kwargs: object) -> ConversationMemory:
        """The same memory on another device; a floating dtype applies to the floating fields only."""
        moved = {}
        for name, value in self.items():
            target = value.to(*args, **kwargs)
            moved[name] = target if value.is_floating_point() else target.to(value.dtype)
        return ConversationMemory(**moved)

    def check(self, batch_size: int, memory_slots: int, latent_size: int, num_targets: int = 3) -> None:
        """Raises a LiminalError that names the field whose shape does not fit the model or the batch."""
        for name, shape in self.shapes(batch_size, memory_slots, latent_size, num_targets).items():
            value = self.get(name)
            if value is None or tuple(value.shape) != shape:
                got = None if value is None else tuple(value.shape)
                raise LiminalError(
                    f"memory.{name} must have shape {shape} for this model and batch, got {got}. Start a conversation "
                    f"with `model.initial_memory(batch_size={batch_size})` and pass on what the model returned."
                )

    def remember(self, states: Tensor, pad: Tensor) -> ConversationMemory:
        """The memory after one more turn that leaves `states` (`(batch, new, latent_size)`) behind."""
        size = self.slots.shape[1]
        return ConversationMemory(
            slots=torch.cat([self.slots, states.to(self.slots.dtype)], dim=1)[:, -size:].contiguous(),
            count=(self.count + states.shape[1]).clamp_max(size),
            turn=self.turn + 1,
            pad=pad.to(self.pad.dtype).contiguous(),
        )


MEMORY_FIELDS = tuple(field.name for field in fields(ConversationMemory))


def mean_of_newest(states: Tensor, count: Tensor, newest: int = 3) -> Tensor:
    """Mean over the newest remembered states of each row, over fewer where fewer are remembered, else zeros.

    Args:
        states: `(batch, slots, size)`, the newest last.
        count: `(batch,)`, how many of the slots are in use.
        newest: how many states to average.

    Example:
        >>> mean_of_newest(torch.tensor([[[9.0], [2.0], [4.0]]]), torch.tensor([2])).item()
        3.0
    """
    last = states[:, -newest:]
    age = torch.arange(last.shape[1], 0, -1, device=states.device)
    used = (age <= count[:, None]).to(states.dtype)
    return (last * used[..., None]).sum(1) / used.sum(1, keepdim=True).clamp_min(1)


class PublishedSoulKernel(nn.Module):
    """SoulKernel as published in v6: it has no weights and remembers once per outer step.

    x = view, y = answer, z = latent, r = resonance. future = mean of the newest 3 remembered r;
    bond = tanh(mean(x z) + mean(y r)) without gradient; z <- z + 0.05 faith z, then z <- z + 0.2 bond (future - z);
    r <- tanh(r + 0.3 future). All numbers are the published ones. (LIMINAL Heartbeat v6)
    """

    def forward(
        self,
        view: Tensor,
        answer: Tensor,
        latent: Tensor,
        resonance: Tensor,
        faith: Tensor,
        remembered: Tensor,
        count: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the new latent and resonance, each `(batch, d)`.

        Args:
            view, answer, latent, resonance: `(batch, d)`.
            faith: `(batch, 1)`.
            remembered: `(batch, slots, d)`, the newest last.
            count: `(batch,)`, how many of the slots are in use.
        """
        latent = latent + 0.05 * faith * latent
        future = mean_of_newest(remembered, count)
        likeness = (view * latent).mean(-1, keepdim=True) + (answer * resonance).mean(-1, keepdim=True)
        latent = latent + 0.2 * torch.tanh(likeness).detach() * (future - latent)
        return latent, torch.tanh(resonance + 0.3 * future)


class SoulKernel(nn.Module):
    """SoulKernel as ours (v7): it remembers once per turn, and its bond is learned.

    The original writes K entries a turn, so that "the last three" are mostly the present turn's own steps. Here a
    slot is a turn: every step of this turn reads the turns before. A learned state stands in where there are none.

    x = view, y = answer, z = latent, r = resonance. future = mean of the newest 3 remembered turns, or the learned
    state; bond = tanh(W [x z; y r]); z <- z + sigmoid(w) bond (future - z); r <- tanh(r + 0.3 future), published.

    Args:
        size: d, width of the latent.

    Example:
        >>> kernel = SoulKernel(8)
        >>> x = torch.randn(2, 8)
        >>> latent, resonance = kernel(x, x, x, x, ConversationMemory.empty(2, 4, 8))
        >>> latent.shape, resonance.shape
        (torch.Size([2, 8]), torch.Size([2, 8]))
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bond = nn.Linear(2 * size, 1)
        self.initial_state = nn.Parameter(torch.zeros(size))
        self.memory_gate = nn.Parameter(torch.zeros(()))

    def reset_own_parameters(self) -> None:
        """The learned state starts at zero, and the gate at sigmoid(0) = 1/2."""
        init.zeros_(self.initial_state)
        init.zeros_(self.memory_gate)

    def forward(
        self,
        view: Tensor,
        answer: Tensor,
        latent: Tensor,
        resonance: Tensor,
        memory: ConversationMemory,
        recalled: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All tensors `(batch, d)`. Returns the new latent and resonance.

        `recalled` is a list that the steps of one call share: the first puts into it what the memory gives all of them.
        """
        recalled = [] if recalled is None else recalled
        if not recalled:
            newest = mean_of_newest(memory.slots, memory.count)
            future = torch.where((memory.count > 0)[:, None], newest, torch.tanh(self.initial_state))
            recalled.extend([future, torch.sigmoid(self.memory_gate), 0.3 * future])
        future, gate, share = recalled
        bond = torch.tanh(self.bond(torch.cat([view * latent, answer * resonance], dim=-1)))
        latent = latent + gate * bond * (future - latent)
        return latent, torch.tanh(resonance + share)
