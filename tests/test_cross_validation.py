"""Tests of `scripts/cross_validation.py`: no document on two sides, figures of the joined predictions, kept cells.

Needs scikit-learn and the packaged MiniLM.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from evidence_kit import write_emobank, write_grid
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import cross_validation  # noqa: E402
from research.cells import Cells  # noqa: E402
from research.grid import Grid  # noqa: E402

from liminal_hf import metrics  # noqa: E402
from liminal_hf.data import load_emobank  # noqa: E402
from liminal_hf.inference import read  # noqa: E402
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression  # noqa: E402
from liminal_hf.training.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.nightly

SYSTEMS = [
    {"name": "v7", "kind": "fit", "ours": True},
    {"name": "linear", "kind": "fit", "overrides": {"model.head": "linear"}},
    {"name": "ridge", "kind": "ridge"},
]


@pytest.fixture
def grid(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(write_emobank(tmp_path / "data")))
    return write_grid(tmp_path, minilm, SYSTEMS, compare="v7")


def run(grid: Path, *more: str) -> dict[str, Any]:
    folder = grid.parent
    folders = ["--work", str(folder / "work"), "--results", str(folder / "results")]
    assert cross_validation.main(["--grid", str(grid), "--folds", "2", *folders, *more]) == 0
    return json.loads((folder / "results" / f"{grid.stem}.json").read_text(encoding="utf-8"))


def test_no_document_and_no_text_is_on_two_sides(grid: Path) -> None:
    sentences = cross_validation.Sentences.load(Recipe.from_yaml(grid.parent / "recipe.yaml"))
    corpus = load_emobank()
    assert sentences.texts == [text for rows in corpus.values() for text in rows["text"][:]]
    np.testing.assert_array_equal(sentences.labels[:20], np.asarray(corpus["train"]["labels"][:], dtype=np.float32))
    groups = sentences.groups()
    folds = cross_validation.fold_rows(groups, 4)
    assert sorted(np.concatenate(folds).tolist()) == list(range(40))
    study = cross_validation.CrossValidation(Grid.from_yaml(grid), sentences, 4, grid.parent / "work")
    everywhere = {"This soup is fine."}  # the text that stands in two documents
    for fold in range(4):
        parts = study.of_fold(fold).corpus
        assert sum(len(rows) for rows in parts.values()) == 40 and all(len(rows) for rows in parts.values())
        texts = {split: set(rows["text"][:]) for split, rows in parts.items()}
        assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
        things = {split: {text.split()[1] for text in some - everywhere} for split, some in texts.items()}
        assert not things["train"] & things["test"] and not things["train"] & things["validation"]
        assert not things["validation"] & things["test"]
        # The states travel with their texts.
        row = parts["test"][0]
        where = sentences.texts.index(row["text"])
        np.testing.assert_array_equal(np.float32(row["pooled_embeds"]), sentences.states[where])


def test_a_share_of_whole_groups_is_held_out() -> None:
    groups = np.array([0] * 50 + [1] * 30 + [2] * 5 + [3] * 5 + [4] * 5 + [5] * 5)
    rows = np.arange(100)
    for seed in range(5):
        train, chosen_by = cross_validation.held_out(groups, rows, share=0.1, seed=seed)
        assert len(chosen_by) == 10 and not set(groups[train]) & set(groups[chosen_by])
    # Where every group is larger than the share, the smallest is taken.
    assert len(cross_validation.held_out(groups, rows[:80], share=0.1)[1]) == 30
    with pytest.raises(ValueError, match="2 to 6"):
        cross_validation.fold_rows(groups, 7)


def test_predictions_are_joined_over_the_folds(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run(grid, "--seeds", "0,1")
    systems = table["systems"]
    assert list(systems) == ["v7", "linear", "ridge"] and sum(table["folds"]) == 40 and table["documents"] == 8
    assert systems["v7"]["seeds"] == [0, 1] and systems["ridge"]["seeds"] == [] and "ahead" not in systems["v7"]
    assert systems["ridge"]["r"]["pleasure"] > 0.5
    for name, figure in (("linear", "r"), ("ridge", "ccc"), ("ridge", "mae")):
        gap = systems[name]["ahead"][figure]
        assert gap["mean"] == pytest.approx(systems["v7"][figure]["mean"] - systems[name][figure]["mean"], abs=2e-5)
        assert gap["low"] <= gap["mean"] <= gap["high"]
    assert systems["linear"]["ahead"]["runs"] == systems["ridge"]["ahead"]["runs"] == 4

    sentences = cross_validation.Sentences.load(Recipe.from_yaml(grid.parent / "recipe.yaml"))
    study = cross_validation.CrossValidation(Grid.from_yaml(grid), sentences, 2, grid.parent / "work")
    study.run([0, 1], study.grid.systems)
    labels = sentences.labels.astype(np.float64)
    cells = study.cells(study.grid.systems[2], [0, 1])[None]
    whole = np.empty((40, 3))
    for rows, cell in zip(study.folds, cells, strict=True):
        whole[rows] = cell.test
    assert systems["ridge"]["r"]["mean"] == pytest.approx(metrics.mean_pearson(whole, labels), abs=1e-5)

    text = (grid.parent / "results" / f"{grid.stem}.md").read_text(encoding="utf-8")
    assert cross_validation.markdown(table).strip() in text and "**v7**" in text

    def refuse(*arguments: Any) -> None:
        raise AssertionError("A cell that was kept was computed again.")

    monkeypatch.setattr(Cells, "compute", refuse)
    assert run(grid, "--seeds", "0,1") == table
    with pytest.raises(AssertionError, match="computed again"):
        run(grid, "--seeds", "0,1,2")
    assert cross_validation.main(["--grid", str(grid), "--only", "v9"]) == 2


def test_what_has_seen_the_folds_is_refused(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe.from_yaml(grid.parent / "recipe.yaml").override({"distill": {"teachers": ["somewhere"]}})
    (grid.parent / "taught.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    taught = {"name": "taught", "kind": "fit", "recipe": "taught.yaml"}
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    for system in (taught, {"name": "trial", "kind": "trial", "trial": {"agreement": True}}):
        grid.write_text(yaml.safe_dump(content | {"systems": [*SYSTEMS, system]}), encoding="utf-8")
        assert cross_validation.main(["--grid", str(grid), "--folds", "2"]) == 2
        assert "can't be cross-validated" in capsys.readouterr().err


def test_a_tuned_encoder_is_read_by_itself_and_not_by_the_states_at_hand(grid: Path) -> None:
    recipe = Recipe.from_yaml(grid.parent / "recipe.yaml")
    settings = {"num_train_epochs": 1, "learning_rate": 1e-3, "use_cpu": True}
    phases = [
        {"name": "tune", "trainable": "all", "training": settings},
        {"name": "head", "trainable": "head", "cache": True, "training": settings},
    ]
    (grid.parent / "tuned.yaml").write_text(recipe.override({"phases": phases}).to_yaml(), encoding="utf-8")
    systems = [{"name": "tuned", "kind": "fit", "recipe": "tuned.yaml"}]
    tuned = Grid.from_yaml(write_grid(grid.parent, Path(recipe.model["encoder"]), systems))
    sentences = cross_validation.Sentences.load(recipe)
    bench = cross_validation.CrossValidation(tuned, sentences, 2, grid.parent / "work").of_fold(0)
    cell = bench.compute(tuned.systems[0], 0, grid.parent / "run")
    model = LiminalForPADRegression.from_pretrained(grid.parent / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(grid.parent / "run" / "model")
    expected = read(model, tokenizer, bench.corpus["test"]["text"][:])["logits"]
    np.testing.assert_allclose(cell.test, expected, atol=1e-5)
