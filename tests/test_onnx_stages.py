"""ONNX of head v8 in stages: no stage is run that no text needs, and each text has the answer of its exit."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import MINILM, padded, tokens
from test_depth import LAYERS, deep_model, dividing

from liminal_hf import LiminalForPADRegression
from liminal_hf.export.onnx import export_onnx
from liminal_hf.export.onnx_stages import STAGE_FILE, OnnxStages
from liminal_hf.modeling.encoders import load_tokenizer
from liminal_hf.scoring import Scorer
from liminal_hf.scoring.onnx_runtime import OnnxPAD

PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")


def products(file: Path) -> int:
    return sum(node.op_type in PRODUCTS for node in onnx.load(file).graph.node)


@pytest.mark.parametrize(
    "family", ["bert", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("mpnet", "gpt2", "t5", "llama"))]
)
@torch.no_grad()
def test_each_text_has_the_answer_of_its_exit_and_no_stage_is_run_in_vain(family: str, tmp_path: Path) -> None:
    model = deep_model(family, label_std=[0.3, 0.2, 0.2])
    batch = padded(tokens(), "right", 9, 0)
    model.config.exit_threshold = dividing(model, batch)
    export_onnx(model, tmp_path)  # compares every step with torch
    expected = model(**batch)
    pad = OnnxPAD(tmp_path)
    arrays = {name: value.numpy() for name, value in batch.items()}
    together = pad.read(arrays)
    assert together["depth"].tolist() == expected.depth.tolist() and len(set(expected.depth.tolist())) > 1
    for name in ("logits", "uncertainty", "in_domain"):
        torch.testing.assert_close(torch.from_numpy(together[name]), expected[name], atol=1e-5, rtol=0)
        # A row's answer is its own, whoever is read beside it and however it is padded.
        for row, text in enumerate(tokens()):
            alone = padded([text], "right", len(text), 0)
            value = pad.read({key: one.numpy() for key, one in alone.items()})[name]
            np.testing.assert_allclose(value[0], together[name][row], atol=1e-5)
    assert "model_stage_*.onnx" in (tmp_path / "README.md").read_text(encoding="utf-8")
    # Each layer is in one stage alone.
    files = [tmp_path / STAGE_FILE.format(step) for step in range(LAYERS)]
    assert sum(map(products, files)) == products(tmp_path / "model.onnx")
    stages = OnnxStages(tmp_path)
    stages.sessions[1:] = [None] * (LAYERS - 1)  # whoever runs them fails
    assert stages.run(arrays, 1e9)["depth"].tolist() == [1] * 4
    if family == "bert":
        # A model that reads to the end leaves no stages of an earlier export behind.
        model.config.exit_threshold = None
        export_onnx(model, tmp_path)
        assert not list(tmp_path.glob(STAGE_FILE.format("*"))) and OnnxPAD(tmp_path).stages is None


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_a_scorer_in_8_bits_reads_minilm_no_deeper_than_asked(tmp_path: Path) -> None:
    model: Any = LiminalForPADRegression.from_encoder_pretrained(MINILM, head="v8", latent_size=16).eval()
    tokenizer = load_tokenizer(MINILM)
    texts = ["What a lovely surprise!", "The train leaves at nine.", "I hate this, and I hate you, too.", None, "No."]
    model.config.exit_threshold = 1e9
    scorer = Scorer(model, "int8", tokenizer=tokenizer, threads=1)
    table = scorer.score(texts)
    assert table["error"].to_pylist() == [None] * 3 + ["no text (missing value)", None]
    run: Any = scorer._run
    pad: OnnxPAD = run.__self__
    tokens = dict(tokenizer(texts[2], return_tensors="np"))
    assert pad.stages is not None
    shallow, deep, whole = pad.read(tokens), pad.stages.run(tokens, -1e9), pad.run(tokens)
    assert (shallow["depth"].tolist(), deep["depth"].tolist(), whole["depth"].tolist()) == ([1], [6], [1])
    np.testing.assert_allclose(shallow["logits"], whole["logits"], atol=1e-4)  # it has read all, and says the same
    assert np.abs(deep["logits"] - whole["logits"]).max() > 0.01
    folder = pad.folder
    sizes = [(folder / STAGE_FILE.format(step)).stat().st_size for step in range(6)]
    assert sum(sizes) < 1.05 * (folder / "model.onnx").stat().st_size, "each weight is in one stage alone"
