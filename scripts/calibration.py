"""How sure a checkpoint is, and how right that is: intervals, the ranking of its errors, and how much it dares.

Requires liminal_hf with its extra benchmark and EmoBank (`LIMINAL_DATA_DIR`).

    python scripts/calibration.py [CHECKPOINT]

Intervals are split-conformal: a prediction plus and minus a multiple of its `uncertainty`, the multiple taken from the
development split, the coverage measured on test; beside them intervals of one width for all texts, made the same way.
(The development split also chose the checkpoint's epoch and its `uncertainty_scale`, which is one number a dimension:
too little to bend a quantile noticeably, and the coverage on test shows it.) The ranking is Spearman's correlation with
|error| on test, beside what needs no model of the uncertainty, the length of the text and |prediction - mean|, and the
partial correlation given both.
"""

import argparse
import logging
import sys
from typing import Any

import numpy as np
from research import checkpoint as checkpoints
from research.metrics import absolute_errors, conformal_factors, gaussian_factors, interval_coverage
from research.report import Array, add_folders, interval, line, number, rounded, save
from scipy.stats import rankdata

from liminal_hf import metrics
from liminal_hf.data import load_emobank
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.training.run_folder import hardware

LEVELS = (0.5, 0.8, 0.9)
RESAMPLES = 1000
BASELINES = ("length in words", "|prediction - mean|")


def coverage(dev: checkpoints.Reading, dev_labels: Array, test: checkpoints.Reading, labels: Array) -> dict[str, Any]:
    """Coverage and mean width on test of intervals fitted on dev, by level and dimension.

    `conformal`: multiples of the uncertainty; `constant`: one width; `gaussian`: the uncertainty as it is.
    """
    dev_errors, errors = (absolute_errors(part.pad, gold) for part, gold in ((dev, dev_labels), (test, labels)))
    ones = [np.ones_like(values) for values in (dev_errors, errors)]
    kinds = {
        "conformal": (conformal_factors(dev_errors, dev.uncertainty, LEVELS), test.uncertainty),
        "constant": (conformal_factors(dev_errors, ones[0], LEVELS), ones[1]),
        "gaussian": (gaussian_factors(LEVELS), test.uncertainty),
    }
    found: dict[str, Any] = {}
    for kind, (factors, spread) in kinds.items():
        covered = interval_coverage(errors, spread, factors)
        widths = 2 * factors * spread.mean(axis=0)
        for place, level in enumerate(LEVELS):
            entry = found.setdefault(f"{level:g}", {})
            entry[kind] = {
                "coverage": dict(zip(DIMENSIONS, covered[place].tolist(), strict=True)),
                "width": dict(zip(DIMENSIONS, widths[place].tolist(), strict=True)),
            }
    return found


def rank_correlations(error: Array, columns: Array) -> Array:
    """Spearman's correlation of columns with the error: the two baselines, each other column, and it given both.

    Args:
        error: `(rows,)`.
        columns: `(rows, 2 + signals)`, the two baselines first.

    Returns:
        `(2 + 2 * signals,)`: the baselines, the signals, the signals' partial correlations (Pearson's of the residuals
        of the ranks after a linear regression on the baselines' ranks).

    Example:
        >>> generator = np.random.default_rng(0)
        >>> columns = generator.normal(size=(300, 3))
        >>> rank_correlations(columns @ [1, 0, 1], columns).round(1).tolist()
        [0.7, 0.0, 0.7, 0.9]
    """
    ranks = rankdata(np.column_stack([error, columns]), axis=0)
    ranks -= ranks.mean(axis=0)
    base = ranks[:, 1:3]
    rest = ranks - base @ np.linalg.lstsq(base, ranks, rcond=None)[0]
    # What a column shares with the baselines leaves rounding behind, which is no signal.
    rest[:, (rest**2).sum(axis=0) < 1e-12 * (ranks**2).sum(axis=0)] = 0
    return np.concatenate([_correlations(ranks)[1:], _correlations(rest[:, [0, *range(3, ranks.shape[1])]])[1:]])


def _correlations(columns: Array) -> Array:
    """Pearson's correlation of each centred column with the first; 0 for a constant one."""
    lengths = np.sqrt((columns**2).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(columns.T @ columns[:, 0] / (lengths * lengths[0]))


def ranking(reading: checkpoints.Reading, labels: Array, texts: list[str], mean: Array) -> dict[str, Any]:
    """What ranks the errors on test, by dimension and for the mean of the three, with bootstrap intervals."""
    errors = absolute_errors(reading.pad, labels)
    words = np.array([len(text.split()) for text in texts], dtype=np.float64)
    distance = np.abs(reading.pad - mean)
    doubt = 1 - reading.confidence
    names = (*BASELINES, "uncertainty", "1 - confidence", "uncertainty, partial", "1 - confidence, partial")
    whole = np.mean([errors, distance, reading.uncertainty], axis=2)
    parts = [(name, errors[:, i], distance[:, i], reading.uncertainty[:, i]) for i, name in enumerate(DIMENSIONS)]
    parts.append(("mean", *whole))
    found: dict[str, Any] = {}
    for name, error, far, spread in parts:
        known = ~np.isnan(error)
        columns = np.column_stack([words, far, spread, doubt])[known]
        generator = np.random.default_rng(0)
        draws = (generator.integers(len(columns), size=len(columns)) for _ in range(RESAMPLES))
        drawn = np.array([rank_correlations(error[known][rows], columns[rows]) for rows in draws])
        ends = np.percentile(drawn, [2.5, 97.5], axis=0)
        figures = zip(rank_correlations(error[known], columns), *ends, strict=True)
        found[name] = {
            label: {"mean": float(value), "low": float(low), "high": float(high)}
            for label, (value, low, high) in zip(names, figures, strict=True)
        }
    return found


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["intervals", "V: coverage, width", "A", "D", "off by at most"]
    lines = [line(heads), line(["---"] * len(heads))]
    titles = {"conformal": "multiple of the uncertainty", "constant": "one width", "gaussian": "as if Gaussian"}
    for level, kinds in report["intervals"].items():
        for kind, title in titles.items():
            covered, width = kinds[kind]["coverage"], kinds[kind]["width"]
            off = max(abs(covered[name] - float(level)) for name in DIMENSIONS)
            cells = [f"{covered[name]:.1%}, {number(width[name])}" for name in DIMENSIONS]
            lines.append(line([f"{float(level):.0%}, {title}", *cells, f"{100 * off:.1f} points"]))
    heads = ["Spearman with the absolute error", "V", "A", "D", "mean of the three"]
    lines += ["", line(heads), line(["---"] * len(heads))]
    columns = [*DIMENSIONS, "mean"]
    for name in report["ranking"]["mean"]:
        title = name.replace(", partial", ", given length and distance").replace("|", "\\|")
        lines.append(line([title, *(interval(report["ranking"][column][name], 2) for column in columns)]))
    ratio = " / ".join(number(report["sd_ratio"][name], 2) for name in DIMENSIONS)
    lines += [
        "",
        f"`{report['command']}`; {report['machine']}; multiples and widths from {report['rows_dev']:,} sentences of "
        f"the development split, figures on {report['rows_test']:,} of test, in label units; 95% of {RESAMPLES:,} "
        f"bootstrap resamples. Standard deviation of the predictions over that of the labels: {ratio}.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure the uncertainty of a checkpoint on EmoBank.")
    checkpoints.add_checkpoint(parser)
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    try:
        corpus = load_emobank()
        dev, dev_labels = checkpoints.read_split(given.checkpoint, corpus["validation"], given.work)
        test, labels = checkpoints.read_split(given.checkpoint, corpus["test"], given.work)
        if test.uncertainty is None or test.confidence is None:
            raise ValueError(f"{given.checkpoint} gives no uncertainty. Of the heads, v7 does.")
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    mean = np.asarray(corpus["train"]["labels"][:], dtype=np.float64).mean(axis=0)
    report = rounded(
        {
            "command": checkpoints.command("calibration", given.checkpoint),
            "machine": hardware(),
            "rows_dev": len(dev_labels),
            "rows_test": len(labels),
            "intervals": coverage(dev, dev_labels, test, labels),
            "ranking": ranking(test, labels, corpus["test"]["text"][:], mean),
            "sd_ratio": dict(zip(DIMENSIONS, metrics.sd_ratio(test.pad, labels).tolist(), strict=True)),
        }
    )
    save(given.results, "calibration", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
