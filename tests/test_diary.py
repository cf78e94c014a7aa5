"""The diaries of SemEval-2026 Task 2: the scorer against its definition, and a run on a made-up diary."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import diary as script
from research import diary as task

SENTENCES = {2: "A wonderful day, I am so happy.", 1: "It was nice.", 0: "I went to work.", -1: "I am tired and sad."}


def made_up(folder: Path, persons: int = 14) -> Path:
    """A diary with the columns of the real one, texts made here, and persons who rate above or below their texts."""
    draw = np.random.default_rng(0)
    rows, groups, gold = [], [], []
    for person in range(1, persons + 1):
        forecast, unseen = person > persons - 4, person % 3 == 0
        for turn in range(8):
            valence = int(draw.integers(-1, 3))
            test = not forecast and (unseen or turn >= 4)
            row = {
                "user_id": person,
                "turn": turn,
                "timestamp": f"2021-06-{turn + 1:02d} 10:00:00",
                "collection_phase": 1,
                "is_words": False,
                "text": f"{SENTENCES[valence]} Day {turn} of person {person}.",
                "valence": float(np.clip(valence + (1 if person % 2 else -1), -2, 2)),
                "arousal": float(draw.integers(0, 3)),
                "part": "test" if test else "train",
                "is_seen_user": not unseen,
                "text_id": person * 100 + turn,
            }
            rows.append(row)
            if not test:
                groups.append({"user_id": person, "text_id": row["text_id"], "group": 1 if turn % 4 < 2 else 2})
        if forecast:
            names = ("state_change_valence", "state_change_arousal", "disp_change_valence", "disp_change_arousal")
            gold.append({"user_id": person, **dict(zip(names, draw.normal(size=4), strict=True))})
    folder.mkdir(parents=True)
    # The real file is in the order of its persons; nothing may hang on it.
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(folder / "entries.csv", index=False)
    pd.DataFrame(groups).to_csv(folder / "train_subtask2b.csv", index=False)
    pd.DataFrame(gold).to_csv(folder / "subtask2_gold.csv", index=False)
    return folder


def run(data: Path, work: Path) -> dict[str, pd.DataFrame]:
    arguments = ["-o", work / "out", "--data-dir", data, "--encoders", "minilm", "--seeds", 1, "--results", work]
    assert script.main([str(one) for one in arguments]) == 0
    return {path.stem: pd.read_csv(path) for path in sorted((work / "out").iterdir())}


def test_the_figures_are_those_of_the_official_scorer() -> None:
    draw = np.random.default_rng(0)
    persons = np.repeat(np.arange(9), draw.integers(1, 8, 9))
    labels, predictions = draw.integers(0, 3, len(persons)).astype(float), draw.normal(size=len(persons))
    labels[persons == 2], predictions[persons == 3] = 1.0, 0.5
    within = []
    for person in range(9):
        mine = persons == person
        if mine.sum() > 1 and labels[mine].var() > 0:
            constant = predictions[mine].var() == 0
            within.append(0.0 if constant else np.corrcoef(predictions[mine], labels[mine])[0, 1])
    means = [[values[persons == person].mean() for person in range(9)] for values in (predictions, labels)]
    found = task.person_figures(predictions, labels, persons)
    assert found["within"][0] == pytest.approx(np.mean(within))
    assert found["between"][0] == pytest.approx(np.corrcoef(*means)[0, 1])
    both = np.tanh((np.arctanh(np.mean(within)) + np.arctanh(np.corrcoef(*means)[0, 1])) / 2)
    assert found["composite"][0] == pytest.approx(both)
    assert found["flat"][0] == pytest.approx(np.corrcoef(predictions, labels)[0, 1])
    # A person drawn twice counts as two persons.
    weights = np.array([[2.0, *[1.0] * 8]])
    twice = np.r_[persons, persons[persons == 0] + 100], *(np.r_[x, x[persons == 0]] for x in (predictions, labels))
    again = task.person_figures(twice[1], twice[2], twice[0])
    for name, value in task.person_figures(predictions, labels, persons, weights).items():
        assert value[0] == pytest.approx(again[name][0])


def test_the_memory_gives_the_intercepts_of_the_mixed_model() -> None:
    draw = np.random.default_rng(1)
    persons = np.repeat(np.arange(12), 5)
    inputs, labels = draw.normal(size=(60, 4)), draw.normal(size=(60, 2)) + draw.normal(size=(12, 1))[persons]
    fitted, share = np.arange(60) % 5 < 3, 0.3
    mixed = task.fit_mixed(inputs @ inputs.T, labels, persons, fitted, share)
    ours = script.adjusted(mixed.text, script.only(labels, fitted), persons, np.arange(60.0), script.prior_of(mixed))
    # The same as one Gaussian process with both kernels.
    whole = inputs @ inputs.T + share * (persons[:, None] == persons[None])
    mean = labels[fitted].mean(axis=0)
    weights = np.linalg.solve(whole[np.ix_(fitted, fitted)] + np.eye(fitted.sum()), labels[fitted] - mean)
    assert np.allclose(ours[~fitted], (mean + whole[:, fitted] @ weights)[~fitted])
    # Left out: as if the person had never written.
    without = fitted & (persons != 4)
    direct = np.linalg.solve(whole[np.ix_(without, without)] + np.eye(without.sum()), labels[without] - mean)
    assert np.allclose(mixed.left_out[persons[fitted] == 4], mean + whole[fitted & (persons == 4)][:, without] @ direct)


def test_a_run_writes_the_three_files_and_reads_no_label_of_the_test_part(tmp_path: Path, minilm: Path) -> None:
    folder = made_up(tmp_path / "data" / "diary")
    files = run(tmp_path / "data", tmp_path / "one")
    entries = pd.read_csv(folder / "entries.csv")
    test = entries[entries["part"] == "test"]
    assert list(files["subtask1"].columns) == ["user_id", "text_id", "pred_valence", "pred_arousal"]
    assert sorted(files["subtask1"]["text_id"]) == sorted(test["text_id"])
    assert list(files["subtask2a"].columns) == ["user_id", "pred_state_change_valence", "pred_state_change_arousal"]
    assert list(files["subtask2b"].columns) == ["user_id", "pred_dispo_change_valence", "pred_dispo_change_arousal"]
    assert files["subtask2a"]["user_id"].tolist() == files["subtask2b"]["user_id"].tolist() == [11, 12, 13, 14]
    assert not any(frame.isna().any().any() for frame in files.values())
    report = json.loads((tmp_path / "one" / "diary.json").read_text(encoding="utf-8"))
    systems = report["subtask1"]
    # Persons who rate higher or lower than their texts are what a memory of ratings is for.
    assert systems[script.BOTH]["flat"][0] > systems["text alone"]["flat"][0] + 0.02
    page = (tmp_path / "one" / "diary.md").read_text(encoding="utf-8")
    assert not any(sentence in page for sentence in entries["text"])

    is_test = entries["part"] == "test"
    entries.loc[is_test, ["valence", "arousal"]] = entries.loc[is_test, ["arousal", "valence"]].to_numpy()[::-1]
    entries.to_csv(folder / "entries.csv", index=False)
    again = run(tmp_path / "data", tmp_path / "two")
    for name, frame in files.items():
        pd.testing.assert_frame_equal(frame, again[name])
