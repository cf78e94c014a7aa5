"""One's own texts with labels, from tables of any kind, as splits for training and evaluation.

Requires datasets and numpy; Excel and SPSS tables need the extra `tables`. Labels come in any stated scale and leave in
-1..1.
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from ..modeling.configuration_liminal import MISSING_LABEL
from ..modeling.errors import LiminalError
from ..modeling.texts import text_error
from .cells import OrderColumn, is_no_value
from .formats import as_text
from .tables import Table, TableSettings, read_table

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {"dev": "validation", "valid": "validation", "val": "validation"}
_KNOWN_SCALES = ((0, 1), (-1, 1), (1, 5), (1, 7), (1, 9), (0, 10), (0, 100), (-100, 100))


def load_table(
    files: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    text: str = "text",
    labels: str | Sequence[str] | Mapping[str, str] = ("V", "A", "D"),
    scale: str | tuple[float, float] = (1.0, 5.0),
    *,
    targets: Sequence[str] | None = None,
    settings: TableSettings | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    person: str | None = None,
    time: str | None = None,
    date_order: str | None = None,
    **options: Any,
) -> DatasetDict:
    """A user's own table, or one per split, as EmoBank comes: `text` and `labels` in -1..1.

    The kind of file is told by its ending: CSV, TSV, JSON, Parquet, Excel or SPSS (see `read_table`). Texts may hold
    quotation marks and line breaks where the cell is quoted. Nothing in a text counts as missing: "None" and "NA" are
    texts.

    Args:
        files: path of the training table, or paths by split: `train`, `validation`, `test` (any of them).
        text: column with the text.
        labels: columns with the labels, one per target, in the targets' order; or a mapping from target to column. An
            empty cell (or NA, NaN, null, None, -, and -100 outside the scale) is a missing label; it becomes -100,
            which the losses and metrics leave out.
        scale: lowest and highest possible label, x -> 2 (x - low) / (high - low) - 1.
        targets: names of the targets, in the order of the model; None: see `TableSettings.label_columns`.
        settings: all of how the tables are read, instead of `text`, `labels`, `scale` and `options`.
        validation_fraction: share of the different texts of `train` that is held out when no `validation` is given and
            there is a `train`; 0 holds none out. All rows with one text are on the same side.
        seed: of that choice.
        person: column of `train` and `validation` that says who wrote a row. It comes as `person`, "" for nobody, and
            whole persons are held out for validation.
        time: column with numbers or dates, with `person`; it comes as `time`, float64, in days where they are dates.
        date_order: "dmy" or "mdy"; None: found in the file.
        options: `separator`, `encoding`, `decimal`, `sheet` and `quotes`, as in `TableSettings`.

    Returns:
        `DatasetDict` with `text` (string), `labels` (a float32 per target, in -1..1 or -100) and, where the tables have
        a column of that name, `id` (string).

    Raises:
        FileNotFoundError: a file is not there.
        LiminalError: a column is missing (the message lists the columns and the closest), a row can't be read, its text
            is empty, a label is no number or outside the scale, or the file is empty or can't be decoded; the message
            says in which line.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text('text;valence;arousal\\n"Well; hello!";8,5;7\\nGo away.;1;\\n', "utf-8")
        >>> corpus = load_table({"test": path}, labels=("valence", "arousal"), scale=(1, 9))
        >>> corpus["test"][:]
        {'text': ['Well; hello!', 'Go away.'], 'labels': [[0.875, 0.5], [-1.0, -100.0]]}
    """
    settings = settings or TableSettings(**{"text": text, "labels": labels, "scale": scale, **options})
    columns = settings.label_columns(targets)
    if not 0 <= validation_fraction < 1:
        raise LiminalError(f"validation_fraction must be at least 0 and below 1, got {validation_fraction}.")
    paths = _split_paths(files)
    when = OrderColumn(time, date_order) if time else None
    apart = {"test": (None, None)}
    parts = {
        split: _read_split(paths[split], settings, columns, *apart.get(split, (person, when)))
        for split in SPLITS
        if split in paths
    }
    if "train" in parts and "validation" not in parts and validation_fraction > 0:
        train, validation = _hold_out(parts["train"], validation_fraction, seed, paths["train"])
        rest = {"test": parts["test"]} if "test" in parts else {}
        parts = {"train": train, "validation": validation, **rest}
    corpus = DatasetDict(parts)
    crossing = cross_split_duplicates(corpus)
    if crossing:
        example, splits = next(iter(crossing.items()))
        logger.warning(
            "%d texts are in more than one split, for example %r in %s: results on them are too good. "
            "liminal_hf.data.cross_split_duplicates lists them.",
            len(crossing), example[:60], " and ".join(splits),
        )  # fmt: skip
    return corpus


def cross_split_duplicates(corpus: Mapping[str, Dataset], text: str = "text") -> dict[str, tuple[str, ...]]:
    """The texts that are, letter for letter, in more than one split: what a model has seen is no test of it.

    EmoBank has 34 of them (of 92 texts that occur more than once).

    Args:
        corpus: splits by name.
        text: column with the text.

    Returns:
        Each such text with the names of the splits that have it.

    Example:
        >>> corpus = DatasetDict(
        ...     train=Dataset.from_dict({"text": ["Yes.", "No.", "No."]}),
        ...     test=Dataset.from_dict({"text": ["Yes.", "Oh."]}),
        ... )
        >>> crossing = cross_split_duplicates(corpus); crossing
        {'Yes.': ('train', 'test')}
        >>> corpus["test"].filter(lambda row: row["text"] not in crossing).num_rows
        1
    """
    where: dict[str, list[str]] = {}
    for split, rows in corpus.items():
        for value in dict.fromkeys(rows[text]):
            where.setdefault(value, []).append(split)
    return {value: tuple(splits) for value, splits in where.items() if len(splits) > 1}


def _split_paths(files: Any) -> dict[str, Path]:
    named = files if isinstance(files, Mapping) else {"train": files}
    paths: dict[str, Path] = {}
    for name, path in named.items():
        split = _SPLIT_NAMES.get(name, name)
        if split not in SPLITS:
            raise LiminalError(f"files are given by split, any of {', '.join(SPLITS)}; got {sorted(named)}.")
        if split in paths:
            raise LiminalError(f"files has two tables for the split {split!r}: {paths[split]} and {path}. Give one.")
        paths[split] = Path(path)
    if not paths:
        raise LiminalError(f"files names no table. Give paths by split, any of {', '.join(SPLITS)}.")
    return paths


def _read_split(
    path: Path,
    settings: TableSettings,
    label_columns: Mapping[str, str],
    person: str | None = None,
    when: OrderColumn | None = None,
) -> Dataset:
    more = [name for name in (person, when and when.name) if name]
    table = read_table(path, settings, [*label_columns.values(), *more])
    if not len(table):
        raise LiminalError(f"{path} has a header and no rows.")
    _check_rows(table)
    labels = _labels(table, label_columns, settings.scale).tolist()
    columns: dict[str, list] = {"text": table.texts, "labels": labels}
    features = {"text": Value("string"), "labels": List(Value("float32"))}
    if person:
        columns["person"] = ["" if is_no_value(one) else as_text(one) for one in table[person]]
        features["person"] = Value("string")
    if when:
        order = replace(when, decimal=table.file.like.decimal, kinds={}, orders={}, written={})
        for row, value in enumerate(table[when.name]):
            order.add(value, f"{path}, {table.where(row)}")
        order.decide()
        columns["time"], features["time"] = list(map(order.number, table[when.name])), Value("float64")
    if "id" in table.columns.column_names and "id" not in (table.file.text, *label_columns.values()):
        ids = ["" if value is None else as_text(value) for value in table["id"]]
        columns, features = {"id": ids, **columns}, {"id": Value("string"), **features}
        repeated = [value for value, count in Counter(ids).items() if count > 1]
        if repeated:
            logger.warning("%s: %d ids occur more than once, for example %r.", path, len(repeated), repeated[0])
    return Dataset.from_dict(columns, features=Features(features))


def _check_rows(table: Table) -> None:
    """Raises when a row can't be read or has no text."""
    text = f"column {table.file.text!r} is"
    bad = []
    for index, (problem, value) in enumerate(zip(table.errors, table.texts, strict=True)):
        error = problem or text_error(value)
        if error:
            error = "missing" if error == "no text (missing value)" else error
            bad.append(problem or f"{table.where(index)}: {text} {error}")
    if not bad:
        return
    more = f"; and {len(bad) - 5} more" if len(bad) > 5 else ""
    advice = " Correct or remove them."
    if table.file.kind == "delimited" and any(table.errors):
        advice += (
            " A text with a separator, a quotation mark or a line break must be in quotation marks, with those inside "
            'doubled ("").'
        )
    shown = "; ".join(bad[:5])
    raise LiminalError(f"{table.file.path}: {len(bad)} of {len(table)} rows can't be read ({shown}{more}).{advice}")


def _labels(table: Table, columns: Mapping[str, str], scale: tuple[float, float]) -> np.ndarray:
    """`(rows, targets)` labels in -1..1, -100 where one is missing."""
    path, names, (low, high) = table.file.path, list(columns.values()), scale
    values = table.numbers(names, scale)
    if not low <= MISSING_LABEL <= high:
        values[values == MISSING_LABEL] = np.nan
    outside = (values < low) | (values > high)  # NaN, a missing label, is neither
    if outside.any():
        column = int(np.flatnonzero(outside.any(axis=0))[0])
        row = int(np.flatnonzero(outside[:, column])[0])
        fits = [f"({a:g}, {b:g})" for a, b in _KNOWN_SCALES if a <= np.nanmin(values) and np.nanmax(values) <= b]
        hint = f" All label columns would fit scale={' or scale='.join(fits[:2])}." if fits else ""
        raise LiminalError(
            f"{path}: column {names[column]!r} holds values from {np.nanmin(values[:, column]):g} to "
            f"{np.nanmax(values[:, column]):g}, which do not fit scale=({low:g}, {high:g}); the first is "
            f"{values[row, column]:g} in {table.where(row)}. Give the scale on which the texts were rated.{hint}"
        )
    for column, (target, name) in enumerate(columns.items()):
        present = values[~np.isnan(values[:, column]), column]
        if not len(present):
            logger.warning("%s: column %r has no label at all; the target %r is not trained.", path, name, target)
        elif len(present) > 1 and np.ptp(present) == 0:
            logger.warning("%s: column %r is %g in every row; nothing can be learned from it.", path, name, present[0])
    if len(values) >= 10 and not np.isnan(values).all() and np.nanmax(values) - np.nanmin(values) < (high - low) / 4:
        logger.warning(
            "%s: all labels lie in %g..%g, less than a quarter of scale=(%g, %g). Is this how they were rated?",
            path, np.nanmin(values), np.nanmax(values), low, high,
        )  # fmt: skip
    return np.where(np.isnan(values), MISSING_LABEL, 2 * (values - low) / (high - low) - 1)


def _hold_out(rows: Dataset, fraction: float, seed: int, path: Path) -> tuple[Dataset, Dataset]:
    texts = rows["text"][:]
    if "person" in rows.column_names:
        texts = [person or text for person, text in zip(rows["person"][:], texts, strict=True)]
    different = sorted(set(texts))
    if len(different) < 2:
        raise LiminalError(
            f"{path} has one text only (or one person), so none can be held out for validation. Give a table for "
            "`validation`, or validation_fraction=0."
        )
    count = min(max(round(fraction * len(different)), 1), len(different) - 1)
    chosen = {different[index] for index in np.random.default_rng(seed).permutation(len(different))[:count]}
    sides = ([index for index, text in enumerate(texts) if (text in chosen) == apart] for apart in (False, True))
    train, validation = (Dataset.from_dict(rows[side], features=rows.features) for side in sides)
    return train, validation
