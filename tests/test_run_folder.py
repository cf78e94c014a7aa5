"""The folder of a run: results whole or not at all, the lock, whose folder it is."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict

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
