"""One's own texts with pleasure, arousal and dominance, from a CSV, TSV, Parquet or JSON-lines file.

Requires datasets and pandas (which reads the files). Labels come in any stated scale and leave in -1..1.
"""

import difflib
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, Features, List, Value

from ..modeling.configuration_liminal import MISSING_LABEL

logger = logging.getLogger(__name__)

_MISSING_WORDS = {"", "na", "n/a", "nan", "none", "null", "-"}
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_JSON_LINES = {".jsonl", ".ndjson"}
_KNOWN_SCALES = ((0, 1), (-1, 1), (1, 5), (1, 7), (1, 9), (0, 10), (0, 100), (-100, 100))
_SPLIT_NAMES = {"dev": "validation", "valid": "validation", "val": "validation"}


def load_table(
    files: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    text: str = "text",
    labels: Sequence[str] = ("V", "A", "D"),
    scale: tuple[float, float] = (1.0, 5.0),
    *,
    separator: str | None = None,
    encoding: str | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> DatasetDict:
    """A user's own table, or one per split, as EmoBank comes: `text` and `labels` in -1..1.

    The kind of file is told by its ending: `.csv`, `.tsv`, `.parquet`, `.jsonl` (or `.ndjson`), also compressed
    (`.csv.gz`). Texts may hold quotes and line breaks where the cell is quoted. Nothing in a text counts as missing:
    "None" and "NA" are texts.

    Args:
        files: path of the training table, or paths by split: `train`, `validation`, `test` (any of them).
        text: column with the text.
        labels: columns with pleasure (valence), arousal and dominance. An empty cell (or NA, NaN, null, None, -, and
            -100 outside the scale) is a missing label; it becomes -100, which the losses and metrics leave out.
        scale: lowest and highest possible label, x -> 2 (x - low) / (high - low) - 1.
        separator: between the columns of a CSV or TSV; None goes by the file's ending.
        encoding: of a CSV, TSV or JSON-lines file; None means UTF-8, or what a byte-order mark says.
        validation_fraction: share of the different texts of `train` that is set apart when no `validation` is given and
            there is a `train`; 0 sets none apart. All rows with one text land on the same side.
        seed: of that choice.

    Returns:
        `DatasetDict` with `text` (string), `labels` (three float32, in -1..1 or -100) and, where the tables have a
        column of that name, `id` (string).

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a column is missing (the message lists those found and the closest), the text of a row is empty, a
            label is no number or outside the scale, the file is empty or can't be decoded; the message says where.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text('text,valence,arousal,dominance\\n"Well, hello!",9,7,5\\nGo away.,1,,5\\n', "utf-8")
        >>> corpus = load_table({"test": path}, labels=("valence", "arousal", "dominance"), scale=(1, 9))
        >>> corpus["test"][1]
        {'text': 'Go away.', 'labels': [-1.0, -100.0, 0.0]}
    """
    if len(labels) != 3 or len({text, *labels}) != 4:
        raise ValueError(
            "labels must name three different columns, for pleasure (valence), arousal and dominance, none of them the "
            f"text's; got {list(labels)} and text={text!r}."
        )
    low, high = (float(end) for end in scale)
    if not (np.isfinite([low, high]).all() and low < high):
        raise ValueError(f"scale must be (lowest, highest) possible label, such as (1, 5); got {tuple(scale)}.")
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must be at least 0 and below 1, got {validation_fraction}.")
    named = files if isinstance(files, Mapping) else {"train": files}
    paths = {_SPLIT_NAMES.get(split, split): Path(path) for split, path in named.items()}
    unknown = set(paths) - {"train", "validation", "test"}
    if unknown or not paths:
        raise ValueError(f"files are given by split, any of train, validation and test; got {sorted(paths)}.")
    parts: dict[str, Dataset] = {
        split: _read_split(paths[split], text, list(labels), (low, high), separator, encoding)
        for split in ("train", "validation", "test")
        if split in paths
    }
    if "train" in parts and "validation" not in parts and validation_fraction > 0:
        train, validation = _set_apart(parts["train"], validation_fraction, seed, paths["train"])
        rest = {"test": parts["test"]} if "test" in parts else {}
        parts = {"train": train, "validation": validation, **rest}
    corpus = DatasetDict(parts)
    crossing = cross_split_duplicates(corpus)
    if crossing:
        example, splits = next(iter(crossing.items()))
        logger.warning(
            "%d texts stand in more than one split, for example %r in %s: results on them are too good. "
            "liminal_hf.data.cross_split_duplicates lists them.",
            len(crossing),
            example[:60],
            " and ".join(splits),
        )
    return corpus


def cross_split_duplicates(corpus: Mapping[str, Dataset], text: str = "text") -> dict[str, tuple[str, ...]]:
    """The texts that stand, letter for letter, in more than one split: what a model has seen is no test of it.

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


def _read_split(
    path: Path,
    text: str,
    labels: list[str],
    scale: tuple[float, float],
    separator: str | None,
    encoding: str | None,
) -> Dataset:
    table = _read_file(path, separator, encoding)
    for column in (text, *labels):
        if column not in table.columns:
            raise ValueError(_missing_column(path, column, [str(name) for name in table.columns]))
    if table.empty:
        raise ValueError(f"{path} has a header and no rows.")
    columns: dict[str, list] = {}
    features = {"text": Value("string"), "labels": List(Value("float32"))}
    if "id" in table.columns and "id" not in (text, *labels):
        columns["id"] = table["id"].astype(str).tolist()
        features = {"id": Value("string"), **features}
        _warn_of_duplicate_ids(path, table["id"])
    columns["text"] = _checked_texts(path, text, table[text])
    values = np.column_stack([_numbers(path, name, table[name], scale) for name in labels])
    columns["labels"] = _to_label_scale(path, labels, values, scale).tolist()
    return Dataset.from_dict(columns, features=Features(features))


def _read_file(path: Path, separator: str | None, encoding: str | None) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file. Give the path of a CSV, TSV, Parquet or JSON-lines file.")
    compressed = path.suffix.lower() in {".gz", ".bz2", ".xz", ".zst"}
    kind = Path(path.stem if compressed else path.name).suffix.lower()
    if kind not in _SEPARATORS and kind not in _JSON_LINES and kind != ".parquet":
        raise ValueError(
            f"{path}: the ending {kind!r} is none of .csv, .tsv, .parquet, .jsonl. Save the table as one of these "
            "(a spreadsheet: as CSV in UTF-8)."
        )
    encoding = encoding or _encoding_by_mark(path)
    try:
        if kind == ".parquet":
            return pd.read_parquet(path)
        if kind in _JSON_LINES:
            # dtype=False: a text that looks like a number stays a text.
            return pd.read_json(path, lines=True, dtype=False, encoding=encoding)
        with warnings.catch_warnings():
            # Rows longer than the header: pandas would take the first column as an index, or drop the last.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path,
                sep=separator or _SEPARATORS[kind],
                dtype=str,
                keep_default_na=False,
                encoding=encoding,
                index_col=False,
            )
    except UnicodeError as error:
        raise ValueError(
            f"{path} is not {encoding} ({_where_undecodable(path, encoding) or error}). Say what it is, for example "
            "encoding='cp1252' for a file from an older Windows program, or save it as UTF-8."
        ) from error
    except (ValueError, pd.errors.ParserWarning) as error:
        hint = (
            " A text with a separator, a quotation mark or a line break must stand in quotes, with quotation marks "
            'inside doubled ("").'
        )
        raise ValueError(
            f"{path} can't be read as a table: {str(error).strip()}.{hint if kind in _SEPARATORS else ''}"
        ) from error


def _encoding_by_mark(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _where_undecodable(path: Path, encoding: str) -> str | None:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                before = line[: error.start].decode(encoding)[-20:]
                return f"line {number}, byte 0x{line[error.start]:02x} after {before!r}"
    return None


def _missing_column(path: Path, column: str, found: list[str]) -> str:
    by_folded = {name.strip().casefold(): name for name in found}
    close = [by_folded[name] for name in difflib.get_close_matches(column.casefold(), by_folded, n=3, cutoff=0.6)]
    hint = f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
    if len(found) == 1 and any(mark in found[0] for mark in ";\t|,"):
        mark = next(mark for mark in ";\t|," if mark in found[0])
        hint = f" It looks as if the columns were separated otherwise: give separator={mark!r}."
    return f"{path} has no column {column!r}. Its columns: {', '.join(repr(name) for name in found)}.{hint}"


def _checked_texts(path: Path, column: str, values: pd.Series) -> list[str]:
    bad = [row for row, value in enumerate(values, start=1) if not isinstance(value, str) or not value.strip()]
    if bad:
        rows = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        raise ValueError(
            f"{path}: column {column!r} has no text in {len(bad)} of {len(values)} rows (row {rows}; the header is not "
            "counted). Remove these rows."
        )
    return values.tolist()


def _numbers(path: Path, column: str, values: pd.Series, scale: tuple[float, float]) -> np.ndarray:
    missing = values.isna() | values.astype(str).str.strip().str.casefold().isin(_MISSING_WORDS)
    # Booleans would pass as 0 and 1.
    given = values.where(~missing & ~values.map(lambda value: isinstance(value, bool | np.bool_)))
    numbers = pd.to_numeric(given, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    bad = np.flatnonzero(~missing.to_numpy(bool) & np.isnan(numbers))
    if len(bad):
        value = values.astype(object).iloc[bad[0]]
        hint = " Write decimals with a point." if isinstance(value, str) and "," in value else ""
        raise ValueError(
            f"{path}: column {column!r} holds {value!r} in row {bad[0] + 1} (the header is not counted), which is no "
            f"number.{hint} Leave a missing label empty."
        )
    if not scale[0] <= MISSING_LABEL <= scale[1]:
        numbers[numbers == MISSING_LABEL] = np.nan
    return numbers


def _to_label_scale(path: Path, columns: list[str], values: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    low, high = scale
    outside = (values < low) | (values > high)  # NaN, a missing label, is neither
    if outside.any():
        column = int(np.flatnonzero(outside.any(axis=0))[0])
        row = int(np.flatnonzero(outside[:, column])[0])
        fits = [f"({a:g}, {b:g})" for a, b in _KNOWN_SCALES if a <= np.nanmin(values) and np.nanmax(values) <= b]
        hint = f" All three columns would fit scale={' or scale='.join(fits[:2])}." if fits else ""
        raise ValueError(
            f"{path}: column {columns[column]!r} holds values from {np.nanmin(values[:, column]):g} to "
            f"{np.nanmax(values[:, column]):g}, which do not fit scale=({low:g}, {high:g}); the first is "
            f"{values[row, column]:g} in row {row + 1}. Give the scale on which the texts were rated.{hint}"
        )
    for column, name in enumerate(columns):
        present = values[~np.isnan(values[:, column]), column]
        if not len(present):
            logger.warning("%s: column %r has no label at all.", path, name)
        elif len(present) > 1 and np.ptp(present) == 0:
            logger.warning("%s: column %r is %g in every row; nothing can be learned from it.", path, name, present[0])
    if len(values) >= 10 and not np.isnan(values).all() and np.nanmax(values) - np.nanmin(values) < (high - low) / 4:
        logger.warning(
            "%s: all labels lie in %g..%g, less than a quarter of scale=(%g, %g). Is this how they were rated?",
            path, np.nanmin(values), np.nanmax(values), low, high,
        )  # fmt: skip
    return np.where(np.isnan(values), MISSING_LABEL, 2 * (values - low) / (high - low) - 1)


def _warn_of_duplicate_ids(path: Path, ids: pd.Series) -> None:
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        logger.warning("%s: %d ids occur more than once, for example %r.", path, len(repeated), repeated[0])


def _set_apart(rows: Dataset, fraction: float, seed: int, path: Path) -> tuple[Dataset, Dataset]:
    texts = rows["text"][:]
    different = sorted(set(texts))
    if len(different) < 2:
        raise ValueError(
            f"{path} has one text only, so none can be set apart for validation. Give a table for `validation`, or "
            "validation_fraction=0."
        )
    count = min(max(round(fraction * len(different)), 1), len(different) - 1)
    chosen = {different[place] for place in np.random.default_rng(seed).permutation(len(different))[:count]}
    apart = [row for row, text in enumerate(texts) if text in chosen]
    rest = [row for row, text in enumerate(texts) if text not in chosen]
    return _taken(rows, rest), _taken(rows, apart)


def _taken(rows: Dataset, places: list[int]) -> Dataset:
    return Dataset.from_dict({name: values for name, values in rows[places].items()}, features=rows.features)
