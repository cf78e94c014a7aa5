"""Scripts on dialogue: what a rule may look at, alarms against their definition, and runs on made-up talks."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'liminal_hf[benchmark]'")
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import escalation
import persons_in_dialogue as script

from liminal_hf import PersonMemory, fit_person_prior
from liminal_hf.chat import sharp_turn

SAID = {
    "joy": "What a wonderful surprise, I am so happy!",
    "neutral": "The train leaves at noon.",
    "anger": "I am furious, leave me alone!",
    "sadness": "I miss him so much.",
}


def made_up(folder: Path) -> Path:
    """WASSA and MELD in a few talks that were made up here."""
    draw = np.random.default_rng(0)
    (folder / "wassa23").mkdir(parents=True)
    (folder / "meld").mkdir()
    rows = []
    for dialogue in range(12):
        levels = draw.normal(0, 0.4, 3)
        for turn in range(14):
            emotion = str(draw.choice(list(SAID)))
            value = {"joy": 1.0, "neutral": 0.0, "anger": -1.0, "sadness": -0.5}[emotion]
            person = levels[turn % 2]
            rows.append(
                {
                    "dialogue": dialogue,
                    "turn": turn,
                    "speaker": turn % 2 + 1,
                    "text": f"{SAID[emotion]} Number {turn}." if turn != 9 else "",
                    "valence": value + person + draw.normal(0, 0.1),
                    "intensity": draw.uniform(0, 5),
                    "empathy": draw.uniform(0, 5),
                    "split": "train" if dialogue < 8 else "dev",
                }
            )
    # In the file the turns of a talk are not in their order.
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(folder / "wassa23" / "turns.csv", index=False)
    for split, talks in (("train", 10), ("dev", 1), ("test", 6)):
        rows = [
            {
                "Dialogue_ID": talk,
                "Utterance_ID": turn,
                "Speaker": "Ann" if turn % 2 else "Bo",
                "Utterance": SAID[emotion],
                "Emotion": emotion,
                "Sentiment": "neutral",
            }
            for talk in range(talks)
            for turn in range(10)
            for emotion in [str(draw.choice(list(SAID)))]
        ]
        pd.DataFrame(rows).to_csv(folder / "meld" / f"{split}_sent_emo.csv", index=False)
    return folder


def test_a_past_is_what_was_before_in_the_same_group() -> None:
    values, groups = np.array([[1.0], [2.0], [4.0], [10.0]]), np.array([0, 0, 1, 0])
    assert script.past_of(values, groups).tolist() == [[1.0], [1.0], [4.0], [1.5]]


def test_turns_are_in_their_order_and_empty_ones_are_left_out(tmp_path: Path) -> None:
    talk = script.wassa(made_up(tmp_path / "data"))
    assert len(talk.texts) == 12 * 13 and len(np.unique(talk.persons)) == 24
    assert talk.texts[0].endswith("Number 0.") and talk.texts[12].endswith("Number 13.")
    assert talk.train.sum() == 8 * 13


@pytest.mark.parametrize("every", [1, 3])
def test_ratings_of_others_and_later_ones_reach_no_turn(tmp_path: Path, every: int) -> None:
    talk = script.wassa(made_up(tmp_path / "data"))
    predictions = np.random.default_rng(1).normal(size=talk.labels.shape)
    answers = script.with_ratings(talk, predictions, every)
    fitted = talk.train
    prior = fit_person_prior(predictions[fitted], talk.labels[fitted], talk.persons[fitted].tolist())
    person = np.unique(talk.persons[~fitted])[0]
    rows = np.flatnonzero(talk.persons == person)
    k = prior.shrinkage.numpy()
    for place, row in enumerate(rows):
        rated = [one for at, one in enumerate(rows[:place]) if at % every == every - 1]
        expected = predictions[row] + (talk.labels[rated] - predictions[rated]).sum(axis=0) / (len(rated) + k)
        assert np.allclose(answers[row], expected)
    assert np.array_equal(answers[fitted], predictions[fitted])
    assert PersonMemory.empty(1, 3).offset(prior).tolist() == [[0.0] * 3]


def test_a_run_on_made_up_talks(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "RESAMPLES", 50)
    data = made_up(tmp_path / "data")
    assert script.main(["--data-dir", str(data), "--results", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "persons_in_dialogue.json").read_text(encoding="utf-8"))
    systems = report["corpora"]["WASSA-2023"]["systems"]
    rated = systems["text and person: a rating after every turn"]
    assert rated["r"][0] > systems[script.TEXT]["r"][0] and rated["against text"]["mean"] == pytest.approx(
        rated["mean"] - systems[script.TEXT]["mean"], abs=1e-4
    )
    assert systems[script.TEXT]["against text"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


# ---- escalation ----


def rows_of(turns: list[tuple[int, str, str]]) -> dict[str, Any]:
    columns = zip(*turns, strict=True)
    return dict(zip(("dialogue_id", "speaker", "emotion"), map(list, columns), strict=True))


def test_events_compare_a_speaker_with_their_own_last_turn_and_the_rule_is_the_shipped_one() -> None:
    turns = [(0, "Ann", "joy"), (0, "Bo", "anger"), (0, "Ann", "anger"), (0, "Bo", "anger"), (1, "Ann", "fear")]
    logits = np.array([[0.5, 0.0, 0], [-0.2, 0.3, 0], [-0.4, 0.4, 0], [-0.3, 0.2, 0], [-0.6, 0.6, 0]])
    doubt = np.full_like(logits, 0.2)
    found = escalation.events(rows_of(turns), logits, doubt)
    assert found["event"].tolist() == [True, False] and found["dialogue"].tolist() == [0, 0]
    spread = np.hypot(0.2, 0.2)
    assert np.allclose(found["features"][0], [0.9 / spread, 0.4 / spread, -2.0, 2.0])
    assert np.allclose(found["before"][0], [0, 0, 2.5, 0.0])
    names = ("pleasure", "arousal", "dominance")
    said = [
        {**dict(zip(names, row, strict=True)), "uncertainty": dict(zip(names, one, strict=True))}
        for row, one in zip(logits.tolist(), doubt.tolist(), strict=True)
    ]
    sharp = escalation.sharpness(found["features"]) > escalation.SHARP_DEVIATIONS
    assert sharp.tolist() == [sharp_turn(said[0], said[2]), sharp_turn(said[1], said[3])] == [True, False]


def test_alarms_are_counted_by_their_definition() -> None:
    scores, event = np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, False])
    found = escalation.hits(scores, event, 1.5)
    assert found == {"alarms": 0.5, "precision": 0.5, "recall": 0.5, "false alarms": 0.5}
    perfect = np.array([5.0, 0.0, 4.0, 1.0])
    assert escalation.hits(perfect, event, escalation.best_threshold(perfect, event))["precision"] == 1.0


def test_a_run_on_made_up_dialogue(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(escalation, "RESAMPLES", 20)
    data = made_up(tmp_path / "data")
    assert escalation.main(["--data-dir", str(data), "--results", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "escalation.json").read_text(encoding="utf-8"))
    rule = report["rules"][escalation.RULE]
    assert rule["average precision"]["mean"] > 2 * report["rate"], "furious against happy is easy"
    assert 0 <= rule["shipped"]["recall"] <= 1 and (tmp_path / "escalation.md").is_file()
