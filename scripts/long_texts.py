"""Which answer for a whole text is best: rules for its value and its uncertainty, on EmoBank's documents.

Requires liminal_hf and EmoBank with `meta.tsv` (`LIMINAL_DATA_DIR`).

    python scripts/long_texts.py

Nobody rated EmoBank's documents as a whole. A text is what a split has of a document's sentences, joined, and its label
the mean of theirs, weighted by their length. SemEval's headlines are no text. The text is divided again by
`liminal_hf.timeline`. Rules were chosen on the development split. Where the corpora of Hutto and Gilbert are there,
product reviews and editorials are read, too: other texts, whose sentences about 20 raters gave a valence.
"""

import argparse
import csv
import logging
import sys
from collections import defaultdict
from typing import Any

import numpy as np
from research.report import Array, add_folders, line, number, rounded, save
from transformers import pipeline

import liminal_hf
from liminal_hf.data import load_emobank
from liminal_hf.io import require_file
from liminal_hf.metrics import mae, pearson
from liminal_hf.modeling.answers import interval
from liminal_hf.modeling.configuration_liminal import DIMENSIONS, LiminalConfig
from liminal_hf.modeling.windows import SHARED_ERROR

CORRELATIONS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
LEVEL = 0.8
REVIEWS = {"product reviews": "amazon", "editorials": "nyt"}
SPLITS = {"development": "validation", "test": "test"}


def documents(rows: Any) -> tuple[list[str], Array]:
    """Texts of at least two sentences, and their labels `(texts, 3)`."""
    frame = rows.to_pandas()
    frame = frame[frame.genre != "SemEval"].sort_values("position")
    groups = [group for _, group in frame.groupby("document", sort=False) if len(group) > 1]
    labels = [np.average(np.stack(group.labels), axis=0, weights=group.text.str.len()) for group in groups]
    return [" ".join(group.text) for group in groups], np.array(labels)


def reviews(name: str) -> tuple[list[str], Array]:
    """Texts of at least two sentences, and their labels `(texts, 2)`: mean valence by length, and plain mean."""
    parts: dict[str, list[tuple[str, float]]] = defaultdict(list)
    with require_file("vader", f"{name}.csv", None, "cjhutto/vaderSentiment").open(
        encoding="utf-8", newline=""
    ) as file:
        for row in csv.DictReader(file):
            parts[row["doc"]].append((row["text"], float(row["valence"]) / 4))
    kept = [rows for rows in parts.values() if len(rows) > 1]
    labels = [
        [np.average([value for _, value in rows], weights=[len(text) for text, _ in rows]),
         np.mean([value for _, value in rows])]
        for rows in kept
    ]  # fmt: skip
    return [" ".join(text for text, _ in rows) for rows in kept], np.array(labels)


def on_reviews(name: str, pad: Any) -> dict[str, Any]:
    """r of pleasure with both labels, by rule."""
    texts, labels = reviews(name)
    found = whole_texts(texts, pad)
    return {
        "texts": len(texts),
        "cut": found["cut"],
        "rules": {
            rule: pearson(np.repeat(values[:, :1], 2, axis=1), labels).tolist()
            for rule, values in found["rules"].items()
        },
    }


def values_of(row: dict[str, Any], key: str | None = None) -> list[float]:
    """A row's predictions, or what it has by target under a key."""
    return [(row[key] if key else row)[name] for name in DIMENSIONS]


def whole_texts(texts: list[str], pad: Any) -> dict[str, Any]:
    """By rule, `(texts, 3)`: predictions; and by correlation of the errors, standard deviations."""
    rules: dict[str, list[Any]] = {}
    deviations: dict[float, list[Any]] = {correlation: [] for correlation in CORRELATIONS}
    for text in texts:
        rows = [row for row in liminal_hf.timeline(text, pad).rows if row["error"] is None]
        values = np.array([values_of(row) for row in rows])
        doubt = np.array([values_of(row, "uncertainty") for row in rows])
        length = np.array([len(row["sentence"]) for row in rows], dtype=np.float64)
        for name, weights in (
            ("mean, by length", np.tile(length[:, None], 3)),
            ("mean", np.ones_like(values)),
            ("mean, by the square root of the length", np.tile(np.sqrt(length)[:, None], 3)),
            ("mean, by certainty", doubt**-2),
            ("mean, by length and certainty", length[:, None] * doubt**-2),
        ):
            rules.setdefault(name, []).append(np.average(values, axis=0, weights=weights))
        shares = doubt * (length / length.sum())[:, None]
        for c in CORRELATIONS:
            deviations[c].append(np.sqrt((1 - c) * (shares**2).sum(axis=0) + c * shares.sum(axis=0) ** 2))
    cut = pad(texts, batch_size=32, truncation=True)
    rules["one reading, the end cut"] = [values_of(row) for row in cut]
    return {
        "rules": {name: np.array(values) for name, values in rules.items()},
        "deviations": {correlation: np.array(values) for correlation, values in deviations.items()},
        "cut": sum(row["truncated"] for row in cut),
    }


def coverage(means: Array, deviations: Array, labels: Array, config: LiminalConfig) -> list[float]:
    """The share of labels in their intervals, by target."""
    quantiles = config.residual_quantiles or [None] * len(DIMENSIONS)
    shares = []
    for index, of_target in enumerate(quantiles):
        pairs = zip(means[:, index], deviations[:, index], strict=True)
        ends = np.array([interval(mean, deviation, LEVEL, of_target) for mean, deviation in pairs])
        shares.append(float(np.mean((ends[:, 0] <= labels[:, index]) & (labels[:, index] <= ends[:, 1]))))
    return shares


def measured(texts: list[str], labels: Array, pad: Any) -> dict[str, Any]:
    """Agreement by rule, coverage and mean deviation by correlation."""
    found = whole_texts(texts, pad)
    means = found["rules"]["mean, by length"]
    return {
        "texts": len(texts),
        "cut": found["cut"],
        "rules": {
            name: {"r": pearson(values, labels).tolist(), "mae": float(mae(values, labels).mean())}
            for name, values in found["rules"].items()
        },
        "uncertainty": {
            str(correlation): {
                "coverage": coverage(means, values, labels, pad.model.config),
                "mean": float(values.mean()),
            }
            for correlation, values in found["deviations"].items()
        },
    }


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    dev, test = report["development"], report["test"]
    heads = ["answer for a whole text", "test r V / A / D", "test MAE", "development r V / A / D", "development MAE"]
    lines = [line(heads), line(["---"] * len(heads))]
    for name in test["rules"]:
        cells = [name]
        for part in (test, dev):
            rule = part["rules"][name]
            cells += [" / ".join(number(value) for value in rule["r"]), number(rule["mae"])]
        lines.append(line(cells))
    if others := report["reviews"]:
        heads = ["r of pleasure with the mean of the sentences' valence, by length / plain", *others]
        lines += ["", line(heads), line(["---"] * len(heads))]
        for name in test["rules"]:
            cells = [" / ".join(number(value) for value in other["rules"][name]) for other in others.values()]
            lines.append(line([name, *cells]))
    heads = ["correlation of the errors", "test: 80% intervals hold V / A / D", "development", "mean deviation, test"]
    lines += ["", line(heads), line(["---"] * len(heads))]
    for name in test["uncertainty"]:
        shares = [" / ".join(f"{v:.1%}" for v in part["uncertainty"][name]["coverage"]) for part in (test, dev)]
        chosen = " (chosen)" if float(name) == SHARED_ERROR else ""
        lines.append(line([f"{float(name):g}{chosen}", *shares, number(test["uncertainty"][name]["mean"])]))
    lines += [
        "",
        f"`{report['command']}`; EmoBank, {test['texts']} texts of the test split ({test['cut']} longer than 128 "
        f"tokens) and {dev['texts']} of the development split ({dev['cut']}); default checkpoint."
        + "".join(f" {name}: {other['texts']} ({other['cut']})." for name, other in report["reviews"].items()),
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compare rules for the answer for a whole text.")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    pad = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
    corpus = load_emobank(extras=True)
    parts = {name: measured(*documents(corpus[split]), pad) for name, split in SPLITS.items()}
    others = {}
    for title, name in REVIEWS.items():
        try:
            others[title] = on_reviews(name, pad)
        except FileNotFoundError as error:
            print(error, file=sys.stderr)
    report = rounded({"command": "python scripts/long_texts.py", **parts, "reviews": others})
    save(given.results, "long_texts", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
