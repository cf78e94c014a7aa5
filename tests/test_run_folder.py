"""The folder of a run: results whole or not at all, the lock, whose folder it is."""

import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from training_kit import phase, small_recipe

from liminal_hf.modeling.pooling import POOLERS
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.run_folder import PhaseResult, RunFolder, RunInProgressError, RunMismatchError


def result() -> PhaseResult:
    return PhaseResult({"steps": 3}, {"w": torch.arange(4.0)}, {"w.A": torch.ones(1)}, {"pooled_scale": 2.0})


def recipe(**changes: object) -> Recipe:
    base = {"model": {"encoder": "gpt2"}, "data": {"dataset": "emobank"}, "phases": [{"name": "one"}]}
    return Recipe.from_dict({**base, **changes})


def data(label: float = 0.5) -> DatasetDict:
    return DatasetDict({"train": Dataset.from_dict({"text": ["a"], "labels": [[label, 0.0, 0.0]]})})


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    result().write(tmp_path / "result")
    found = PhaseResult.read(tmp_path / "result")
    assert found is not None
    assert (found.report, found.fields) == ({"steps": 3}, {"pooled_scale": 2.0})
    assert torch.equal(found.weights["w"], torch.arange(4.0)) and found.pairs.keys() == {"w.A"}
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
    result().write(tmp_path / "result")  # over the old one
    assert PhaseResult.read(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["weights.safetensors", "low_rank.safetensors", "report.json"])
@pytest.mark.parametrize("fault", ["cut", "flipped", "gone", "empty"])
def test_a_damaged_result_counts_as_none(tmp_path: Path, name: str, fault: str) -> None:
    folder = tmp_path / "result"
    result().write(folder)
    path = folder / name
    content = bytearray(path.read_bytes())
    if fault == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0x80
        path.write_bytes({"cut": content[:-7], "flipped": content, "empty": b""}[fault])
    assert PhaseResult.read(folder) is None


def test_the_folder_knows_its_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(recipe(), data(), anew=False)
    folder.claim(recipe(name="other name", hub={"repo_id": "a/b"}), data(), anew=False)
    with pytest.raises(RunMismatchError, match=r"different: model, seed"):
        folder.claim(recipe(model={"encoder": "bert"}, seed=1), data(), anew=False)
    with pytest.raises(RunMismatchError, match="another data set"):
        folder.claim(recipe(), data(0.25), anew=False)
    folder.phases.mkdir()
    folder.claim(recipe(), data(0.25), anew=True)
    assert not folder.phases.exists()
    folder.run.write_text("{")
    with pytest.raises(RunMismatchError, match="can't be read"):
        folder.claim(recipe(), data(), anew=False)


def test_the_lock_holds_between_processes_and_dies_with_them(tmp_path: Path) -> None:
    code = (
        "import sys, time; from liminal_hf.training.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]).locked():\n    print('in', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "in\n"
        with pytest.raises(RunInProgressError, match="Another process trains in"), RunFolder(tmp_path).locked():
            pass
    finally:
        child.kill()
        child.wait()
    with RunFolder(tmp_path).locked():
        assert not RunFolder(tmp_path).is_finished()


def trained(folder: Path) -> tuple[Recipe, Path]:
    recipe = small_recipe(folder, phases=[phase("head", trainable="head", cache=True, epochs=1)])
    return recipe, fit(recipe, folder / "run").output_dir


@pytest.mark.usefixtures("own_cache")
def test_a_run_is_known_by_the_content_of_its_encoder(tmp_path: Path) -> None:
    recipe, run = trained(tmp_path)
    encoder = Path(recipe.model["encoder"])
    weights = load_file(encoder / "model.safetensors")
    save_file({name: value * 1.5 for name, value in weights.items()}, encoder / "model.safetensors", {"format": "pt"})
    with pytest.raises(RunMismatchError, match="another encoder"):
        fit(recipe, run)
    (run / "metrics.json").unlink()  # as if the run had been interrupted
    with pytest.raises(RunMismatchError, match="another encoder"):
        fit(recipe, run)
    save_file(weights, encoder / "model.safetensors", {"format": "pt"})
    fit(recipe, run)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_finished_run_that_is_damaged_is_written_anew(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, run = trained(tmp_path)
    path = run / "model" / name
    before, content = path.read_bytes(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = fit(recipe, run)
    assert "is damaged" in caplog.text and name in caplog.text and path.read_bytes() == before
    assert result.metrics["sha256"][name] == hashlib.sha256(before).hexdigest()
    (run / "model" / name).unlink()
    fit(recipe, run)
    assert path.read_bytes() == before


def test_a_run_is_known_by_its_plugins_and_its_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from liminal_hf.modeling.pooling import MeanPooler\n\n\nclass Mine(MeanPooler):\n    share = {}\n"
    (tmp_path / "my_pooler.py").write_text(code.format(0.5))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(POOLERS, "mine", importlib.import_module("my_pooler").Mine)
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "config.json").write_text('{"label_mean": [0.0]}')
    save_file({"w": torch.ones(2)}, teacher / "model.safetensors")
    own = recipe(model={"encoder": "gpt2", "pooling": "mine"}, distill={"teachers": [str(teacher)]})
    folder = RunFolder(tmp_path / "run")
    folder.claim(own, data(), anew=False)
    folder.claim(own, data(), anew=False)
    (teacher / "config.json").write_text('{"label_mean": [0.5]}')
    with pytest.raises(RunMismatchError, match="another teacher"):
        folder.claim(own, data(), anew=False)
    (teacher / "config.json").write_text('{"label_mean": [0.0]}')
    (tmp_path / "my_pooler.py").write_text(code.format(0.25) + "\n")
    with pytest.raises(RunMismatchError, match="another plugin"):
        folder.claim(own, data(), anew=False)


def test_a_run_of_an_older_version_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(recipe(), data(), anew=False)
    about = json.loads(folder.run.read_text())
    assert about["identity"]["recipe"] == "10dd2465b782d7186748d349b5b2a839a9e42a3f4ec37ffe270daad64c72bc0b", (
        "a recipe's hash is that of earlier versions"
    )
    about["identity"] = {name: about["identity"][name] for name in ("recipe", "data")}
    folder.run.write_text(json.dumps(about))
    folder.claim(recipe(), data(), anew=False)
