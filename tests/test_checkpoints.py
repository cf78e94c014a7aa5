"""The checkpoints that ship: their size, their facts, and that they answer where their encoder is at hand."""

import json
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache
from transformers import pipeline

import liminal_hf
from liminal_hf import LiminalForPADRegression
from liminal_hf.export.checkpoint import find_checkpoint

MPNET = "sentence-transformers/all-mpnet-base-v2"


@pytest.mark.parametrize("name", list(liminal_hf.checkpoints))
def test_a_checkpoint_that_ships_is_small_and_says_what_it_is(name: str) -> None:
    folder = Path(liminal_hf.checkpoints[name])
    assert find_checkpoint(name) == str(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12_000_000
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["weights_format"] == "head_only" and len(config["encoder_revision"]) == 40
    assert config["domain_gauge"] and config["neutral_width"] and config["residual_quantiles"]
    facts = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    assert facts["recipe"]["hub"]["license"] == "cc-by-sa-4.0" and facts["metrics"]["test"]["pearson_mean"] > 0.57
    assert not list(folder.glob("*.py")), "the package is its code"


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mpnet").mkdir()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        find_checkpoint("mpnet")


def test_mpnet_answers() -> None:
    source = liminal_hf.checkpoints["mpnet"]
    revision = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))["encoder_revision"]
    if not isinstance(try_to_load_from_cache(MPNET, "model.safetensors", revision=revision), str):
        pytest.skip("all-mpnet-base-v2 is not in the Hub's cache: python scripts/encoders.py mpnet")
    model = LiminalForPADRegression.from_pretrained(source)
    assert len(model.liminal.encoder.encoder.layer) == 12
    happy, sad, foreign = pipeline("pad-regression", model=source)(
        ["What a lovely surprise!", "My grandmother died last night.", "Ich bin heute sehr traurig."]
    )
    assert happy["pleasure"] > 0.3 > -0.3 > sad["pleasure"] and foreign["in_domain"] < 0.5
