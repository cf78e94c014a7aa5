"""Reading an encoder no further than a text needs: layers that no text of a batch needs are not run.

Requires torch and transformers. The encoder stays the library's own: hooks on its layers give each layer's states to a
head that reads them one by one (v8), take the rows that are done out of the batch, and end the encoder's forward when
none is left.
"""

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .encoders import TESTED
from .errors import LiminalError
from .heads import HeadOutput
from .padding import is_tracing

# Families of which the tests have seen that rows may leave the batch between two layers.
DROPS_ROWS = TESTED - {"gemma3_text", "mistral", "qwen2", "xlm-roberta"}


class _ReadEnough(Exception):
    """Ends the encoder's forward: no text needs a further layer."""


def layers_of(encoder: PreTrainedModel) -> nn.ModuleList:
    """The encoder's layers, from the bottom.

    Args:
        encoder: of any family that keeps them in one list.

    Raises:
        LiminalError: there is no such list.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> bert = BertModel(BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=3, num_attention_heads=2))
        >>> len(layers_of(bert))
        3
    """
    count = encoder.config.num_hidden_layers
    if getattr(encoder.config, "conv_kernel_size", None) and encoder.config.model_type == "deberta-v2":
        raise LiminalError(
            "This DeBERTa has a convolution between its first two layers, so it can't be read only in part: set "
            "config.exit_threshold = None, and leave num_outer_steps out."
        )
    for module in encoder.modules():  # what contains comes before what is contained, such as the parts of T5's layers
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise LiminalError(
        f"The layers of a {encoder.config.model_type!r} encoder are not found as a list of {count} modules, so it "
        "can't be read only in part: set config.exit_threshold = None, and leave num_outer_steps out."
    )


@dataclass
class LayerReading:
    """One pass over a batch, layer by layer, until each text has been read far enough.

    Args:
        model: a `LiminalModel` whose head is v8.
        mask: `(batch, length)`, 1 on real tokens, which come first.
        count: steps at most; None is all.
    """

    model: Any
    mask: Tensor
    count: int | None = None
    # Of each step, what it has left behind for the whole batch: a row that is done keeps what it had.
    steps: list[dict[str, Tensor]] = field(default_factory=list)
    first: Any = None  # (batch, width), the pooled state that the first step reads
    _state: Any = None
    _active: Tensor | None = None  # the rows that are still read
    _is_dropped: bool = False  # whether some rows have left the encoder's batch
    _cut: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config = self.model.config
        self.count = self.count or config.num_outer_steps
        self.depth = torch.full((len(self.mask),), self.count, device=self.mask.device)
        # What is dropped is told by its first dimension, which must not be the length by chance; and only families that
        # the tests read have been seen to put the batch there.
        is_clear = self.mask.shape[0] != self.mask.shape[1]
        self._may_drop = is_clear and config.text_config.model_type in DROPS_ROWS
        self._heads = config.num_attention_heads
        # The hooks lie on layers that calls of other threads run through, too; those are none of this reading.
        self._thread = threading.get_ident()

    def run(self, inputs: dict[str, Any]) -> HeadOutput:
        """Runs the encoder on its inputs as far as needed; returns what the head says."""
        layers = layers_of(self.model.encoder)
        numbers = self.model.head.layers[: self.count]
        handles = []
        for step, number in enumerate(numbers):
            if number < len(layers):  # the last layer's states come out of the encoder, with what it does after it
                hook = self._after(step)
                handles.append(layers[number - 1].register_forward_hook(hook))
        for layer in layers[numbers[0] :]:
            handles.append(layer.register_forward_pre_hook(self._before, with_kwargs=True))
        try:
            encoded = self.model.encoder(**inputs, return_dict=True)
            if numbers[-1] == len(layers):
                self._read(len(numbers) - 1, encoded.last_hidden_state)
        except _ReadEnough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        steps = self.steps + [self.steps[-1]] * ((self.count or 0) - len(self.steps))
        has_exits = self.model.head.exit_threshold is not None
        return self.model.head.output(steps, self.depth if has_exits else None)

    def _after(self, step: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            if threading.get_ident() != self._thread:
                return None
            states = output if isinstance(output, Tensor) else output[0]
            stays = self._read(step, states)
            if stays is None:
                return None
            if isinstance(output, Tensor):
                return output[stays]
            present = len(states)
            return type(output)(
                part[stays] if isinstance(part, Tensor) and part.dim() > 1 and len(part) == present else part
                for part in output
            )

        return hook

    def _before(self, module: nn.Module, args: Any, kwargs: Any = None) -> Any:
        """Takes the rows that are done out of whatever the encoder hands to all of its layers."""
        # Torch leaves out the kwargs where another thread is just putting this hook on or taking it off.
        if kwargs is None or not self._is_dropped or threading.get_ident() != self._thread:
            return None
        return tuple(self._without_done(value) for value in args), {
            name: self._without_done(value) for name, value in kwargs.items()
        }

    def _without_done(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(self._without_done(part) for part in value)
        if not isinstance(value, Tensor) or value.dim() < 2:
            return value
        if value.dim() == 2 and value.is_floating_point():  # a table for all texts, such as DeBERTa's of distances
            return value
        batch = len(self.mask)
        if len(value) not in (batch, batch * self._heads) or batch == 1:
            return value
        if id(value) not in self._cut:
            if len(value) == batch:
                kept = value[self._active]
            else:  # Bloom's biases have a row for each text and head
                kept = value.unflatten(0, (batch, self._heads))[self._active].flatten(0, 1)
            self._cut[id(value)] = value, kept  # the first, so that its id stays its own
        return self._cut[id(value)][1]

    def _read(self, step: int, states: Tensor) -> Tensor | None:
        """One step of the head on a layer's states; returns which rows stay in the encoder's batch, None for all."""
        model, head = self.model, self.model.head
        mask = self.mask if self._active is None or not self._is_dropped else self.mask[self._active]
        if states.shape[:2] != mask.shape:
            raise LiminalError(
                f"A layer of this {model.config.text_config.model_type!r} encoder gives states of the shape "
                f"{tuple(states.shape)} for {tuple(mask.shape)} tokens, so it can't be read only in part: set "
                "config.exit_threshold = None, and leave num_outer_steps out."
            )
        pooled = model.pooler.pool(states.to(next(head.parameters()).dtype), mask)  # (rows, width)
        if self.first is None:
            self.first = pooled
            self._state = head.begin(pooled)
        if self._active is not None and not self._is_dropped:
            pooled = pooled[self._active]
        values = head.read(self._state, step, pooled * model.config.pooled_scale)
        gains = values["gains"]
        if self._active is not None:  # rows that are done keep what they had
            before = self.steps[-1]
            values = {name: before[name].index_copy(0, self._active, value) for name, value in values.items()}
        self.steps.append(values)
        if step + 1 == self.count:
            raise _ReadEnough
        threshold = head.exit_threshold
        if threshold is None or not bool((done := gains < threshold).any()):
            return None
        rows = torch.arange(len(self.mask), device=done.device) if self._active is None else self._active
        self.depth[rows[done]] = step + 1
        if bool(done.all()):
            raise _ReadEnough
        stays = (~done).nonzero()[:, 0]
        self._active = rows[stays]
        self._state = self._state.rows(stays)
        if not self._may_drop:
            return None
        self._is_dropped = True
        self._cut.clear()
        return stays


def may_stop_early(head: Any, count: int | None) -> bool:
    """Whether a call may end before the last layer: an exit, or fewer steps than there are."""
    if not hasattr(head, "exit_threshold") or head.training or is_tracing():
        return False
    in_part = count is not None and count < head.config.num_outer_steps
    return in_part or head.exit_threshold is not None
