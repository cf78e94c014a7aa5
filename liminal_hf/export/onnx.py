"""From a checkpoint to ONNX: an export with dynamic shapes, optionally in 8 bits.

Requires the extra `onnx` (onnx, onnxruntime, onnxscript) and torch >= 2.11. `liminal_hf.scoring.onnx_runtime` runs it.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import io
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..io import folder_sha256
from ..modeling.configuration_liminal import LiminalConfig
from ..modeling.errors import LiminalError
from ..modeling.memory import MEMORY_FIELDS
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.provenance import write_facts
from ..modeling.senses import sample_inputs, sense
from .checkpoint import facts_of, open_checkpoint
from .model_card import build_card
from .onnx_stages import INSTALL, STAGE_FILE, OnnxStages, answers_after_each_step, cut, has_stages

if TYPE_CHECKING:
    import onnx_ir

MODEL_FILE = "model.onnx"
_DATA_FILE = "model.onnx.data"
# One protobuf file can't pass 2 GB; larger weights go beside it.
_LARGEST_FILE = 1_800_000_000
# Of the labels' standard deviation, see `export_onnx`.
_LOSS_IN_8_BITS = 0.1


def export_onnx(
    checkpoint_or_model: str | os.PathLike | LiminalForPADRegression,
    folder: str | os.PathLike,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    memory: bool = False,
    quantize: Literal["int8"] | None = None,
) -> Path:
    """Writes a model as ONNX, for any batch size and any length that its encoder takes.

    Inputs are `input_ids` and `attention_mask`, int64 `(batch, length)`, and for a tokenizer that gives them
    `token_type_ids`, which may be left out and are not read, because a text is one segment. A model of sounds has
    `input_values` `(batch, samples)` (or `input_features`) and `attention_mask`, one of images `pixel_values`, each
    float32. Outputs are those of `LiminalPADOutput` that the head has. K and n are the config's.

    A model that stops early (head v8 with `exit_threshold`) is written a second time, as one file for each step,
    `model_stage_0.onnx` and so on: `OnnxPAD` runs no stage that no text needs.

    Every output is compared with torch before anything is written. In float it may differ by a thousandth of its scale
    (the standard deviation of the labels, or the output's largest value). In 8 bits, logits and uncertainty may differ
    by a tenth of the labels' standard deviation (root mean square over random tokens).

    Args:
        checkpoint_or_model: a run's folder, a checkpoint's folder, a Hub id, or a model (a PEFT model: merge it first).
        folder: where to write model.onnx, config.json, the tokenizer, README.md and the facts; created if it does not
            exist.
        tokenizer: default the checkpoint's; a model given as an object needs it for `OnnxPAD.predict`.
        memory: whether the conversation is an input, `memory.slots`, `memory.count`, `memory.turn`, `memory.pad` as in
            `ConversationMemory`, and an output, the same names after `new_`. Without it the model is stateless.
        quantize: "int8" keeps the weights of the encoder's linear layers in 8-bit integers, a scale per channel, and
            rounds their inputs as they come (dynamic quantization); head, embeddings and attention stay in float.

    Returns:
        The path of model.onnx.

    Raises:
        LiminalError: the model has no encoder, no memory where one is asked for, or `quantize` is unknown; or the ONNX
            model does not give what torch gives.
        ImportError: the extra is not installed; the message has the line to type.

    Example:
        >>> from transformers import BertConfig
        >>> from liminal_hf import LiminalConfig
        >>> bert = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> model = LiminalForPADRegression(LiminalConfig(text_config=bert, latent_size=8, num_outer_steps=1))
        >>> export_onnx(model, "tiny-onnx").name
        'model.onnx'
    """
    if quantize not in (None, "int8"):
        raise LiminalError(f'quantize must be None or "int8", got {quantize!r}.')
    try:
        import onnx_ir  # noqa: F401
        import onnxruntime  # noqa: F401  (the comparison needs it)
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    model: Any = checkpoint_or_model
    if isinstance(model, str | os.PathLike):
        source = open_checkpoint(os.fspath(model), tokenizer)
        model, tokenizer = source.model, source.tokenizer
    _check_model(model, memory)
    facts = facts_of(model)
    if any(parameter.device.type != "cpu" or parameter.dtype != torch.float32 for parameter in model.parameters()):
        model = copy.deepcopy(model).cpu().float()
    was_training = model.training
    model.eval()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    segments = tokenizer is not None and "token_type_ids" in tokenizer.model_input_names
    try:
        # Beside the target, so that moving it there is one step and never leaves half a model.
        with tempfile.TemporaryDirectory(dir=folder) as staging, _quiet():
            written = _write(model, Path(staging), memory, quantize)
            if segments:
                _accept_segments(written)
            stages = has_stages(model) and not memory
            if stages:
                _write_stages(model, written.parent, quantize)
            for file in folder.glob(STAGE_FILE.format("*")):
                file.unlink()
            for file in written.parent.glob("model*.onnx*"):
                file.replace(folder / file.name)
    finally:
        model.train(was_training)
    config = copy.deepcopy(model.config)
    # The folder holds neither torch weights nor code, and a folder of this machine means nothing elsewhere.
    config.auto_map = {}
    config.text_config._name_or_path = ""
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    weights = folder_sha256(folder, "model*.onnx*")
    about = {"memory": memory, "int8": quantize == "int8", "token_type_ids": segments, "stages": stages}
    write_facts(folder, facts)
    build_card(config, {**facts, "form": "onnx", "onnx": about, "weights_sha256": weights}).save(folder / "README.md")
    config.save_pretrained(folder)  # last: with it the folder is whole
    return folder / MODEL_FILE


def _check_model(model: Any, memory: bool) -> None:
    if not isinstance(model, LiminalForPADRegression):
        raise LiminalError(
            f"export_onnx takes a checkpoint or a LiminalForPADRegression, got {type(model).__name__}. An adapted "
            "model: export peft_model.merge_and_unload()."
        )
    if model.liminal.encoder is None:
        raise LiminalError("This model has no encoder (text_config=None): there are no texts that its ONNX could read.")
    if memory and not model.liminal.head.has_memory:
        raise LiminalError(f"Head {model.config.head!r} as configured has no memory. Leave memory=True out.")


def __getattr__(name: str) -> Any:
    if name != "OnnxPAD":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("OnnxPAD has moved to liminal_hf.scoring.onnx_runtime.", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module("liminal_hf.scoring.onnx_runtime"), name)


def _sample(model: LiminalForPADRegression, memory: bool, rows: int, length: int) -> dict[str, Any]:
    """Inputs with padding on the first row, and a memory with something in it."""
    generator = torch.Generator().manual_seed(length)
    inputs: dict[str, Any] = {}
    if model.main_input_name == "input_ids":
        inputs["input_ids"] = torch.randint(model.config.vocab_size, (rows, length), generator=generator)
    else:
        inputs |= sample_inputs(model.config.text_config, rows, length)
    takes = inspect.signature(model.liminal.encoder.forward).parameters
    if "input_ids" in inputs or ("attention_mask" in takes and sense(model.config) == "audio"):
        mask = torch.ones(rows, inputs[model.main_input_name].shape[-1], dtype=torch.long)
        mask[0, mask.shape[1] // 2 :] = 0
        inputs["attention_mask"] = mask
    if memory:
        inputs["memory"] = model.initial_memory(rows)
        inputs["memory"] = model(**inputs).memory
    return inputs


def _write(model: LiminalForPADRegression, folder: Path, memory: bool, quantize: str | None) -> Path:
    """model.onnx, compared with torch."""
    import onnx_ir

    program = _export(model, memory)
    initializers = [value for graph in program.graphs() for value in graph.initializers.values()]
    size: int = sum(value.const_value.nbytes for value in initializers if value.const_value is not None)
    large = size > _LARGEST_FILE
    to_quantize = _encoder_linears(program)
    _strip_traces(program)
    written = folder / MODEL_FILE
    onnx_ir.save(program, str(written), external_data=_DATA_FILE if large else None)
    _compare(model, written, memory)
    if quantize == "int8":
        written = _quantize(written, to_quantize, large)
        _compare(model, written, memory, in_8_bits=True)
    return written


@torch.no_grad()
def _write_stages(model: LiminalForPADRegression, folder: Path, quantize: str | None) -> None:
    """The graph once more, cut after each step, and compared with torch step by step."""
    import onnx
    import onnx_ir

    with answers_after_each_step(model):
        program = _export(model, memory=False)
    to_quantize = _encoder_linears(program)
    _strip_traces(program)
    for step, part in enumerate(cut(onnx_ir.to_proto(program), model.config.num_outer_steps)):
        file = folder / STAGE_FILE.format(step)
        onnx.save(part, file)
        if quantize == "int8":
            names = {node.name for node in part.graph.node}
            _quantize(file, [name for name in to_quantize if name in names], large=False).replace(file)
    stages, sample = OnnxStages(folder), _sample(model, False, rows=8, length=11)
    arrays = {name: value.numpy() for name, value in sample.items()}
    threshold, model.config.exit_threshold = model.config.exit_threshold, None
    try:
        for count in range(1, model.config.num_outer_steps + 1):
            expected: Any = model(**sample, num_outer_steps=count)
            for name, value in stages.run(arrays, -math.inf, count).items():
                if name in expected:
                    _check(name, value, expected[name], expected.get("in_domain"), model.config, quantize == "int8")
    finally:
        model.config.exit_threshold = threshold


@torch.no_grad()
def _export(model: LiminalForPADRegression, memory: bool) -> onnx_ir.Model:
    """The graph, with our names on inputs and outputs and nothing that no one reads."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    dynamic = torch.export.Dim.DYNAMIC
    sample = _sample(model, memory, rows=2, length=7)
    # Spectra of Whisper and images have one size, and only their number varies.
    any_length = model.main_input_name in ("input_ids", "input_values")
    axes = {0: dynamic, 1: dynamic} if any_length else {0: dynamic}
    shapes: dict[str, Any] = {name: dict(axes) for name in sample if name != "memory"}
    if memory:
        shapes["memory"] = [{0: dynamic} for _ in MEMORY_FIELDS]
    with _quiet(), _plain_frame_mask(model.liminal.encoder):
        exported: Any = OnnxExporter().export(model, sample, OnnxConfig(dynamic_shapes=shapes))
    # transformers 5.16 gives torch's ONNXProgram, later versions an ExportedModel around the graph.
    program = exported.program if hasattr(exported, "program") else exported.model
    graph = program.graph
    for value in graph.inputs:
        value.name = value.name.removeprefix("input.")
    for value in list(graph.outputs):
        value.name = value.name.removeprefix("output.")
        if value.name.startswith("memory."):
            value.name = f"new_{value.name}"
            if not memory:
                graph.outputs.remove(value)
    RemoveUnusedNodesPass()(program)
    return program


@contextlib.contextmanager
def _plain_frame_mask(encoder: Any) -> Iterator[None]:
    """Gives wav2vec2 and kin a mask of frames without an assignment by index, which would fix the size of the batch."""
    name = "_get_feature_vector_attention_mask"
    if not hasattr(encoder, name):
        yield
        return

    def mask_of(frames: int, mask: torch.Tensor, add_adapter: bool | None = None) -> torch.Tensor:
        options = {} if add_adapter is None else {"add_adapter": add_adapter}
        counts = encoder._get_feat_extract_output_lengths(mask.sum(-1), **options)
        return torch.arange(frames, device=mask.device) < counts[:, None]

    setattr(encoder, name, mask_of)
    try:
        yield
    finally:
        delattr(encoder, name)


def _encoder_linears(program: onnx_ir.Model) -> list[str]:
    """Names of the nodes that multiply with a weight of the encoder."""
    products = (node for node in program.graph.all_nodes() if node.op_type in ("MatMul", "Gemm"))
    key, scope = "pkg.torch.onnx.name_scopes", "'liminal.encoder'"
    return [str(node.name) for node in products if scope in node.metadata_props.get(key, "")]


def _strip_traces(program: onnx_ir.Model) -> None:
    """Removes where in whose source each node was traced: paths of this machine, and a good part of a small file."""
    for graph in program.graphs():
        values = [*graph.inputs, *graph.outputs, *graph.initializers.values()]
        for part in (graph, *graph):
            part.metadata_props.clear()
            part.doc_string = None
        for value in (*values, *(value for node in graph for value in node.outputs)):
            value.metadata_props.clear()


@torch.no_grad()
def _compare(model: LiminalForPADRegression, file: Path, memory: bool, in_8_bits: bool = False) -> None:
    """Runs both on other shapes than were traced, and compares every output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    inputs = _sample(model, memory, rows=8, length=11)
    expected: Any = model(**inputs)
    arrays = {name: value.numpy() for name, value in inputs.items() if name != "memory"}
    if memory:
        arrays |= {f"memory.{field}": inputs["memory"][field].numpy() for field in MEMORY_FIELDS}
    for output, value in zip(session.get_outputs(), session.run(None, arrays), strict=True):
        field = output.name.removeprefix("new_memory.")
        reference = expected.memory[field] if field != output.name else expected[field]
        _check(output.name, value, reference, expected.get("in_domain"), model.config, in_8_bits)


def _check(name: str, value: Any, reference: Any, in_domain: Any, config: LiminalConfig, in_8_bits: bool) -> None:
    """One output beside torch's."""
    if in_8_bits and name not in ("logits", "uncertainty"):
        return
    reference, spread = reference.float().numpy(), max(config.label_std)
    difference = np.abs(value - reference)
    if in_8_bits:
        if name == "uncertainty" and in_domain is not None:
            # Outside of the domain it is widened steeply with in_domain, which 8 bits move by some hundredths.
            difference = difference[(in_domain >= 0.5).numpy()]
        size, limit = float(np.sqrt((difference**2).sum() / max(difference.size, 1))), _LOSS_IN_8_BITS * spread
    else:
        scale = spread if name in ("logits", "uncertainty") else max(1.0, float(np.abs(reference).max()))
        size, limit = float(difference.max(initial=0)), 1e-3 * scale
    if not size <= limit:
        advice = "Export it in float." if in_8_bits else "Another version of torch, transformers or onnxscript may."
        raise LiminalError(
            f"The ONNX model was not written: its {name} differs from torch by {size:.2g}, and {limit:.2g} "
            f"is allowed. This encoder does not export faithfully{' in 8 bits' if in_8_bits else ''}. {advice}"
        )


def _accept_segments(file: Path) -> None:
    """Adds `token_type_ids` to the inputs, with a default: a tokenizer's whole output is then taken as it is."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    like = next(value for value in model.graph.input if value.name == "input_ids")
    segments = onnx.ValueInfoProto(name="token_type_ids", type=like.type)
    model.graph.input.append(segments)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros((1, 1), dtype=np.int64), segments.name))
    onnx.save(model, file)


def _quantize(file: Path, nodes: list[str], large: bool) -> Path:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(file, load_external_data=False)
    # quantize_dynamic transposes the weight of a Gemm (GPT-2's linears) and then trips over its old shape.
    weights = {initializer.name for initializer in graph.graph.initializer}
    kept = [info for info in graph.graph.value_info if info.name not in weights]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(kept)
    onnx.save(graph, file)
    target = file.parent / "int8"
    target.mkdir(exist_ok=True)
    quantize_dynamic(
        file,
        target / file.name,
        # It turns a Gemm into a MatMul of this name first.
        nodes_to_quantize=[name for node in nodes for name in (node, f"{node}_MatMul")],
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        # 7 bits: processors without VNNI add products in 16 bits, which 8 would overflow. Measured on EmoBank, the bit
        # costs nothing; unsigned weights would not overflow either, and are no faster than float.
        reduce_range=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=large,
    )
    return target / file.name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides what the exporters say about their own operators, on standard output and in the logs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
