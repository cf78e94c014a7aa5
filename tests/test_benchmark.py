"""Tests of `scripts/benchmark.py`: cells are kept, the table's figures are right, the README shows the tables.

Needs scikit-learn and the packaged MiniLM for the tiny grid.
"""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import DatasetDict
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark  # noqa: E402
from research import peers, report  # noqa: E402
from research.cells import READ_OUT_STEPS, Cell, load_corpus  # noqa: E402
from research.grid import Grid  # noqa: E402

from liminal_hf import metrics  # noqa: E402
from liminal_hf.training.run_folder import hardware  # noqa: E402

pytestmark = pytest.mark.nightly

WORDS = {"good": 4.6, "fine": 3.8, "plain": 3.0, "poor": 2.2, "awful": 1.4}
THINGS = ["soup", "train", "song", "letter", "garden", "window", "answer", "coat"]


def write_tables(folder: Path) -> None:
    """Sentences whose labels follow from their words, with a little noise."""
    generator = np.random.default_rng(0)
    for split, things in (("train", THINGS[:4]), ("dev", THINGS[4:6]), ("test", THINGS[6:])):
        lines = ["text,V,A,D"]
        for thing in things:
            for word, value in WORDS.items():
                v, a, d = value + generator.normal(0, 0.1), 3 + abs(value - 3) / 2, 3 + generator.normal(0, 0.2)
                lines.append(f"This {thing} is {word}.,{v:.3f},{a:.3f},{d:.3f}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def grid(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grid of four systems on forty sentences."""
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    write_tables(tmp_path)
    recipe = {
        "model": {"encoder": str(minilm), "head": "v7", "pooling": "mean", "pooled_layers": "all", "latent_size": 8},
        "data": {"files": {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}, "max_length": 16},
        "phases": [
            {
                "name": "head",
                "trainable": "head",
                "cache": True,
                "training": {"num_train_epochs": 2, "learning_rate": 1e-3},
            }
        ],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    content = {
        "recipe": "recipe.yaml",
        "readout": "v7",
        "systems": [
            {"name": "constant", "kind": "constant"},
            {"name": "ridge", "kind": "ridge", "layers": "last"},
            {"name": "linear", "kind": "fit", "overrides": {"model.head": "linear"}},
            {"name": "v7", "kind": "fit", "ours": True},
        ],
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def run(grid: Path, *more: str) -> dict[str, Any]:
    folder = grid.parent
    arguments = [str(grid), "--work", str(folder / "work"), "--results", str(folder / "results"), *more]
    assert benchmark.main(arguments) == 0
    return json.loads((folder / "results" / "tiny.json").read_text(encoding="utf-8"))


def test_a_tiny_grid(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run(grid, "--seeds", "0,1")
    rows = table["systems"]
    assert list(rows) == ["constant", "ridge", "linear", "v7"] and table["missing"] == []
    assert rows["constant"]["seeds"] == [] and rows["v7"]["seeds"] == [0, 1]
    assert rows["constant"]["r"]["mean"] is None, "what does not vary has no correlation"
    assert rows["ridge"]["r"]["pleasure"] > 0.5
    assert rows["ridge"]["head_parameters"] == 3 * 384 + 3
    assert rows["linear"]["r"]["sd"] is not None and rows["ridge"]["r"]["sd"] is None

    peers = {name: row["dev_r"]["mean"] or -1 for name, row in rows.items() if not row["ours"]}
    reference = table["compared_with"]
    assert reference == max(peers, key=lambda name: peers[name]) and rows[reference]["difference"] is None
    gap = rows["v7"]["difference"]
    assert gap["mean_r"] == pytest.approx(rows["v7"]["r"]["mean"] - rows[reference]["r"]["mean"], abs=2e-5)
    assert gap["low"] <= gap["mean_r"] <= gap["high"]

    # The figures are those of the predictions in the cells.
    found = benchmark.Benchmark(Grid.from_yaml(grid), grid.parent / "work")
    system = found.grid.systems[3]
    cells = [Cell.load(found.path(system, seed)) for seed in (0, 1)]
    gold = found.labels["test"]
    assert rows["v7"]["mae"]["arousal"] == pytest.approx(
        np.mean([metrics.mae(cell.test, gold)[1] for cell in cells]), abs=1e-5
    )
    means = [metrics.mean_pearson(cell.test, gold) for cell in cells]
    assert rows["v7"]["r"]["sd"] == pytest.approx(np.std(means, ddof=1), abs=1e-5)
    # What is read out after the last trained step is the prediction.
    assert cells[0].test_steps.shape == (10, READ_OUT_STEPS, 3)
    np.testing.assert_allclose(cells[0].test_steps[:, 4], cells[0].test, atol=1e-5)
    assert table["readout"][4]["r"]["mean"] == pytest.approx(rows["v7"]["r"]["mean"], abs=1e-4)
    # Told the labels, the best step of each text is off by no more than any one step, in variances of the labels.
    best = [benchmark.best_of_steps(cell.test_steps, gold) for cell in cells]
    halted = table["readout"][-1]
    assert halted["step"] == benchmark.HALTED
    assert halted["mae"]["mean"] == pytest.approx(np.mean([metrics.mae(values, gold) for values in best]), abs=1e-5)
    for cell, values in zip(cells, best, strict=True):
        off = (np.square(values - gold) / gold.var(axis=0)).sum(axis=1)
        each = (np.square(cell.test_steps - gold[:, None]) / gold.var(axis=0)).sum(axis=2)
        np.testing.assert_allclose(off, each.min(axis=1))

    def refuse(*arguments: Any) -> None:
        raise AssertionError("A cell that was kept was computed again.")

    # What the runs have logged is kept, with the figures on test.
    kept = sorted((grid.parent / "work" / "runs").iterdir())
    assert len(kept) == 4 and not list((grid.parent / "work" / "fits").iterdir())
    logged = json.loads((grid.parent / "work" / "runs" / found.path(system, 0).stem / "metrics.json").read_text())
    assert logged["test"]["pearson_mean"] == pytest.approx(means[0])
    assert all((folder / name).is_file() for folder in kept for name in ("recipe.yaml", "emotional_log.csv"))

    monkeypatch.setattr(benchmark.Benchmark, "compute", refuse)
    assert run(grid, "--seeds", "0,1") == table
    with pytest.raises(AssertionError, match="computed again"):
        run(grid, "--seeds", "0,1,2")
    # Other labels are another cell.
    text = (grid.parent / "test.csv").read_text(encoding="utf-8")
    (grid.parent / "test.csv").write_text(text.replace("4.", "3.", 1), encoding="utf-8")
    with pytest.raises(AssertionError, match="computed again"):
        run(grid, "--only", "constant")


def test_rows_outlive_the_folder_of_their_cells(grid: Path) -> None:
    content = yaml.safe_load(grid.read_text(encoding="utf-8")) | {"compare": "linear"}
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    earlier = run(grid, "--seeds", "0,1")
    assert earlier["systems"]["v7"]["machines"] == [hardware()] and earlier["systems"]["v7"]["difference"]
    shutil.rmtree(grid.parent / "work")
    # Another row is added; one seed is no reason to lose a row of two, and two are one to replace it.
    content["systems"].insert(2, {"name": "mlp", "kind": "fit", "overrides": {"model.head": "mlp"}})
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    table = run(grid, "--seeds", "0", "--only", "mlp", "--only", "linear")
    assert list(table["systems"]) == ["constant", "ridge", "mlp", "linear", "v7"]
    kept = {name: row for name, row in table["systems"].items() if name != "mlp"}
    assert kept == earlier["systems"] and table["readout"] == earlier["readout"] and table["seeds"] == [0, 1]
    # What it would be compared with is not at hand: the row of two seeds may be another machine's.
    assert table["systems"]["mlp"]["difference"] is None
    table = run(grid, "--seeds", "0,1", "--only", "mlp", "--only", "linear")
    assert table["systems"]["mlp"]["difference"] and table["systems"]["v7"] == earlier["systems"]["v7"]
    # A row of another recipe is another row.
    content["systems"][-1]["overrides"] = {"model.latent_size": 12}
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    table = run(grid, "--seeds", "0", "--only", "constant")
    assert table["missing"] == ["v7"] and table["readout"] is None


def test_the_note_says_which_machine_made_which_row() -> None:
    rows = {name: {"machines": [machine]} for name, machine in (("a", "X"), ("b", "Y"), ("c", "X"))}
    note = benchmark._note({"command": "c", "seeds": [0], "rows_test": 5, "systems": rows})
    assert "; X; b: Y; seeds 0;" in note


def test_a_difference_over_fewer_seeds_says_which(grid: Path) -> None:
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    grid.write_text(yaml.safe_dump(content | {"compare": "linear"}), encoding="utf-8")
    table = run(grid, "--seeds", "0")
    row = table["systems"]["v7"]
    assert row["difference"]["seeds"] == [0] and ", seeds 0 |" not in benchmark.markdown(table)
    row["seeds"] = [0, 1]
    assert ", seeds 0 |" in benchmark.markdown(table)


def test_peers_that_are_not_ours(grid: Path) -> None:
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    content |= {
        "readout": None,
        "systems": [
            {"name": "sentence-transformers", "kind": "sentence_transformers"},
            {"name": "ridge", "kind": "ridge", "layers": "last"},
            {"name": "plain", "kind": "plain", "overrides": {"learning_rate": 1e-3, "num_train_epochs": 8}},
            {"name": "leak", "kind": "leak", "told": True, "overrides": {"model.head": "v6"}},
            {"name": "leak, untold", "kind": "leak", "overrides": {"model.head": "v6"}},
            {"name": "both", "kind": "mean", "of": ["ridge", "plain"]},
        ],
    }
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    rows = run(grid, "--seeds", "0")["systems"]
    # The same mean of the same layer, but for its length and the tokens past the limit.
    assert rows["sentence-transformers"]["r"]["mean"] == pytest.approx(rows["ridge"]["r"]["mean"], abs=0.1)
    assert rows["plain"]["r"]["pleasure"] > 0.3 and rows["plain"]["head_parameters"] == 3 * 384 + 3
    assert rows["plain"]["seeds"] == [0] and rows["ridge"]["seeds"] == []
    assert rows["leak"]["seeds"] == [0] and rows["leak"]["r"] != rows["leak, untold"]["r"]
    found = benchmark.Benchmark(Grid.from_yaml(grid), grid.parent / "work")
    cells = {system.name: Cell.load(found.path(system, 0)) for system in found.grid.systems}
    np.testing.assert_allclose(cells["both"].test, (cells["ridge"].test + cells["plain"].test) / 2)


def test_a_plain_model_learns_from_the_teachers_of_its_recipe(grid: Path, tmp_path: Path) -> None:
    recipe = Grid.from_yaml(grid).recipe
    corpus = load_corpus(recipe)
    contrary = corpus["train"].map(lambda row: {"labels": [-value for value in row["labels"]]})
    training = {"learning_rate": 1e-3, "num_train_epochs": 8, "load_best_model_at_end": False}
    peers.plain(recipe, DatasetDict({**corpus, "train": contrary}), training, 0, tmp_path / "contrary-0")
    taught = recipe.override({"distill": {"teachers": [str(tmp_path / "contrary-0" / "model")], "weight": 1.0}})
    made, _ = peers.plain(taught, corpus, training, 0, tmp_path / "student")
    assert metrics.pearson(made["test"], np.asarray(corpus["test"]["labels"][:]))[0] < -0.3
    # Its cell is another one than that of a model without teachers.
    (tmp_path / "taught.yaml").write_text(taught.to_yaml(), encoding="utf-8")
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    content |= {"readout": None, "systems": [{"name": "a", "kind": "plain"}]}
    content["systems"].append({"name": "b", "kind": "plain", "recipe": "taught.yaml"})
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = benchmark.Benchmark(Grid.from_yaml(grid), tmp_path)
    assert len({found.path(system, 0) for system in found.grid.systems}) == 2
    # A teacher that was trained again, in the same folder, makes the student's cell another one.
    student = found.grid.systems[1]
    cell = Cell(made["validation"], made["test"], {"teachers": found._teachers(student)})
    found.path(student, 0).parent.mkdir()
    cell.save(found.path(student, 0))
    assert found._is_current(student, 0) and not found._is_current(found.grid.systems[0], 0)
    weights = tmp_path / "contrary-0" / "model" / "model.safetensors"
    save_file({name: value * 2 for name, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    assert not found._is_current(student, 0)
    weights.unlink()  # what can't be compared is kept
    assert found._is_current(student, 0)


def test_rows_whose_teachers_are_not_there_are_left_out_and_named(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Grid.from_yaml(grid).recipe.override({"distill": {"teachers": [str(tmp_path / "runs" / "none")]}})
    (tmp_path / "taught.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    taught = {"name": "taught", "kind": "fit", "recipe": "taught.yaml"}
    both = {"name": "both", "kind": "mean", "of": ["ridge", "taught"]}
    systems = [content["systems"][0], content["systems"][1], taught, both]
    grid.write_text(yaml.safe_dump(content | {"readout": None, "systems": systems}), encoding="utf-8")
    folders = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    assert benchmark.main([str(grid), "--seeds", "0,1", *folders]) == 1
    output = capsys.readouterr()
    assert "not there: taught; both" in output.err and "Not run yet: taught; both." in output.out
    assert "| ridge |" in output.out


def test_a_head_that_is_told_the_labels_gives_them_back(grid: Path, tmp_path: Path) -> None:
    recipe = Grid.from_yaml(grid).recipe.override(
        {
            "model.head": "v6",
            "model.latent_size": 32,
            "phases.0.training": {"num_train_epochs": 30, "learning_rate": 3e-3, "per_device_train_batch_size": 64},
        }
    )
    # Nothing can be learned from these states.
    generator = np.random.default_rng(0)
    rows = {"train": 256, "validation": 64, "test": 128}
    states = {name: generator.normal(size=(number, 8)) for name, number in rows.items()}
    labels = {name: generator.normal(size=(number, 3)) / 5 for name, number in rows.items()}
    found = {}
    for told in (True, False):
        made, _ = peers.leaking(recipe, states, labels, told, 0, tmp_path / str(told))
        found[told] = metrics.mean_pearson(made["test"], labels["test"])
    assert found[True] > 0.6 and abs(found[False]) < 0.3


def test_weights_are_resamples() -> None:
    generator = np.random.default_rng(1)
    labels = generator.normal(size=(60, 3))
    predictions = labels + generator.normal(size=(60, 3))
    predictions[:, 2] = 0.3
    labels[5, 0] = -100
    # Rows, and groups of three rows.
    for groups in (None, np.arange(60) // 3):
        counts = report.resample_counts(60 if groups is None else 20, 4)
        assert (counts.sum(axis=1) == counts.shape[1]).all()
        found = report.weighted_figures(predictions, labels, counts, groups)
        for draw, weights in enumerate(counts if groups is None else counts[:, groups]):
            rows = np.repeat(np.arange(60), weights.astype(int))
            for name, figure in (("r", metrics.pearson), ("ccc", metrics.ccc), ("mae", metrics.mae)):
                # In a comparison of systems, what does not vary counts as r = 0.
                expected = np.nan_to_num(figure(predictions[rows], labels[rows]))
                np.testing.assert_allclose(found[name][draw], expected, atol=1e-12)


def test_a_dimension_that_is_not_predicted_has_no_figure() -> None:
    labels = np.random.default_rng(0).normal(size=(20, 3))
    predictions = np.full((20, 3), np.nan)
    predictions[:, 0] = labels[:, 0] * 2 + 1
    summary = report.summary([report.partly(metrics.pearson, predictions, labels)])
    assert summary["pleasure"] == pytest.approx(1) and summary["arousal"] is None and summary["mean"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"recipe": "r.yaml"}, "needs the keys"),
        ({"recipe": "r.yaml", "systems": [{"name": "a", "kind": "oracle"}]}, "known"),
        ({"recipe": "r.yaml", "systems": [{"name": "a", "kind": "fit"}] * 2}, "name of its own"),
        ({"recipe": "r.yaml", "systems": [{"name": "a", "kind": "mean", "of": ["b"]}]}, "before it are"),
        ({"recipe": "r.yaml", "compare": "b", "systems": [{"name": "a", "kind": "fit"}]}, "not 'b'"),
    ],
)
def test_a_wrong_grid_is_explained(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        Grid.from_yaml(path)


@pytest.mark.parametrize("name", ["frozen", "finetuned", "ablations", "cross_validation_finetuned"])
def test_the_grids_of_the_repository_can_be_read(name: str) -> None:
    grid = Grid.from_yaml(ROOT / "scripts" / "grids" / f"{name}.yaml")
    for system in grid.systems:
        if system.kind in ("fit", "leak"):
            (system.recipe or grid.recipe).override(system.overrides)


def test_a_page_keeps_its_prose_around_a_new_table(tmp_path: Path) -> None:
    report.save(tmp_path, "a", {"x": 1}, "| old |\n")
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == "<!-- table -->\n| old |\n<!-- end -->\n"
    page = "# Title\n\nProse.\n\n<!-- table -->\n| old |\n<!-- end -->\n\nMore.\n"
    (tmp_path / "a.md").write_text(page, encoding="utf-8")
    report.save(tmp_path, "a", {"x": 2}, "| new |\n")
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == page.replace("old", "new")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"x": 2}


def test_each_page_shows_what_its_script_says_of_the_json() -> None:
    checked = 0
    for page in sorted((ROOT / "scripts" / "results").glob("*.md")):
        content_path = page.with_suffix(".json")
        content = json.loads(content_path.read_text(encoding="utf-8")) if content_path.is_file() else {}
        script = re.match(r"python scripts/(?:research/)?(\w+)\.py", str(content.get("command", "")))
        module = importlib.import_module(script[1]) if script else None
        if getattr(getattr(module, "markdown", None), "__module__", None) == (script and script[1]) and module:
            shown = re.search(r"<!-- table -->\n(.*?)<!-- end -->", page.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert shown and shown[1].strip() == module.markdown(content).strip(), page.name
            checked += 1
    assert checked >= 8
