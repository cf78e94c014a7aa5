"""Persons in dialogue: what a speaker's own past says of a turn, with ratings and without, on WASSA-2023 and MELD.

Requires liminal_hf with its extra benchmark, and the two corpora (`LIMINAL_DATA_DIR`; evaluation only).

    python scripts/persons_in_dialogue.py

A person is a speaker of one dialogue, who begins as a stranger. The text model is a ridge on frozen MiniLM states (all
layers). Its strength, the prior of the persons and how much the unrated past counts are chosen inside train, on
predictions for dialogues that were left out. WASSA's official development split is the test, as its test has no public
labels; MELD's labels are those that its emotions have in PAD space.
"""

import argparse
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from research.meld import load_meld
from research.report import (
    RESAMPLES,
    Array,
    add_folders,
    interval,
    line,
    number,
    resample_counts,
    rounded,
    save,
    weighted_figures,
)

from liminal_hf import PersonMemory, fit_person_prior
from liminal_hf.data.pooled_cache import pooled_dataset
from liminal_hf.io import require_file
from liminal_hf.modeling.encoders import load_tokenizer
from liminal_hf.modeling.modeling_liminal import LiminalModel

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SOURCE = "the WASSA-2023 shared task on empathy and emotion, track 1 (conversations)"
ALPHAS = (300.0, 1000.0, 3000.0, 10000.0)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
FOLDS = 5
TEXT = "text alone"
EVERY = {1: "a rating after every turn", 3: "a rating after every third turn", 5: "a rating after every fifth turn"}


@dataclass
class Talk:
    """Turns in the order in which they were spoken.

    Args:
        texts: `(turns,)`.
        labels: `(turns, T)`.
        dialogues, persons: `(turns,)`, numbers.
        train: `(turns,)`, whether a turn is for training; the others are the test.
        targets: names.
    """

    texts: list[str]
    labels: Array
    dialogues: NDArray[np.int64]
    persons: NDArray[np.int64]
    train: NDArray[np.bool_]
    targets: list[str]


def numbered(*columns: Any) -> NDArray[np.int64]:
    """A number for each different tuple."""
    place: dict[Any, int] = {}
    return np.array([place.setdefault(key, len(place)) for key in zip(*columns, strict=True)])


def wassa(data_dir: Path | None) -> Talk:
    """WASSA-2023: polarity as valence, intensity, empathy."""
    table = pd.read_csv(require_file("wassa23", "turns.csv", data_dir, SOURCE), keep_default_na=False)
    table = table[table["text"].str.strip() != ""].sort_values(["dialogue", "turn"], kind="stable")
    targets = ["valence", "intensity", "empathy"]
    return Talk(
        table["text"].tolist(),
        table[targets].to_numpy(np.float64),
        numbered(table["dialogue"]),
        numbered(table["dialogue"], table["speaker"]),
        (table["split"] == "train").to_numpy(),
        targets,
    )


def meld(data_dir: Path | None) -> Talk:
    """MELD: its emotions in PAD space."""
    data = load_meld(data_dir)
    frames = [data[name].to_pandas().assign(split=name) for name in ("train", "test")]
    table = pd.concat(frames, ignore_index=True)
    return Talk(
        table["text"].tolist(),
        np.stack(table["labels"].tolist()).astype(np.float64),
        numbered(table["split"], table["dialogue_id"]),
        numbered(table["split"], table["dialogue_id"], table["speaker"]),
        (table["split"] == "train").to_numpy(),
        ["pleasure", "arousal", "dominance"],
    )


def predictions_of(talk: Talk) -> tuple[Array, float]:
    """Predictions, out of fold for train and from all of train for the test; and the strength of the ridge."""
    model = LiminalModel.from_encoder_pretrained(ENCODER, head="linear", pooled_layers="all")
    data = pooled_dataset(model, load_tokenizer(ENCODER), Dataset.from_dict({"text": talk.texts}), max_length=128)
    states = np.array(data.with_format("numpy")["pooled_embeds"][:], dtype=np.float64)
    states = (states - states[talk.train].mean(axis=0)) / states[talk.train].std(axis=0).mean()
    fold = np.random.default_rng(0).permutation(talk.dialogues.max() + 1)[talk.dialogues] % FOLDS
    solved = {alpha: np.empty_like(talk.labels) for alpha in ALPHAS}
    for number_ in range(FOLDS):
        held = talk.train & (fold == number_)
        for alpha, found in ridges(states, talk.labels, talk.train & ~held, held).items():
            solved[alpha][held] = found
    weights = np.ones((1, int(talk.train.sum())))
    scores = {
        alpha: weighted_figures(answers[talk.train], talk.labels[talk.train], weights)["r"].mean()
        for alpha, answers in solved.items()
    }
    alpha = max(scores, key=lambda one: scores[one])
    answers = solved[alpha]
    answers[~talk.train] = ridges(states, talk.labels, talk.train, ~talk.train)[alpha]
    return answers, alpha


def ridges(states: Array, labels: Array, fitted: NDArray[np.bool_], asked: NDArray[np.bool_]) -> dict[float, Array]:
    """By strength, the answers of a ridge for the rows that are asked."""
    mean, centre = labels[fitted].mean(axis=0), states[fitted].mean(axis=0)
    x, y, new = states[fitted] - centre, labels[fitted] - mean, states[asked] - centre
    if len(x) < x.shape[1]:  # the same by the rows, of which there are fewer
        inner, between = x @ x.T, new @ x.T
        return {alpha: mean + between @ np.linalg.solve(inner + alpha * np.eye(len(x)), y) for alpha in ALPHAS}
    inner, right = x.T @ x, x.T @ y
    return {alpha: mean + new @ np.linalg.solve(inner + alpha * np.eye(len(inner)), right) for alpha in ALPHAS}


def past_of(values: Array, groups: NDArray[np.int64]) -> Array:
    """The mean of the earlier rows of each row's group; the row's own value where there is none."""
    frame = pd.DataFrame(values).groupby(groups)
    count = frame.cumcount().to_numpy()[:, None]
    sums = frame.cumsum().to_numpy() - values
    return np.where(count > 0, sums / np.maximum(count, 1), values)


def with_ratings(talk: Talk, predictions: Array, every: int) -> Array:
    """The test's answers by `PersonMemory`, where each speaker rates every so many of their turns afterwards."""
    fitted = talk.train
    prior = fit_person_prior(
        torch.tensor(predictions[fitted]), torch.tensor(talk.labels[fitted]), talk.persons[fitted].tolist()
    )
    answers = predictions.copy()
    for person in np.unique(talk.persons[~fitted]):
        memory = PersonMemory.empty(1, predictions.shape[1])
        for place, row in enumerate(np.flatnonzero(talk.persons == person)):
            prediction = torch.tensor(predictions[row : row + 1])
            answers[row] = memory.adjust(prediction, prior)[0].numpy()
            is_rated = place % every == every - 1
            memory = memory.observe(prediction, torch.tensor(talk.labels[row : row + 1]) if is_rated else None)
    return answers


def systems_of(talk: Talk, predictions: Array) -> tuple[dict[str, Array], dict[str, list[float]]]:
    """Answers for all turns by what may be known, and the shares of the past that were chosen inside train."""
    systems, chosen = {TEXT: predictions}, {}
    weights = np.ones((1, int(talk.train.sum())))
    for name, groups in (
        ("text and the speaker's own unrated past", talk.persons),
        ("text and the dialogue's unrated past", talk.dialogues),
    ):
        past = past_of(predictions, groups)
        scores = [
            weighted_figures(
                (predictions + share * (past - predictions))[talk.train], talk.labels[talk.train], weights
            )["r"][0]
            for share in SHARES
        ]
        best = np.array(SHARES)[np.argmax(scores, axis=0)]
        systems[name], chosen[name] = predictions + best * (past - predictions), best.tolist()
    ratings_before = past_of(talk.labels, talk.persons)
    first = pd.Series(talk.persons).groupby(talk.persons).cumcount().to_numpy() == 0
    systems["ratings alone: the mean of the speaker's earlier ratings"] = np.where(
        first[:, None], talk.labels[talk.train].mean(axis=0), ratings_before
    )
    for every, name in EVERY.items():
        systems[f"text and person: {name}"] = with_ratings(talk, predictions, every)
    return systems, chosen


def measured(talk: Talk) -> dict[str, Any]:
    """r by target and system, and the mean's difference from the text alone, with intervals over dialogues."""
    predictions, alpha = predictions_of(talk)
    systems, chosen = systems_of(talk, predictions)
    test = ~talk.train
    groups = np.unique(talk.dialogues[test], return_inverse=True)[1]
    number_of = int(groups.max()) + 1
    counts = np.concatenate([np.ones((1, number_of)), resample_counts(number_of, RESAMPLES)])
    figures = {
        name: weighted_figures(answers[test], talk.labels[test], counts, groups)["r"]
        for name, answers in systems.items()
    }
    report: dict[str, Any] = {"turns": int(test.sum()), "dialogues": number_of, "alpha": alpha, "shares": chosen}
    report["systems"] = {}
    for name, values in figures.items():
        entry: dict[str, Any] = {"r": values[0].tolist(), "mean": float(values[0].mean())}
        gap = (values - figures[TEXT]).mean(axis=1)
        low, high = np.percentile(gap[1:], [2.5, 97.5])
        entry["against text"] = {"mean": float(gap[0]), "low": float(low), "high": float(high)}
        report["systems"][name] = entry
    return report


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines: list[str] = []
    for name, part in report["corpora"].items():
        heads = [name, *(f"r {target}" for target in part["targets"]), "mean", "against text, 95% over dialogues"]
        lines += ["", line(heads), line(["---"] * len(heads))]
        for system, entry in part["systems"].items():
            gap = "" if system == TEXT else interval(entry["against text"])
            lines.append(line([system, *map(number, entry["r"]), number(entry["mean"]), gap]))
        shares = "; ".join(
            f"{one}: {' / '.join(f'{share:g}' for share in found)}" for one, found in part["shares"].items()
        )
        lines += [
            "",
            f"{part['turns']:,} turns of {part['dialogues']} dialogues. Shares of the past, from train: {shares}.",
        ]
    lines += ["", f"`{report['command']}`; frozen MiniLM, 7 layers, ridge."]
    return "\n".join(lines).strip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure persons in dialogue.")
    parser.add_argument("--data-dir", type=Path, help="the folder above wassa23/ and meld/")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    corpora = {"WASSA-2023": wassa(given.data_dir), "MELD": meld(given.data_dir)}
    found = {name: {"targets": talk.targets, **measured(talk)} for name, talk in corpora.items()}
    report = rounded({"command": "python scripts/persons_in_dialogue.py", "corpora": found})
    save(given.results, "persons_in_dialogue", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
