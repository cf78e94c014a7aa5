"""An exported folder is read as a checkpoint is, with no weights of torch in it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scoring_kit import some_texts, tiny_checkpoint

from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer, score_table
from liminal_hf.scoring.onnx_runtime import OnnxPAD, is_onnx_folder, is_quantized

pytest.importorskip("onnxruntime", reason="needs ONNX: pip install 'liminal_hf[onnx]'")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A checkpoint, and its exports."""
    from liminal_hf.export.onnx import export_onnx

    folder = tmp_path_factory.mktemp("onnx")
    checkpoint = tiny_checkpoint(folder / "torch", steps=1)
    export_onnx(checkpoint, folder / "onnx")
    export_onnx(checkpoint, folder / "int8", quantize="int8", memory=True)
    return {name: str(folder / name) for name in ("torch", "onnx", "int8")}


def test_a_scorer_reads_an_exported_folder(folders: dict[str, str], tmp_path: Path) -> None:
    texts = [*some_texts(20), "", "w3 " * 60]
    expected = Scorer(folders["torch"], threads=1).score(texts)
    scorer = Scorer(folders["onnx"], threads=2)
    found = scorer.score(pd.Series(texts)[::1])
    for name in ("pleasure", "uncertainty_dominance", "confidence"):
        np.testing.assert_allclose(found[name].drop_null(), expected[name].drop_null(), atol=1e-5)
    assert found["truncated"].equals(expected["truncated"]) and found["error"].equals(expected["error"])
    assert is_onnx_folder(folders["onnx"]) and not is_onnx_folder(folders["torch"])
    assert is_quantized(folders["int8"]) and not is_quantized(folders["onnx"])
    assert scorer.identity != Scorer(folders["int8"], conversations=True).identity
    for name, conversations in (("onnx", True), ("int8", False)):
        with pytest.raises(LiminalError, match="was exported with"):
            Scorer(folders[name], conversations=conversations)
    (tmp_path / "a.csv").write_text("text\nw3 w4\n\nw5\n")
    assert score_table(tmp_path / "a.csv", tmp_path / "b.csv", folders["onnx"], threads=1).failed == 0


def test_predict_takes_any_container_and_says_what_was_truncated(folders: dict[str, str]) -> None:
    onnx_model = OnnxPAD(folders["onnx"], threads=1)
    texts = pd.Series(["w3", "w4 " * 60, "w5 w6"], index=[2, 0, 1])
    values = onnx_model.predict(texts)
    assert values["logits"].shape == (3, 3) and values["truncated"].tolist() == [False, True, False]
    for row, text in enumerate(texts):
        np.testing.assert_allclose(onnx_model.predict([text])["logits"][0], values["logits"][row], atol=1e-6)
    for call in (lambda: onnx_model.predict("w3"), lambda: onnx_model.predict(["w3"], max_length=10**6)):
        with pytest.raises(LiminalError):
            call()
    with pytest.warns(DeprecationWarning, match="scoring.onnx_runtime"):
        from liminal_hf.export.onnx import OnnxPAD as old
    assert old is OnnxPAD
