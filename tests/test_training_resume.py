"""Killed, cut short, out of space: a run that is called again ends with the weights of an undisturbed one."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from training_kit import fit_and_die, phase, same_weights, small_recipe

from liminal_hf.training.callbacks import is_whole
from liminal_hf.training.fit import FitResult, fit
from liminal_hf.training.recipe import Recipe

# Children that are forked from a process that has imported everything, once for all.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["liminal_hf.training.fit", "training_kit"])
CALLBACKS = "liminal_hf.training.callbacks"
MOMENTS = {
    "before the recipe is kept": ("liminal_hf.training.run_folder", "write_text", 2, "before"),
    "in the middle of an epoch": ("liminal_hf.training.trainer", "LiminalTrainer.training_step", 5, "after"),
    "after a checkpoint": (CALLBACKS, "ManifestCallback.on_save", 2, "after"),
    "while a checkpoint is written": (CALLBACKS, "EMACallback.on_save", 2, "before"),
    "before the first phase is stored": ("liminal_hf.training.run_folder", "PhaseResult.write", 1, "before"),
    "in the second phase": (CALLBACKS, "ManifestCallback.on_save", 5, "after"),
    "while the model is written": ("liminal_hf.modeling.checkpointing", "copy_code", 1, "after"),
    "before the metrics are written": ("liminal_hf.training.fit", "write_text", 1, "before"),
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitResult]:
    """A recipe of two phases as a file, and its undisturbed run."""
    folder = tmp_path_factory.mktemp("resume")
    os.environ["LIMINAL_CACHE_DIR"] = str(folder / "cache")
    recipe = small_recipe(
        folder,
        phases=[
            phase("head", epochs=4, trainable="head", cache=True),
            phase(
                "all",
                epochs=2,
                trainable="all",
                head_learning_rate=1e-3,
                model={"head_dropout": 0.3},
                training={"learning_rate": 1e-4, "train_sampling_strategy": "group_by_length"},
            ),
        ],
    )
    path = folder / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    return path, fit(Recipe.from_yaml(path), folder / "whole")


@pytest.fixture(autouse=True)
def own_cache(setting: tuple[Path, FitResult], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(setting[0].parent / "cache"))


def disturb(recipe: Path, folder: Path, moment: tuple[str, str, int, str], max_bytes: int | None = None) -> int | None:
    """The exit code of a process that fits and dies at the moment."""
    child = PROCESSES.Process(target=fit_and_die, args=(str(recipe), str(folder), moment, max_bytes))
    child.start()
    child.join(250)
    child.kill()
    return child.exitcode


def assert_equal(found: FitResult, expected: FitResult) -> None:
    assert same_weights(found.model, expected.model)
    assert found.model.config.to_dict() == expected.model.config.to_dict()
    for split in ("validation", "test"):
        assert found.metrics[split] == expected.metrics[split]
    log, expected_log = (one.output_dir / "emotional_log.csv" for one in (found, expected))
    assert log.read_text() == expected_log.read_text()
    recipe, expected_recipe = (one.output_dir / "recipe.yaml" for one in (found, expected))
    assert recipe.read_text() == expected_recipe.read_text()
    left = [path.name for pattern in ("*.part*", "checkpoint-*") for path in found.output_dir.rglob(pattern)]
    assert not left, left


# The rest is for the nightly run: each moment costs a process.
BY_DEFAULT = ("in the middle of an epoch", "after a checkpoint", "while the model is written")


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(name, marks=[] if name in BY_DEFAULT else pytest.mark.nightly, id=name.replace(" ", "-"))
        for name in MOMENTS
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(setting: tuple[Path, FitResult], tmp_path: Path, moment: str) -> None:
    recipe, whole = setting
    assert disturb(recipe, tmp_path / "run", MOMENTS[moment]) == -signal.SIGKILL
    assert not (tmp_path / "run" / "metrics.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("phases/*/result/report.json")}
    found = fit(recipe, tmp_path / "run")
    assert_equal(found, whole)
    assert finished == {path: path.stat().st_mtime_ns for path in finished}, "a finished phase is not trained again"
    if moment == "in the second phase":
        assert [report["resumed"] for report in found.metrics["phases"]] == [False, True]


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    setting: tuple[Path, FitResult], tmp_path: Path
) -> None:
    recipe, whole = setting
    assert disturb(recipe, tmp_path / "run", (CALLBACKS, "ManifestCallback.on_save", 3, "after")) == -signal.SIGKILL
    checkpoints = tmp_path / "run" / "phases" / "01-head" / "checkpoints"
    last = max(checkpoints.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    assert is_whole(last)
    content = bytearray((last / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (last / "optimizer.pt").write_bytes(content)
    assert_equal(fit(recipe, tmp_path / "run"), whole)


def test_a_full_disk_stops_the_run_and_space_lets_it_go_on(setting: tuple[Path, FitResult], tmp_path: Path) -> None:
    recipe, whole = setting

    never = (CALLBACKS, "write_text", 10_000, "after")
    assert disturb(recipe, tmp_path / "run", never, max_bytes=40_000) == 1
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert_equal(fit(recipe, tmp_path / "run"), whole)
