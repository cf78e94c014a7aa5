"""Where a checkpoint errs on EmoBank's test split: by genre, length, raters and labels, and its twenty worst sentences.

Requires liminal_hf with its benchmark extra, and EmoBank with its single ratings and `meta.tsv` (`LIMINAL_DATA_DIR`).

    python scripts/errors.py [CHECKPOINT] [--texts]

The worst are those with the largest root mean square of error / standard deviation of the training labels over the
three dimensions. They have been read, and what seems to have gone wrong is in `error_causes.json`, by sentence, so that
the next checkpoint finds it; a sentence that nobody has read yet is "not read yet". `--texts` prints them in full; the
table holds short quotations with their source.
"""

import argparse
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from research import checkpoint as checkpoints
from research.emobank import PERSPECTIVES, read_ratings
from research.report import Array, add_folders, line, number, rounded, save, three
from scipy.stats import rankdata

from liminal_hf import metrics
from liminal_hf.data import load_emobank
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.training.run_folder import hardware

CAUSES = Path(__file__).with_name("error_causes.json")
NOT_READ = "not read yet"
WORST = 20
QUOTED = 110  # characters
BINS = 4


def binned(values: Array, shares: list[float], names: list[str]) -> NDArray[np.str_]:
    """A name per value, by where it lies among all of them.

    Args:
        values: `(rows,)`.
        shares: the inner borders as shares of the rows, ascending.
        names: one more than borders.

    Example:
        >>> binned(np.array([5.0, 1.0, 3.0, 9.0]), [0.5], ["low", "high"]).tolist()
        ['high', 'low', 'low', 'high']
    """
    place = (rankdata(values, method="average") - 0.5) / len(values)
    return np.array(names)[np.searchsorted(shares, place)]


def quarters(values: Array, form: str) -> NDArray[np.str_]:
    """Four groups of about equal size, named by the values that they span; equal values share a group."""
    edges = np.quantile(values, np.linspace(0, 1, BINS + 1))
    place = np.searchsorted(np.unique(edges[1:-1]), values)
    names = {one: f"{values[place == one].min():{form}} to {values[place == one].max():{form}}" for one in set(place)}
    return np.array([names[one] for one in place])


def figures(predictions: Array, labels: Array, mean: Array) -> dict[str, Any]:
    """The figures of a group of sentences."""
    return {
        "rows": len(labels),
        "r": dict(zip(DIMENSIONS, metrics.pearson(predictions, labels).tolist(), strict=True)),
        "mean_r": metrics.mean_pearson(predictions, labels),
        "mae": float(metrics.mae(predictions, labels).mean()),
        "mae_constant": float(metrics.mae(np.tile(mean, (len(labels), 1)), labels).mean()),
        "bias": dict(zip(DIMENSIONS, (predictions - labels).mean(axis=0).tolist(), strict=True)),
    }


def groupings(
    rows: pd.DataFrame, labels: Array, mean: Array, deviation: Array
) -> dict[str, tuple[NDArray[np.str_], NDArray[Any]]]:
    """The ways to sort the sentences: a group's name per sentence, and what puts the groups in order."""
    words = np.array([len(text.split()) for text in rows["text"]], dtype=np.float64)
    spread = np.mean([np.asarray(row) for row in rows["label_std"]], axis=1)
    extreme = np.sqrt((((labels - mean) / deviation) ** 2).mean(axis=1))
    genres = rows["genre"].to_numpy(dtype=str)
    far = binned(extreme, [0.5, 0.9], ["half nearest to the mean", "next 40%", "farthest 10%"])
    return {
        "genre": (genres, genres),
        "length in words": (quarters(words, ".0f"), words),
        "raters' disagreement (sd)": (quarters(spread, ".2f"), spread),
        "how extreme the labels are": (far, extreme),
    }


def ratings_of(ids: list[str]) -> dict[str, dict[str, str]]:
    """Every rating of some sentences, readers and writers together, 1..5 in ascending order, such as "12335"."""
    table = pd.concat([read_ratings(perspective) for perspective in PERSPECTIVES])
    table = table[table["id"].isin(ids)]
    found: dict[str, dict[str, str]] = {}
    for name, group in table.groupby("id"):
        found[str(name)] = {
            dimension: "".join(f"{value:.0f}" for value in sorted(group[column]))
            for dimension, column in zip(DIMENSIONS, "VAD", strict=True)
        }
    return found


def quoted(text: str) -> str:
    """The beginning of a text, in one line, without the quotation marks around it."""
    text = " ".join(text.split()).strip('"“”')
    return text if len(text) <= QUOTED else text[:QUOTED].rsplit(" ", 1)[0] + " ..."


def worst(rows: pd.DataFrame, predictions: Array, labels: Array, deviation: Array, causes: Path) -> list[dict]:
    """The sentences with the largest errors, with every rating and what was found by reading them."""
    known = json.loads(causes.read_text(encoding="utf-8"))["sentences"]
    error = np.sqrt((((predictions - labels) / deviation) ** 2).mean(axis=1))
    order = np.argsort(-error, kind="stable")[:WORST]
    ratings = ratings_of(rows["id"].iloc[order].tolist())
    found = []
    for row in order:
        entry = rows.iloc[int(row)]
        cause, why = known.get(entry["id"], [NOT_READ, ""])
        found.append(
            {
                "id": entry["id"],
                "genre": entry["genre"],
                "text": quoted(entry["text"]),
                "error": float(error[row]),
                "label": labels[row].tolist(),
                "prediction": predictions[row].tolist(),
                "ratings": ratings.get(entry["id"], dict.fromkeys(DIMENSIONS, "")),
                "cause": cause,
                "why": why,
            }
        )
    return found


def _signed(values: list[float] | dict[str, float]) -> str:
    values = list(values.values()) if isinstance(values, dict) else values
    return " / ".join(number(value, 2, True) for value in values)


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["sentences", "number", "r V / A / D", "mean r", "MAE", "a constant's MAE", "bias V / A / D"]
    lines = [line(heads), line(["---"] * len(heads))]
    for title, groups in report["groups"].items():
        for name, entry in groups.items():
            cells = [f"{title}: {name}", f"{entry['rows']:,}", three(entry["r"]), number(entry["mean_r"])]
            cells += [number(entry["mae"], 4), number(entry["mae_constant"], 4), _signed(entry["bias"])]
            lines.append(line(cells))
    heads = ["the worst sentences", "label V / A / D", "prediction", "ratings V, A, D", "cause"]
    lines += ["", line(heads), line(["---"] * len(heads))]
    for entry in report["worst"]:
        text = entry["text"].replace("|", "\\|")
        cause = f"{entry['cause']}: {entry['why']}" if entry["why"] else entry["cause"]
        ratings = ", ".join(entry["ratings"].values())
        lines.append(line([f"“{text}”", _signed(entry["label"]), _signed(entry["prediction"]), ratings, cause]))
    counted = ", ".join(f"{name} {count}" for name, count in report["causes"].items())
    lines += [
        "",
        f"`{report['command']}`; {report['machine']}; EmoBank's test split. Bias: the mean of prediction - label. "
        f"Ratings: each rater's 1 to 5, readers and writers together. Causes of the {len(report['worst'])} worst: "
        f"{counted}. The sentences are quoted from EmoBank (Buechel & Hahn 2017, EACL), CC-BY-SA 4.0.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Analyse the errors of a checkpoint on EmoBank's test split.")
    checkpoints.add_checkpoint(parser)
    parser.add_argument("--texts", action="store_true", help="print the worst sentences in full")
    parser.add_argument("--causes", type=Path, default=CAUSES, help="what was read in the sentences (%(default)s)")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    try:
        corpus = load_emobank(extras=True)
        reading, labels = checkpoints.read_split(given.checkpoint, corpus["test"], given.work)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    rows = corpus["test"].to_pandas()
    train = np.asarray(corpus["train"]["labels"][:], dtype=np.float64)
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    groups: dict[str, Any] = {"all": {"sentences": figures(reading.pad, labels, mean)}}
    for title, (names, key) in groupings(rows, labels, mean, deviation).items():
        order = dict.fromkeys(names[np.argsort(key, kind="stable")])
        groups[title] = {str(name): figures(reading.pad[names == name], labels[names == name], mean) for name in order}
    found = worst(rows, reading.pad, labels, deviation, given.causes)
    report = rounded(
        {
            "command": checkpoints.command("errors", given.checkpoint),
            "machine": hardware(),
            "groups": groups,
            "worst": found,
            "causes": dict(Counter(entry["cause"] for entry in found).most_common()),
        }
    )
    save(given.results, "errors", report, markdown(report))
    print(markdown(report))
    if given.texts:
        whole = dict(zip(rows["id"], rows["text"], strict=True))
        print("\n".join(f"{entry['id']}: {whole[entry['id']]}" for entry in found))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
