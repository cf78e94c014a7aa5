"""Training with context and its measurement: turns as lanes of a batch, the error through the memory, the script."""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import conversations as measure
from research.context import (
    ConversationTraining,
    Turns,
    lanes,
    read_turns,
    train_conversations,
)

from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.metrics import mean_pearson

pytestmark = pytest.mark.nightly


# ---- the turns of a corpus ----


def test_turns_are_grouped_in_order() -> None:
    pooled = torch.arange(6.0)[:, None]
    turns = Turns.grouped(pooled, torch.zeros(6, 3), ["b", "a", "b", "a", "c", "b"])
    assert turns.pooled[:, 0].tolist() == [0, 2, 5, 1, 3, 4]
    assert turns.spans() == [(0, 3), (3, 5), (5, 6)]


def test_lanes_hold_every_conversation_once_and_whole() -> None:
    keys = [index for index in range(20) for _ in range(index % 5 + 1)]
    turns = Turns.grouped(torch.zeros(len(keys), 1), torch.zeros(len(keys), 3), keys)
    table = lanes(turns, 4, torch.Generator().manual_seed(0))
    read = table[table >= 0]
    assert sorted(read.tolist()) == list(range(len(keys)))
    for lane in table.tolist():
        rows = [row for row in lane if row >= 0]
        assert lane[len(rows) :] == [-1] * (len(lane) - len(rows))
        for row, following in pairwise(rows):
            assert turns.starts[following] or following == row + 1
    assert lanes(turns, 99, torch.Generator().manual_seed(0)).shape[0] == 20


def test_one_very_long_conversation_does_not_keep_the_others_waiting() -> None:
    keys = ["long"] * 1000 + [f"short {index}" for index in range(100) for _ in range(10)]
    turns = Turns.grouped(torch.zeros(2000, 1), torch.zeros(2000, 3), keys)
    table = lanes(turns, 10, torch.Generator().manual_seed(0))
    assert sorted(table[table >= 0].tolist()) == list(range(2000)) and table.shape[1] <= 250
    # A piece that does not follow on starts with an empty memory, as a conversation of its own would.
    whole = echo(1, 96, 0)
    apart = Turns(whole.pooled, whole.labels, torch.arange(96) % 32 == 0)
    models = [small(num_outer_steps=1) for _ in range(2)]
    for model, part in zip(models, (whole, apart), strict=True):
        train_conversations(model, part, apart, ConversationTraining(epochs=1, lanes=3, forget=0.0))
    states = [model.state_dict() for model in models]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_bad_turns_are_named() -> None:
    with pytest.raises(ValueError, match="one row of pooled, labels and starts"):
        Turns(torch.zeros(2, 4), torch.zeros(3, 3), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="True on the first row"):
        Turns(torch.zeros(2, 4), torch.zeros(2, 3), torch.zeros(2, dtype=torch.bool))


# ---- training with context ----


def small(head: str = "v7", **config: Any) -> LiminalForPADRegression:
    torch.manual_seed(0)
    return LiminalForPADRegression(LiminalConfig(pooled_size=4, latent_size=16, head=head, head_dropout=0.0, **config))


def echo(number: int, length: int, seed: int) -> Turns:
    """Conversations in which a turn's label is the turn before: nothing but a memory can know it."""
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(number, length, 4, generator=generator)
    labels = torch.cat([torch.zeros(number, 1, 3), pooled[:, :-1, :3]], dim=1) * 0.3
    keys = [index for index in range(number) for _ in range(length)]
    return Turns.grouped(pooled.flatten(0, 1), labels.flatten(0, 1), keys)


@pytest.mark.parametrize("head", ["v7", "v6", "linear"])
def test_reading_turns_together_is_reading_them_one_by_one(head: str) -> None:
    model = small(head).eval()
    pooled = torch.randn(9, 4)
    turns = Turns.grouped(pooled, torch.zeros(9, 3), [0, 1, 1, 2, 1, 2, 2, 2, 0])
    found = read_turns(model, turns)
    memory = None
    for row in range(9):
        if turns.starts[row]:
            memory = model.initial_memory(1) if head != "linear" else None
        if found.before is not None:
            assert found.before[row, -1] == float(memory.count[0] > 0)
            torch.testing.assert_close(found.before[row, -4:-1], memory.pad[0], atol=1e-6, rtol=0)
        output = model(pooled_embeds=turns.pooled[row : row + 1], memory=memory)
        memory = output.memory
        torch.testing.assert_close(found.logits[row], output.logits[0], atol=1e-5, rtol=0)
        if found.uncertainty is not None:
            torch.testing.assert_close(found.uncertainty[row], output.uncertainty[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(read_turns(model, turns, batch_size=1).logits, found.logits, atol=1e-5, rtol=0)


def test_the_error_goes_back_through_the_memory() -> None:
    train, validation = echo(150, 6, 0), echo(40, 6, 1)
    model = small(label_std=[0.3] * 3, num_outer_steps=1)
    settings = ConversationTraining(
        epochs=20, learning_rate=1e-2, lanes=25, window=2, forget=0.0, ema_decay=0.9, weight_decay=0.0
    )
    history = train_conversations(model, train, validation, settings)
    score = mean_pearson(read_turns(model, validation).logits, validation.labels)
    assert score > 0.4
    assert max(entry["pearson_mean"] for entry in history) == pytest.approx(score, abs=1e-6)
    # Each turn by itself, the same model knows nothing.
    apart = Turns(validation.pooled, validation.labels, torch.ones(len(validation), dtype=torch.bool))
    assert abs(mean_pearson(read_turns(model, apart).logits, apart.labels)) < 0.2


def test_training_is_reproducible_and_repeats_with_its_seed() -> None:
    turns = echo(12, 4, 0)
    weights = []
    for seed in (0, 0, 1):
        model = small()
        train_conversations(model, turns, turns, ConversationTraining(epochs=1, lanes=4, seed=seed))
        weights.append(model.liminal.head.projection.weight.detach().clone())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_lost_memory_is_as_a_new_conversation() -> None:
    model = small().eval()
    memory = model.initial_memory(2)
    first = torch.randn(2, 4)
    memory = model(pooled_embeds=first, memory=memory).memory
    lost = memory.reset(torch.tensor([True, False]))
    second = torch.randn(2, 4)
    output, fresh = model(pooled_embeds=second, memory=lost), model(pooled_embeds=second)
    torch.testing.assert_close(output.logits[0], fresh.logits[0])
    kept = model(pooled_embeds=second, memory=memory)
    torch.testing.assert_close(output.logits[1], kept.logits[1])


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    turns = echo(4, 3, 0)
    turns.pooled[0] = math.inf
    with pytest.raises(ValueError, match="The loss became nan in epoch 1"):
        train_conversations(small(), turns, turns, ConversationTraining(epochs=1))
    with pytest.raises(ValueError, match="forget must be in"):
        ConversationTraining(forget=1.0)
    with pytest.raises(ValueError, match="window must be at least 1"):
        ConversationTraining(window=0)


def test_a_mean_so_far_does_not_hold_the_turn_itself() -> None:
    values = np.array([[1.0], [10.0], [3.0], [5.0]])
    means, counts = measure.mean_so_far(values, ["a", "b", "a", "a"])
    assert means[:, 0].tolist() == [0.0, 0.0, 1.0, 2.0]
    assert counts.tolist() == [0.0, 0.0, 1.0, 2.0]


def test_shrinking_is_fitted_on_validation_and_finds_what_is_there() -> None:
    generator = np.random.default_rng(0)
    turns = {"dialogue_id": [row // 8 for row in range(800)], "speaker": ["a"] * 800}
    data: dict[str, Any] = {}
    labels, logits = {}, {}
    for name in ("validation", "test"):
        data[name] = turns_of(turns)
        mood = np.repeat(generator.normal(size=(100, 3)), 8, axis=0)
        labels[name] = mood
        logits[name] = mood + generator.normal(size=mood.shape)
    moved = measure.shrink(logits, labels, data, "dialogue")
    assert mean_pearson(moved, labels["test"]) > mean_pearson(logits["test"], labels["test"]) + 0.05


def turns_of(columns: dict[str, list[Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(columns)


def test_the_measurement_runs_and_goes_on(
    data_dir: Path, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "meld").mkdir()
    for name in ("train", "dev", "test"):
        table = pd.read_csv(data_dir / "meld" / f"{name}_sent_emo.csv", keep_default_na=False)
        first = table[table["Dialogue_ID"].isin(table["Dialogue_ID"].unique()[:12])]
        assert first["Emotion"].nunique() == 7 or name != "test"
        first.to_csv(tmp_path / "meld" / f"{name}_sent_emo.csv", index=False)
    monkeypatch.setattr(measure, "RESAMPLES", 20)
    folders = {"--data-dir": tmp_path, "--work": tmp_path / "work", "--results": tmp_path}
    arguments = ["--seeds", "1", "--epochs", "1", *(str(part) for option in folders.items() for part in option)]
    measure.main(arguments)
    report = json.loads((tmp_path / "conversations.json").read_text(encoding="utf-8"))
    assert report["ours"] in report["reading"] and len(report["reading"]) == len(measure.SYSTEMS) + 2
    assert "difference" not in report["reading"][report["ours"]]
    assert "| joy |" in (tmp_path / "conversations.md").read_text(encoding="utf-8")
    assert "one memory a dialogue, seed 0" in capsys.readouterr().out
    measure.main(arguments)
    assert "seed 0" not in capsys.readouterr().out
    assert json.loads((tmp_path / "conversations.json").read_text(encoding="utf-8")) == report
