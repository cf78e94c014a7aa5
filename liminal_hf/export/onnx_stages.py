"""An ONNX graph cut into one file for each step of head v8, so that a text is read no deeper than it needs.

Requires the extra `onnx`.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..modeling.modeling_liminal import LiminalForPADRegression
from ..scoring.onnx_runtime import DOUBTS

if TYPE_CHECKING:
    import onnx

# What a step says of each text; the graph has `logits_0`, `logits_1`, ..., and `in_domain_0` alone.
ANSWERS = ("logits", *DOUBTS, "gains")
_FLOAT = 1  # of onnx.TensorProto


def has_stages(model: LiminalForPADRegression) -> bool:
    """Whether a model's texts may be done before its last layer."""
    return hasattr(model.liminal.head, "exit_threshold") and model.config.exit_threshold is not None


@contextlib.contextmanager
def answers_after_each_step(model: LiminalForPADRegression) -> Iterator[None]:
    """Makes `forward` give what each step says, by `ANSWERS` and step; for tracing."""
    base, head = model.liminal, model.liminal.head

    def forward(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        inputs, mask, _ = base._encoder_inputs({"input_ids": input_ids}, attention_mask)
        encoded = base.encoder(**inputs, output_hidden_states=True, return_dict=True)
        dtype = next(head.parameters()).dtype
        answers: dict[str, Tensor] = {}
        in_domain = state = None
        for step, number in enumerate(head.layers):
            # The last layer's states come out of the encoder, with what it does after it.
            is_last = number == len(encoded.hidden_states) - 1
            states = encoded.last_hidden_state if is_last else encoded.hidden_states[number]
            pooled = base.pooler.pool(states.to(dtype), mask)  # (batch, width)
            if state is None:
                state = head.begin(pooled)
                in_domain = _domain_of(base, pooled)
            values = head.read(state, step, pooled * model.config.pooled_scale)
            found = {"logits": values["pad_trajectory"], "gains": values["gains"]}
            found["uncertainty"] = model._uncertainty(values["log_variance"], in_domain)
            if step == 0 and in_domain is not None:
                found["in_domain"] = in_domain
            answers |= {f"{name}_{step}": value for name, value in found.items()}
        return answers

    model.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del model.forward


def _domain_of(base: Any, first: Tensor) -> Tensor | None:
    """The gauge reads the first layer of v8 alone; the others are not known yet."""
    if getattr(base.pooler, "domain", None) is None:
        return None
    start = base.head.layers[0] * base.config.hidden_size
    after = base.pooled_size - start - base.config.hidden_size
    in_domain: Tensor = base.pooler.domain(torch.nn.functional.pad(first, (start, after)))
    return in_domain


def cut(model: "onnx.ModelProto", count: int) -> list["onnx.ModelProto"]:
    """One graph for each step, which goes on from what those before it have left.

    A stage takes `input_ids`, `attention_mask` and states of the stages before, all with a row for each text, so that
    rows may be taken out between two stages. What has no such row, such as sizes and masks, is computed again.

    Args:
        model: a graph traced in `answers_after_each_step`.
        count: its steps.

    Returns:
        The stages. Their outputs are `ANSWERS`, with the number of the step, and states for later stages.
    """
    import onnx

    extractor = onnx.utils.Extractor(model)
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    is_state = {value.name: _has_rows(value, batch) for value in (*graph.value_info, *graph.output)}
    known: dict[str, int] = {}  # the first stage that computes a value
    answers, states = [], []
    for step in range(count):
        outputs = {f"{name}_{step}" for name in ANSWERS}
        answers.append([value.name for value in graph.output if value.name in outputs])
        taken: set[str] = set()
        seen: set[str] = set()
        left = list(answers[-1])
        while left:
            name = left.pop()
            if name in seen or name not in producers:
                continue
            if known.get(name, step) < step and is_state.get(name):
                taken.add(name)
                continue
            seen.add(name)
            left += producers[name].input
        known |= {name: step for name in seen - known.keys()}
        states.append(sorted(taken))
    stages = []
    for step in range(count):
        later = {name for taken in states[step + 1 :] for name in taken if known[name] == step}
        inputs = [value.name for value in graph.input]
        stage = extractor.extract_model([*inputs, *states[step]], [*answers[step], *sorted(later)])
        used = {name for node in stage.graph.node for name in node.input}
        for value in [value for value in stage.graph.input if value.name not in used]:
            stage.graph.input.remove(value)
        stages.append(stage)
    return stages


def _has_rows(value: "onnx.ValueInfoProto", batch: str) -> bool:
    """Whether a value holds floats with a row for each text."""
    kind = value.type.tensor_type
    return kind.elem_type == _FLOAT and len(kind.shape.dim) > 0 and kind.shape.dim[0].dim_param == batch
