"""What the scripts that measure share: figures over resamples, their summaries, numbers and tables for people.

Requires liminal_hf.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from liminal_hf import metrics
from liminal_hf.io import atomic_write
from liminal_hf.modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL

Array = NDArray[np.float64]
RESAMPLES = 2000
RESULTS = Path("scripts/results")
_MARKERS = ("<!-- table -->", "<!-- end -->")


def resample_counts(rows: int, number: int, seed: int = 0) -> Array:
    """`(number, rows)`: how often each row was drawn in each bootstrap resample (Efron & Tibshirani 1993)."""
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=number).astype(np.float64)


def weighted_figures(
    predictions: Array, labels: Array, weights: Array, groups: NDArray[np.int64] | None = None
) -> dict[str, Array]:
    """Pearson r, CCC and MAE per dimension, for each row of weights.

    With counts as weights they are the figures of a resample, without drawing its rows. What does not vary counts as 0,
    so that a constant can be compared.

    Args:
        predictions, labels: `(rows, 3)`; a label of -100 is left out, a dimension that is not predicted, NaN, stays so.
        weights: `(draws, rows)`, or `(draws, number of groups)` where whole groups are drawn.
        groups: `(rows,)`, which group each row belongs to, 0..number of groups - 1.

    Returns:
        `(draws, 3)` for each of `r`, `ccc`, `mae`.

    Example:
        >>> found = weighted_figures(np.array([[0.0], [1], [9]]), np.array([[1.0], [3], [0]]), np.array([[1.0, 1, 0]]))
        >>> found["r"].round(6).tolist(), found["mae"].tolist()
        ([[1.0]], [[1.5]])
    """
    found: dict[str, list[Array]] = {"r": [], "ccc": [], "mae": []}
    for p, y in zip(predictions.T, labels.T, strict=True):
        known = y != MISSING_LABEL
        # One shift for both keeps their differences.
        shift = y[known].mean()
        p, y = np.where(known, p - shift, 0.0), np.where(known, y - shift, 0.0)
        sums = np.stack([known, p, y, p * p, y * y, p * y, np.abs(p - y)], axis=1)
        if groups is not None:
            sums = np.stack([np.bincount(groups, column, weights.shape[1]) for column in sums.T], axis=1)
        total = weights @ sums
        mean_p, mean_y, pp, yy, py, error = (total[:, 1:] / total[:, :1]).T
        var_p, var_y = np.clip(pp - mean_p**2, 0, None), np.clip(yy - mean_y**2, 0, None)
        covariance, spread = py - mean_p * mean_y, np.sqrt(var_p * var_y)
        # Rounding leaves a constant with a spread of 1e-17; its r and CCC are 0.
        varies = ~(spread <= 1e-12)
        found["r"].append(np.where(varies, covariance / np.maximum(spread, 1e-12), 0.0))
        distance = np.maximum(var_p + var_y + (mean_p - mean_y) ** 2, 1e-12)
        found["ccc"].append(np.where(varies, 2 * covariance / distance, 0.0))
        found["mae"].append(error)
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def mean_r(predictions: Array, labels: Array) -> float:
    """Mean Pearson r over the dimensions that are predicted."""
    return float(np.nanmean(partly(metrics.pearson, predictions, labels)))


def partly(figure: Callable[[Any, Any], Array], predictions: Array, labels: Array) -> Array:
    """The figure per dimension, NaN where nothing is predicted."""
    absent = np.isnan(predictions).all(axis=0)
    return np.where(absent, np.nan, figure(np.where(absent, 0.0, predictions), labels))


def summary(values: list[Array]) -> dict[str, Any]:
    """Mean over the seeds by dimension, their mean, and its standard deviation over the seeds."""
    table = np.array(values)
    means = table.mean(axis=1)
    result: dict[str, Any] = dict(zip(DIMENSIONS, table.mean(axis=0).tolist(), strict=True))
    result["mean"] = float(means.mean())
    result["sd"] = float(means.std(ddof=1)) if len(means) > 1 else None
    return {name: None if value is None or np.isnan(value) else value for name, value in result.items()}


def rounded(value: Any) -> Any:
    """Plain values with every float to 5 places."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def content_hash(value: Any) -> str:
    """A name for plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def number(value: float | None, places: int = 3, sign: bool = False) -> str:
    """A figure without the zero before its point; "-" where there is none."""
    if value is None:
        return "-"
    text = f"{value:{'+' if sign else ''}.{places}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def interval(gap: dict[str, float], places: int = 3, sign: bool = True) -> str:
    """A figure (`mean`) with its interval (`low`, `high`)."""
    mean, low, high = (number(gap[name], places, sign) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def three(summary: dict[str, Any]) -> str:
    """The figures of the three dimensions."""
    return " / ".join(number(summary[dimension]) for dimension in DIMENSIONS)


def with_sd(summary: dict[str, Any]) -> str:
    """The mean over the dimensions, with its deviation over the seeds where there are several."""
    return number(summary["mean"]) + ("" if summary["sd"] is None else f" ± {number(summary['sd'])}")


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def save(results: Path, name: str, table: dict[str, Any], text: str) -> None:
    """Writes a table for machines, `name.json`, and the page for people, `name.md`.

    What a page says around its table, outside of `<!-- table -->` and `<!-- end -->`, stays as it is.
    """
    results.mkdir(parents=True, exist_ok=True)
    page = results / f"{name}.md"
    before, end = _MARKERS
    block = f"{before}\n{text.strip()}\n{end}\n"
    content = page.read_text(encoding="utf-8") if page.is_file() else block
    if before in content and end in content:
        content = content[: content.index(before)] + block + content[content.index(end) + len(end) + 1 :]
    else:
        content = block
    for path, written in (
        (results / f"{name}.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n"),
        (page, content),
    ):
        with atomic_write(path) as temporary:
            temporary.write_text(written, encoding="utf-8")


def add_folders(parser: argparse.ArgumentParser, work: str) -> None:
    """The options `--work` and `--results`."""
    parser.add_argument("--work", type=Path, default=Path(work), help="keeps what was computed (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets the tables (%(default)s)")


def read_seeds(parser: argparse.ArgumentParser, text: str) -> list[int]:
    """The numbers in "0,1,2"; the command ends with a message when they are none."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        parser.error(f"--seeds takes whole numbers with commas, such as 0,1,2; got {text!r}")
