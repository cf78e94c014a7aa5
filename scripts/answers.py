"""What a checkpoint's statements are worth: probabilities, intervals, verdicts; and where the neutral zone comes from.

Requires liminal_hf with its extra benchmark, EmoBank with its single ratings, and MELD (`LIMINAL_DATA_DIR`).

    python scripts/answers.py [CHECKPOINT]

The neutral point of a target is the middle of the rating scale. The width of the zone around it is measured on
EmoBank's training sentences: of all widths on a grid of .02, the one whose three classes agree best (mean recall) with
what most raters of a sentence gave: below, at or above the middle. Probabilities, intervals and verdicts are then
measured on the test split, and verdicts on MELD's three sentiments, which neither system was tuned on, beside VADER's
own three classes (compound at -.05 and .05).
"""

import argparse
import csv
import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from research import checkpoint as checkpoints
from research.peers import compound
from research.report import Array, add_folders, line, number, rounded, save
from sklearn.metrics import accuracy_score, f1_score

from liminal_hf.data import load_emobank
from liminal_hf.io import require_file
from liminal_hf.modeling.answers import above, classes, interval, verdict_names
from liminal_hf.modeling.configuration_liminal import DIMENSIONS, LiminalConfig
from liminal_hf.training.run_folder import hardware

LEVELS = (0.5, 0.8, 0.9)
BINS = 10
MELD = "https://github.com/declare-lab/MELD"


def neutral_width(means: Array, majority: Array) -> tuple[float, float]:
    """Width of the zone around 0, on a grid of .02, that agrees best with the raters' majority; and the mean recall.

    Args:
        means: `(N,)`, mean ratings in label units.
        majority: `(N,)`, 0 below, 1 at, 2 above the middle of the scale.

    Example:
        >>> neutral_width(np.array([-0.5, 0.0, 0.5]), np.array([0, 1, 2]))[1]
        1.0
    """
    best = (0.0, 0.0)
    for width in np.arange(0.02, 0.4, 0.02):
        recall = np.mean([np.mean(zone_class(means, 0.0, width)[majority == k] == k) for k in range(3)])
        if recall > best[1] + 1e-9:
            best = (round(float(width), 2), float(recall))
    return best


def zone_class(values: Array, point: float, width: float) -> Array:
    """0 below, 1 inside, 2 above the zone."""
    return 1 + (values > point + width).astype(int) - (values < point - width).astype(int)


def raters_majority(data_dir: str | None = None) -> dict[str, Array]:
    """By sentence, `(3,)`: what most of its raters gave per target, 0 below, 1 at, 2 above the middle of the scale."""
    votes: dict[str, list[list[int]]] = {}
    for perspective in ("reader", "writer"):
        path = require_file("emobank", f"individual_{perspective}_ratings.csv", data_dir, "JULIELab/EmoBank")
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                ratings = [float(row[name]) for name in "VAD"]
                if ratings != [1, 1, 1]:  # the authors drop these
                    votes.setdefault(row["id"], []).append([1 + (r > 3) - (r < 3) for r in ratings])
    return {
        name: np.array([np.bincount(column, minlength=3).argmax() for column in np.array(rows).T])
        for name, rows in votes.items()
    }


def expected_calibration_error(probabilities: Array, outcomes: Array) -> float:
    """Mean distance of stated and observed shares over ten bins, weighted by their size (Naeini et al. 2015)."""
    bins = np.clip((probabilities * BINS).astype(int), 0, BINS - 1)
    gaps = [
        (bins == b).mean() * abs((probabilities - outcomes)[bins == b].mean()) for b in range(BINS) if (bins == b).any()
    ]
    return float(sum(gaps))


def scores(predicted: Array, gold: Array) -> dict[str, float]:
    """Accuracy and macro F1 of three classes."""
    macro = f1_score(gold, predicted, labels=range(3), average="macro", zero_division=0.0)
    return {"accuracy": float(accuracy_score(gold, predicted)), "macro_f1": float(macro)}


def most_likely(reading: checkpoints.Reading, index: int, zone: tuple[float, float]) -> Array:
    """The most likely class of each text."""
    pairs = zip(reading.pad[:, index], reading.uncertainty[:, index], strict=True)
    return np.array([np.argmax(classes(mean, deviation, zone)) for mean, deviation in pairs])


def on_emobank(reading: checkpoints.Reading, labels: Array, config: LiminalConfig) -> dict[str, Any]:
    """Calibration of the probabilities, coverage of the intervals and the verdicts, by target."""
    report = {}
    for index, name in enumerate(DIMENSIONS):
        zone, gold = config.neutral_zone[index], labels[:, index]
        point = sum(zone) / 2
        pairs = list(zip(reading.pad[:, index], reading.uncertainty[:, index], strict=True))
        probabilities = np.array([above(mean, deviation, point) for mean, deviation in pairs])
        # Labels are means of a few ratings: a quarter of pleasure lies at the neutral point itself, and counts half.
        outcomes = (gold > point) + 0.5 * (np.abs(gold - point) < 1e-6)
        quantiles = config.residual_quantiles[index] if config.residual_quantiles else None
        covered = {}
        for level in LEVELS:
            ends = np.array([interval(mean, deviation, level, quantiles) for mean, deviation in pairs])
            covered[str(level)] = float(np.mean((ends[:, 0] <= gold) & (gold <= ends[:, 1])))
        classes_of_labels = zone_class(gold, point, (zone[1] - zone[0]) / 2)
        report[name] = {
            "ece": expected_calibration_error(probabilities, outcomes),
            "coverage": covered,
            "verdict": scores(most_likely(reading, index, zone), classes_of_labels),
            "always neutral": scores(np.ones(len(gold), dtype=int), classes_of_labels),
        }
    return report


def on_meld(checkpoint: str, config: LiminalConfig, given: argparse.Namespace) -> dict[str, Any]:
    """Verdicts on MELD's test turns against their three sentiments, beside VADER and always neutral."""
    path = require_file("meld", "test_sent_emo.csv", None, MELD)
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["Utterance"], row["Sentiment"]) for row in csv.DictReader(file)]
    texts, gold = [text for text, _ in rows], np.array([verdict_names("pleasure").index(said) for _, said in rows])
    reading = checkpoints.read(checkpoint, texts, given.work)
    tone = compound(texts)
    return {
        "rows": len(texts),
        "verdict": scores(most_likely(reading, 0, config.neutral_zone[0]), gold),
        "VADER": scores(1 + (tone >= 0.05).astype(int) - (tone <= -0.05).astype(int), gold),
        "always neutral": scores(np.ones(len(gold), dtype=int), gold),
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["", *DIMENSIONS]
    zones, bank = report["zones"], report["emobank"]

    def row(title: str, cells: Sequence[str]) -> str:
        return line([title, *cells])

    lines = [line(heads), line(["---"] * len(heads))]
    cells = [f"0 ± {number(zone['width'], 2)}" for zone in zones.values()]
    lines.append(row("neutral zone, label units", cells))
    lines.append(
        row("its agreement with the raters' majority, mean recall", [number(z["recall"]) for z in zones.values()])
    )
    lines.append(row("calibration error of P(above neutral)", [number(bank[name]["ece"]) for name in DIMENSIONS]))
    for level in LEVELS:
        cells = [f"{bank[name]['coverage'][str(level)]:.1%}" for name in DIMENSIONS]
        lines.append(row(f"coverage of {level:.0%} intervals", cells))
    for title in ("verdict", "always neutral"):
        cells = [f"{bank[n][title]['accuracy']:.1%}, {number(bank[n][title]['macro_f1'])}" for n in DIMENSIONS]
        lines.append(row(f"{title}: accuracy, macro F1", cells))
    heads = [f"MELD's test turns ({report['meld']['rows']:,})", "accuracy", "macro F1"]
    lines += ["", line(heads), line(["---"] * 3)]
    for title in ("verdict", "VADER", "always neutral"):
        found = report["meld"][title]
        lines.append(line([title, f"{found['accuracy']:.1%}", number(found["macro_f1"])]))
    lines += ["", f"`{report['command']}`; {report['machine']}; EmoBank's test split, {report['rows']:,} sentences."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    from transformers import AutoConfig

    import liminal_hf

    parser = argparse.ArgumentParser(description="Measure probabilities, intervals and verdicts of a checkpoint.")
    checkpoints.add_checkpoint(parser)
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    source = liminal_hf.DEFAULT_CHECKPOINT if given.checkpoint == checkpoints.DEFAULT else given.checkpoint
    config: Any = AutoConfig.from_pretrained(source)
    corpus, majority = load_emobank(), raters_majority()
    train = corpus["train"]
    names, means = train["id"][:], np.asarray(train["labels"][:], dtype=np.float64)
    rated = [row for row, name in enumerate(names) if name in majority]
    most = np.array([majority[names[row]] for row in rated])
    zones = {}
    for index, name in enumerate(DIMENSIONS):
        width, recall = neutral_width(means[rated, index], most[:, index])
        zones[name] = {"width": width, "recall": recall}
    test, labels = checkpoints.read_split(given.checkpoint, corpus["test"], given.work)
    report = rounded(
        {
            "command": checkpoints.command("answers", given.checkpoint),
            "machine": hardware(),
            "rows": len(labels),
            "zones": zones,
            "emobank": on_emobank(test, labels, config),
            "meld": on_meld(given.checkpoint, config, given),
        }
    )
    save(given.results, "answers", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
