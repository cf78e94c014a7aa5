"""An ONNX graph cut into one file for each step of head v8, so that a text is read no deeper than it needs.

Requires the extra `onnx`.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..modeling.modeling_liminal import LiminalForPADRegression

if TYPE_CHECKING:
    import onnx

# Outputs beside the logits that say how sure the model is.
DOUBTS = ("uncertainty", "in_domain")
STAGE_FILE = "model_stage_{}.onnx"  # of each step, for a model that stops early
INSTALL = "ONNX needs more packages: pip install 'liminal_hf[onnx]'"
# What a step says of each text; the graph has `logits_0`, `logits_1`, ..., and `in_domain_0` alone.
ANSWERS = ("logits", *DOUBTS, "gains")
_FLOAT = 1  # of onnx.TensorProto


def has_stages(model: LiminalForPADRegression) -> bool:
    """Whether a model's texts may be done before its last layer; sounds and images are always read to the end."""
    stops = hasattr(model.liminal.head, "exit_threshold") and model.config.exit_threshold is not None
    return stops and model.main_input_name == "input_ids"


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


def open_session(file: Path, threads: int | None, providers: Sequence[str] | None) -> Any:
    """onnxruntime's session of a file; arguments as in `OnnxPAD`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; a warning would say that `token_type_ids` may be left out
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(file), options, providers=list(providers or ["CPUExecutionProvider"]))


class OnnxStages:
    """A model in one file for each step of head v8, of which no more are run than the texts need.

    Args:
        folder, threads, providers: as in `OnnxPAD`.
    """

    def __init__(
        self, folder: str | os.PathLike, threads: int | None = None, providers: Sequence[str] | None = None
    ) -> None:
        count = len(list(Path(folder).glob(STAGE_FILE.format("*"))))
        files = [Path(folder) / STAGE_FILE.format(step) for step in range(count)]
        self.sessions = [open_session(file, threads, providers) for file in files]
        self.inputs = [[value.name for value in session.get_inputs()] for session in self.sessions]
        self.outputs = [[value.name for value in session.get_outputs()] for session in self.sessions]
        self.answers = [name for name in ("logits", *DOUBTS) if f"{name}_0" in self.outputs[0]]

    def run(self, inputs: Mapping[str, np.ndarray], threshold: float, count: int | None = None) -> dict[str, Any]:
        """Reads each row until the gain that is expected of one more step is below the threshold.

        Args:
            inputs: `input_ids` and `attention_mask`, int64 `(batch, length)`.
            threshold: of `gains`.
            count: steps at most; None is all.

        Returns:
            `logits`, `DOUBTS` and `depth` (int64, steps that were read), each `(batch, ...)`.
        """
        rows = np.arange(len(inputs["input_ids"]))  # that are still read
        values = dict(inputs)
        found: dict[str, np.ndarray] = {"depth": np.zeros(len(rows), dtype=np.int64)}
        last = (count or len(self.sessions)) - 1
        for step in range(last + 1):
            given = {name: values[name] for name in self.inputs[step]}
            values |= zip(self.outputs[step], self.sessions[step].run(None, given), strict=True)
            for name in self.answers:
                if f"{name}_{step}" in values:
                    answer = values.pop(f"{name}_{step}")
                    found.setdefault(name, np.empty((len(found["depth"]), *answer.shape[1:]), np.float32))[rows] = (
                        answer
                    )
            found["depth"][rows] = step + 1
            stays = ~(values.pop(f"gains_{step}") < threshold)
            if step == last or not stays.any():
                break
            if not stays.all():
                rows, values = rows[stays], {name: value[stays] for name, value in values.items()}
        return found
