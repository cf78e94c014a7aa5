"""A small ONNX file for machines of strangers: weights of 8 bits, computed with in float.

Requires the extra `onnx`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.errors import LiminalError
from .onnx_stages import INSTALL

# Smaller weights stay as they are: they are a few hundredths of the file.
_LEAST_NUMBERS = 100_000
OUTPUTS = ("logits", "uncertainty", "in_domain")


def shrink(source: Path, target: Path) -> None:
    """Writes an exported model again, with its large weights in 8 bits.

    Each row of an embedding, and each column of another weight, gets a scale of its own. Unlike in `quantize="int8"` of
    `export_onnx`, embeddings are among them and nothing that is computed is rounded: every machine gets the same
    numbers to a millionth, where a rounding that goes the other way moves an answer by some thousandths. Only the
    answers themselves stay among the outputs, `input_ids` and `attention_mask` among the inputs.

    Args:
        source: a model.onnx from `export_onnx`, in float, without memory.
        target: the file to write.

    Raises:
        LiminalError: the model has nothing that could be made smaller.
        ImportError: the extra is not installed.

    Example:
        >>> import onnx
        >>> weight = onnx.numpy_helper.from_array(np.ones((400, 300), np.float32), "weight")
        >>> product = onnx.helper.make_node("MatMul", ["input_ids", "weight"], ["logits"])
        >>> given = onnx.helper.make_tensor_value_info("input_ids", 1, [1, 400])
        >>> found = onnx.helper.make_tensor_value_info("logits", 1, [1, 300])
        >>> graph = onnx.helper.make_graph([product], "product", [given], [found], [weight])
        >>> onnx.save(onnx.helper.make_model(graph), "float.onnx")
        >>> shrink(Path("float.onnx"), Path("small.onnx"))
        >>> Path("small.onnx").stat().st_size < 0.3 * Path("float.onnx").stat().st_size
        True
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"{INSTALL} ({error})") from error
    model = onnx.load(source)
    graph, node, array = model.graph, onnx.helper.make_node, onnx.numpy_helper.from_array
    large = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) == 2
        and np.prod(tensor.dims) >= _LEAST_NUMBERS
    }
    uses = [name for one in graph.node for name in one.input]
    nodes: list[Any] = []
    done = 0
    for one in graph.node:
        place = {"Gather": 0, "MatMul": 1}.get(one.op_type)
        name: Any = None if place is None else one.input[place]
        # By rows 0 is the default of Gather; no other table has that many words.
        by_columns = place == 0 and any(part.i for part in one.attribute)
        if place is None or name not in large or uses.count(name) > 1 or by_columns:
            nodes.append(one)
            continue
        weight = onnx.numpy_helper.to_array(large[name])
        scale = np.abs(weight).max(axis=1 - place, keepdims=True) / 127
        scale = np.where(scale == 0, 1, scale).astype(np.float32)
        graph.initializer.remove(large[name])
        small, scales = f"{name}_int8", f"{name}_scale"
        graph.initializer.extend([array(np.rint(weight / scale).astype(np.int8), small), array(scale, scales)])
        if place == 0:
            # Only the rows that are read become float. The others stay small in memory too.
            rows, factors = f"{one.output[0]}_int8", f"{one.output[0]}_scale"
            nodes += [node("Gather", [small, one.input[1]], [rows]), node("Gather", [scales, one.input[1]], [factors])]
            small, scales, name = rows, factors, one.output[0]
        # No DequantizeLinear: onnxruntime would take that as leave to round what it is multiplied with.
        nodes += [node("Cast", [small], [f"{name}_float"], to=1), node("Mul", [f"{name}_float", scales], [name])]
        nodes += [one] if place == 1 else []
        done += 1
    if not done:
        raise LiminalError(f"{source} has no large weights in float. Export it without --int8.")
    del graph.node[:]
    graph.node.extend(nodes)
    for values, kept in ((graph.output, OUTPUTS), (graph.input, ("input_ids", "attention_mask"))):
        for value in [value for value in values if value.name not in kept]:
            values.remove(value)
    onnx.save(model, target)
