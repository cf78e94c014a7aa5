"""The predictions file: what a model said of each text, written by `liminal evaluate` and read by `liminal plot`.

Requires numpy and pyarrow.

A *predictions file* has a row per text: what `liminal evaluate --predictions`, `liminal score` and `liminal predict
--json` write. Its columns, of which only the targets are required:

| column | holds |
|---|---|
| `pleasure`, `arousal`, `dominance`, or the model's own targets | the prediction, in label units |
| `gold_pleasure`, ... | the label; null, empty or -100 where missing |
| `uncertainty_pleasure`, ... | predicted standard deviation, in label units |
| `pad_trajectory` | the answer after each refinement step, K lists with a number per target |
| `step_attentions` | K lists of K numbers in 0..1 |
| `id`, `text`, `conversation`, `speaker`, `turn`, `octant` | what the row is about; turns are numbers that rise |
| `error` | why the row has no prediction; such rows are left out and counted |

A JSON object `"gold": {"pleasure": ...}` reads like `gold_pleasure`; a cell of a CSV holds a list as JSON.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL
from ..modeling.errors import LiminalError
from .style import Array

if TYPE_CHECKING:
    from ..data.tables import TableSettings

PREDICTION_FORMATS = (".jsonl", ".parquet", ".csv")
LABELS = ("id", "text", "conversation", "speaker", "turn", "octant")
ROW_ERRORS = "error of the row"
_PARTS = ("gold", "uncertainty", "percentile")


@dataclass
class Predictions:
    """What a predictions file holds, in label units; None is what it does not have."""

    targets: tuple[str, ...]  # T names
    predicted: Array  # (rows, T)
    gold: Array | None = None  # (rows, T), -100 where missing
    uncertainty: Array | None = None  # (rows, T), standard deviations
    pad_trajectory: Array | None = None  # (rows, K, T)
    step_attentions: Array | None = None  # (rows, K, K)
    labels: dict[str, list[Any]] | None = None  # each of LABELS that is there -> a value per row
    left_out: int = 0  # how many rows of the file have no prediction and are not here


def write_predictions(
    path: str | Path,
    predicted: ArrayLike,
    *,
    targets: Sequence[str] = DIMENSIONS,
    gold: ArrayLike | None = None,
    uncertainty: ArrayLike | None = None,
    pad_trajectory: ArrayLike | None = None,
    confidences: ArrayLike | None = None,
    step_attentions: ArrayLike | None = None,
    **labels: Sequence[Any],
) -> Path:
    """Writes a predictions file (see the module) that `read_predictions` and `liminal plot` take.

    Args:
        path: where to; the ending says which format. Numbers are rounded to 7 digits.
        predicted: `(rows, T)` in label units; NaN becomes null.
        targets: T names.
        gold, uncertainty: `(rows, T)`; a gold value of -100 is missing.
        pad_trajectory: `(rows, K, T)`.
        confidences: `(rows, K)`.
        step_attentions: `(rows, K, K)`.
        labels: columns such as `text`, `speaker` or `turn`, with a value per row.

    Raises:
        LiminalError: an unknown ending, or an array whose shape does not fit `predicted`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "predictions.jsonl"
        >>> _ = write_predictions(path, [[.25, 0, -.5]], confidences=[[.5, .75]], text=["Well."])
        >>> print(path.read_text().strip())
        {"text": "Well.", "pleasure": 0.25, "arousal": 0.0, "dominance": -0.5, "confidences": [0.5, 0.75]}
    """
    from ..data import write_table

    path = Path(path)
    check_format(path)
    count = len(np.asarray(predicted))
    columns: dict[str, list[Any]] = {}
    for name, column in labels.items():
        if len(column) != count:
            raise LiminalError(f"`{name}` must have a value per row ({count}), got {len(column)}.")
        columns[name] = list(column)
    for argument, prefix, given in (
        ("predicted", "", predicted),
        ("gold", "gold_", gold),
        ("uncertainty", "uncertainty_", uncertainty),
    ):
        if given is not None:
            array = _shaped(argument, given, (count, len(targets)))
            array = np.where(array == MISSING_LABEL, np.nan, array) if argument == "gold" else array
            columns |= {f"{prefix}{name}": _plain(column) for name, column in zip(targets, array.T, strict=True)}
    for name, nested, shape in (
        ("pad_trajectory", pad_trajectory, (count, None, len(targets))),
        ("confidences", confidences, (count, None)),
        ("step_attentions", step_attentions, (count, None, None)),
    ):
        if nested is not None:
            values = _plain(_shaped(name, nested, shape))
            columns[name] = list(map(json.dumps, values)) if path.suffix.lower() == ".csv" else values
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_table(path, columns)


def check_format(path: Path) -> None:
    """Raises a LiminalError for an ending that predictions can't have."""
    if path.suffix.lower() not in PREDICTION_FORMATS:
        raise LiminalError(f"{path}: the ending of a predictions file is one of {', '.join(PREDICTION_FORMATS)}.")


def _shaped(name: str, values: ArrayLike, shape: tuple[int | None, ...]) -> Array:
    try:
        array = np.asarray(values, dtype=np.float64)
    except ValueError:
        array = np.empty(0)  # ragged
    if array.ndim != len(shape) or any(w not in (None, have) for w, have in zip(shape, array.shape, strict=True)):
        wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise LiminalError(f"`{name}` must have the shape {wanted}, got {array.shape}.")
    return array


def _plain(values: Array) -> list[Any]:
    """Nested lists of numbers with 7 digits, None for NaN."""
    if values.ndim > 1:
        return [_plain(part) for part in values]
    return [None if np.isnan(value) else float(f"{value:.7g}") for value in values]


def read_predictions(
    source: str | Path, settings: "TableSettings | None" = None, *, labelled: bool = False, prefix: str = ""
) -> Predictions:
    """Reads a predictions file, the `predictions.*` of a folder, or JSON lines from stdin ("-"); see the module.

    Args:
        source: path, or "-".
        settings: how the table is written.
        labelled: the gold values are the columns `settings.labels`, on the scale `settings.scale`.
        prefix: before the names of the columns with predictions (`liminal score --prefix`).

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        LiminalError: a column is missing or holds something else than it should; the message names it.

    Example:
        >>> import tempfile
        >>> path = write_predictions(Path(tempfile.mkdtemp()) / "mine.csv", [[.25, 0, -.5]], gold=[[.5, -100, 0]])
        >>> read_predictions(path).gold.tolist()
        [[0.5, -100.0, 0.0]]
    """
    table, where = read_columns(source, settings)
    decimal = settings.decimal if settings else None
    labels = [] if settings is None or not labelled else list(settings.label_columns().values())
    if missing := [name for name in labels if name not in table]:
        raise LiminalError(f"{where} has no column {missing[0]!r}. Its columns: {', '.join(table)}.")
    own = {name: table[name] for name in labels}
    table = {name.removeprefix(prefix): column for name, column in table.items()}
    named = [name for name in table if any(f"{part}_{name}" in table for part in _PARTS)]
    targets = named or [name for name in ("valence", *DIMENSIONS) if name in table]
    if not targets:
        raise LiminalError(
            f"{where} has no column {DIMENSIONS[0]!r}. It has: {', '.join(table) or 'nothing'}. Predictions come from "
            "liminal score, liminal predict --json or liminal evaluate --predictions."
        )
    predicted = numbers(table, targets, where, decimal)
    if not len(predicted):
        raise LiminalError(f"{where} has no rows.")
    predicted[[error not in (None, "") for error in table.get(ROW_ERRORS, [None] * len(predicted))]] = np.nan
    # A target that was never trained has no prediction in any row.
    trained: np.ndarray = np.asarray(~np.isnan(predicted).all(axis=0))
    targets = [name for name, one in zip(targets, trained, strict=True) if one]
    complete = np.asarray(~np.isnan(predicted[:, trained]).any(axis=1))
    rows: np.ndarray = np.flatnonzero(complete) if targets else np.empty(0, dtype=int)
    if not len(rows):
        errors = (*table.get("error", []), *table.get(ROW_ERRORS, []))
        why = next((f" The first error: {error}" for error in errors if isinstance(error, str) and error), "")
        raise LiminalError(f"{where}: not one of its {len(predicted)} rows has a prediction.{why}")
    table, own = ({name: [column[row] for row in rows] for name, column in part.items()} for part in (table, own))
    if labelled and settings is not None:
        columns = list(settings.label_columns(targets).values())
        low, high = settings.scale
        gold = 2 * (numbers(own, columns, where, decimal) - low) / (high - low) - 1
    else:
        gold = numbers(table, [f"gold_{name}" for name in targets], where, decimal)
        gold[gold == MISSING_LABEL] = np.nan
    trajectory = _nested(table, "pad_trajectory", (len(rows), None, len(trained)), where)
    uncertainty = numbers(table, [f"uncertainty_{name}" for name in targets], where, decimal)
    return Predictions(
        tuple(targets),
        predicted[np.ix_(rows, trained)],
        None if np.isnan(gold).all() else np.where(np.isnan(gold), MISSING_LABEL, gold),
        None if np.isnan(uncertainty).all() else uncertainty,
        None if trajectory is None else trajectory[..., trained],
        _nested(table, "step_attentions", (len(rows), None, None), where),
        {name: table[name] for name in LABELS if name in table},
        len(predicted) - len(rows),
    )


def read_columns(source: str | Path, settings: "TableSettings | None" = None) -> tuple[dict[str, list[Any]], str]:
    """The columns of a table, of the predictions file in a folder, or of JSON lines on stdin ("-"); and its name.

    The column `ROW_ERRORS` says of each row of a table why it can't be read, or None.
    """
    path = Path(source)
    if str(source) == "-":
        return _json_lines(sys.stdin.buffer.read().decode("utf-8-sig").split("\n"), "The input"), "The input"
    if path.is_dir():
        candidates = [path / f"predictions{kind}" for kind in PREDICTION_FORMATS]
        present = [candidate for candidate in candidates if candidate.is_file()]
        if not present:
            raise FileNotFoundError(
                f"{path} holds no predictions file (predictions.jsonl, ...). Make one: "
                f"liminal evaluate {path} --predictions {candidates[0]}"
            )
        path = present[0]
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.suffix.lower() == ".jsonl":
        return _json_lines(path.read_text(encoding="utf-8-sig").split("\n"), str(path)), str(path)
    from ..data import TableSettings, read_table

    table = read_table(path, replace(settings or TableSettings(), text=""))
    return {**table.columns.to_pydict(), ROW_ERRORS: table.errors}, str(path)


def _json_lines(lines: Sequence[str], where: str) -> dict[str, list[Any]]:
    """A column per key; an object becomes a column for each of its keys."""
    rows: list[dict[str, Any]] = []
    for index, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise LiminalError(f"{where}, line {index} is not JSON: {error}. Each line must be one object.") from None
        if not isinstance(row, dict):
            raise LiminalError(f"{where}, line {index} is no object but {type(row).__name__}: {line[:40]!r}.")
        flat: dict[str, Any] = {}
        for key, value in row.items():
            flat |= {f"{key}_{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
        rows.append(flat)
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}


def numbers(table: dict[str, list[Any]], names: Sequence[str], where: str, decimal: str | None = None) -> Array:
    """Columns as `(rows, columns)` in float64; NaN for what is missing, a column that is not there included."""
    from ..data.cells import find_decimal, is_missing
    from ..data.cells import numbers as parse

    cells = [cell for name in names for cell in table.get(name, []) if isinstance(cell, str) and not is_missing(cell)]
    mark = decimal or find_decimal(cells, what=f"{where}: column {names[0]!r}")
    array = np.full((len(next(iter(table.values()), [])), len(names)), np.nan)
    for index, name in enumerate(names):
        if name in table:
            array[:, index] = parse(table[name], mark, f"{where}: column {name!r}", lambda row: f"row {row + 1}")
    return array


def _nested(table: dict[str, list[Any]], name: str, shape: tuple[int | None, ...], where: str) -> Array | None:
    column = table.get(name, [])
    if all(value is None or isinstance(value, float) for value in column):
        return None
    try:
        # A CSV has JSON in its cells.
        return _shaped(name, [json.loads(value) if isinstance(value, str) else value for value in column], shape)
    except (TypeError, ValueError) as error:
        raise LiminalError(
            f"{where}: column {name!r} must hold the same number of steps in each row: {error}"
        ) from None
