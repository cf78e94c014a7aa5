"""Models of sounds and images in ONNX: inputs by their names, the numbers of torch, other sizes than were traced."""

from pathlib import Path

import numpy as np
import pytest
import torch
from senses_kit import BY_DEFAULT, SENSES, processor, sense_model, signals_and_labels

from liminal_hf.export.onnx import export_onnx
from liminal_hf.inference import read
from liminal_hf.scoring.onnx_runtime import OnnxPAD

pytest.importorskip("onnxruntime")
INPUTS = {"wav2vec2": ["input_values", "attention_mask"], "vit": ["pixel_values"]}
FAMILIES = [pytest.param(name, marks=[] if name in BY_DEFAULT else pytest.mark.nightly) for name in SENSES]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_onnx_gives_what_torch_gives(family: str, tmp_path: Path) -> None:
    model = sense_model(family, pooled_layers="all")
    export_onnx(model, tmp_path, tokenizer=processor(family))
    runtime = OnnxPAD(tmp_path)
    assert runtime.input_names == INPUTS.get(family, runtime.input_names)
    signals = signals_and_labels(family, 5, 0)[0]
    expected = read(model, processor(family), signals, batch_size=5)
    for size in (1, 5):
        values = runtime.predict(signals, batch_size=size)
        for name in ("logits", "uncertainty"):
            np.testing.assert_allclose(values[name], expected[name], atol=1e-4)
