"""The averaged weights, the emotional log and the manifest of a checkpoint."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from liminal_hf.training.callbacks import (
    LOG_COLUMNS,
    MANIFEST,
    EMACallback,
    EmotionalLogCallback,
    ManifestCallback,
    is_whole,
    last_checkpoint,
)


def test_average_follows_its_formula() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    average = EMACallback(0.5)
    average.start(model)
    expected = model.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model.weight.normal_()
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.shadow["weight"], expected)


def test_swapping_twice_is_swapping_once_and_gives_the_weights_back() -> None:
    model = nn.Linear(3, 2)
    average = EMACallback(0.9)
    average.start(model)
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(model)
    trained = model.weight.detach().clone()
    average.swap_in(model)
    average.swap_in(model)
    torch.testing.assert_close(model.weight.detach(), before + 0.9)  # the first decay is 1 / 10
    average.swap_out(model)
    average.swap_out(model)
    assert torch.equal(model.weight, trained)


def test_frozen_weights_are_not_averaged() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    average = EMACallback(0.9)
    average.start(model)
    assert sorted(average.shadow) == ["1.bias", "1.weight"]


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0])
def test_a_decay_out_of_range_is_named(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in 0\.\.1"):
        EMACallback(decay)


def test_a_checkpoint_without_the_plain_weights_is_named(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), report_to="none")
    state = TrainerState(global_step=5)
    with pytest.raises(ValueError, match="checkpoint-5 was written without the averaged weights"):
        EMACallback(0.9).on_train_begin(args, state, TrainerControl(), model=nn.Linear(1, 1))


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def history(epochs: int) -> list[dict[str, float]]:
    entries: list[dict[str, float]] = []
    for epoch in range(1, epochs + 1):
        entries.append({"loss": 1 / epoch, "learning_rate": 0.1, "epoch": epoch, "step": epoch})
        found = {"eval_loss": 2 / epoch, "eval_hope": 0.9, "eval_faith": 0.8, "eval_love": 0.7}
        found |= {"eval_faith_plus": 0.4, "eval_love_plus": 0.2}
        entries.append({**found, "epoch": epoch, "step": epoch})
    return entries


def test_the_log_repeats_no_row_after_a_resume(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), report_to="none")
    path = tmp_path / "emotional_log.csv"
    # Three epochs, then a resume from the checkpoint of the second: its history ends there.
    for epochs in (1, 2, 3, 3, 4):
        EmotionalLogCallback(path).on_evaluate(args, TrainerState(log_history=history(epochs)), TrainerControl())
    rows = read(path)
    assert rows[0] == list(LOG_COLUMNS)
    assert [float(row[0]) for row in rows[1:]] == [1, 2, 3, 4]
    assert rows[2] == ["2.0", "0.5", "1.0", "0.9", "0.8", "0.7", "0.1", "0.4", "0.2"]


def test_the_log_of_a_second_phase_goes_on_after_the_first(tmp_path: Path) -> None:
    args = TrainingArguments(str(tmp_path), report_to="none")
    path = tmp_path / "emotional_log.csv"
    EmotionalLogCallback(path).on_evaluate(args, TrainerState(log_history=history(2)), TrainerControl())
    for epochs in (1, 2, 1):
        second = EmotionalLogCallback(path, epochs_before=2.0)
        second.on_evaluate(args, TrainerState(log_history=history(epochs)), TrainerControl())
    assert [float(row[0]) for row in read(path)[1:]] == [1, 2, 3]


def test_an_evaluation_on_test_is_no_row() -> None:
    assert EmotionalLogCallback("x.csv").rows([{"test_loss": 1.0, "epoch": 1.0}, {"train_loss": 1.0}]) == []


def checkpoint(folder: Path, step: int, best: Path | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(100))
    state = TrainerState(global_step=step)
    state.best_model_checkpoint = None if best is None else str(best)
    state.save_to_json(str(path / "trainer_state.json"))
    args = TrainingArguments(str(folder), report_to="none")
    ManifestCallback().on_save(args, state, TrainerControl())
    return path


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    first, second, third = (checkpoint(tmp_path, step) for step in (9, 10, 100))
    assert last_checkpoint(tmp_path) == third
    (third / MANIFEST).unlink()  # killed before the manifest
    assert last_checkpoint(tmp_path) == second
    (second / "model.safetensors").write_bytes(bytes(99))
    assert not is_whole(second)
    assert last_checkpoint(tmp_path) == first
    content = bytearray((first / "model.safetensors").read_bytes())
    content[50] ^= 1
    (first / "model.safetensors").write_bytes(content)
    assert last_checkpoint(tmp_path) is None


def test_a_checkpoint_whose_best_is_damaged_is_passed_over(tmp_path: Path) -> None:
    best = checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2, best=best)
    (best / "model.safetensors").unlink()
    assert last_checkpoint(tmp_path) is None
