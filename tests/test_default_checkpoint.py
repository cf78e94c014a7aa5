"""Tests of `scripts/build_default_checkpoint.py`: with a teacher, on small tables and the packaged MiniLM."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MINILM
from training_kit import small_recipe
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import build_default_checkpoint as script  # noqa: E402

from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression  # noqa: E402
from liminal_hf.training.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.nightly


@pytest.fixture
def recipe(tmp_path: Path, minilm: Path) -> Path:
    """`taught.yaml`, which learns from seed 3 of `small.yaml` beside it and twice from a plain fine-tune."""
    # A checkpoint of the head alone names its encoder, so this one has a name.
    named = {"model.encoder": MINILM, "model.revision": None}
    small = small_recipe(tmp_path).override(named)
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "small.yaml").write_text(small.to_yaml(), encoding="utf-8")
    folders = [str(tmp_path / "runs" / name / "model") for name in ("small-3", "plain-4", "plain-4")]
    distill = {"teachers": folders, "weight": 0.5}
    (folder / "taught.yaml").write_text(small.override({"distill": distill}).to_yaml(), encoding="utf-8")
    return folder / "taught.yaml"


def build(recipe: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Path:
    target, work = recipe.parents[1] / "default", recipe.parents[1] / "runs" / "default"
    monkeypatch.setattr(script, "DEFAULT_CHECKPOINT", str(target))
    monkeypatch.setattr(sys, "argv", ["build", "--recipe", str(recipe), "--work", str(work), *options])
    script.main()
    return target


def test_it_trains_the_teachers_then_the_model(recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert not build(recipe, monkeypatch, "--teachers-only").exists()
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in printed if " in " in line] == ["small", "plain"]
    target = build(recipe, monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    started = [line.split(",")[0] for line in printed if " in " in line]
    assert started == ["small", "plain", "taught"] and sum(line.startswith("test: mean r") for line in printed) == 2
    runs = recipe.parents[1] / "runs"
    assert json.loads((runs / "small-3" / "metrics.json").read_text(encoding="utf-8"))["seed"] == 3
    names = {path.name for path in target.iterdir()}
    assert "model.safetensors" in names and not any(name.endswith(".py") for name in names)
    plain = AutoModelForSequenceClassification.from_pretrained(runs / "plain-4" / "model")
    assert type(plain).__name__ == "BertForSequenceClassification" and plain.config.problem_type == "regression"
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    assert "auto_map" not in config and "custom_pipelines" not in config
    card = (target / "README.md").read_text(encoding="utf-8")
    assert "50% of the target is the mean of small-3, plain-4 (2 times)" in card and str(recipe.parents[1]) not in card
    # The folder answers as the run does.
    batch = AutoTokenizer.from_pretrained(target)(["w3 w4", "w17"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        small = AutoModelForSequenceClassification.from_pretrained(target).eval()(**batch).logits
        whole = LiminalForPADRegression.from_pretrained(runs / "default" / "model").eval()(**batch).logits
    assert torch.equal(small, whole)


def test_a_plain_teacher_of_other_settings_is_not_taken(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "plain-4"
    script.train_plain(recipe, 4, run)
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    script.train_plain(recipe, 4, run)
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before
    # A student with another head has the same teacher.
    other = recipe.with_name("other.yaml")
    other.write_text(Recipe.from_yaml(recipe).override({"model.latent_size": 24}).to_yaml(), encoding="utf-8")
    script.train_plain(other, 4, run)
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds another model"):
        script.train_plain(recipe, 5, run)


def test_a_teacher_of_unknown_origin_is_an_error(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("small-3", "someone"), encoding="utf-8")
    with pytest.raises(ValueError, match="not the `model` of a run RECIPE-SEED"):
        build(recipe, monkeypatch)
