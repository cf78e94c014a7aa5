"""Tables out: the ending of the name says the format, and a CSV goes back in the dialect of the table that came in.

Requires numpy and pyarrow; Excel needs openpyxl (the extra `tables`).
"""

import csv
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..io import atomic_write
from ..modeling.errors import LiminalError
from .cells import fold, readings
from .formats import as_text, clean, of_extra
from .table_settings import TableSettings

logger = logging.getLogger(__name__)

OUTPUT_ENDINGS = (".csv", ".tsv", ".parquet", ".xlsx", ".jsonl")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[\d.,\s\u00a0\u202f']*\d[.,]?(?:[eE][+-]?\d+)?\s*%?")
EXCEL_ROWS = 1_048_575  # beside the one of the names
EXCEL_CHARACTERS = 32_767  # of a cell
COMPRESSION = "zstd"


def output_ending(path: str | os.PathLike) -> str:
    """The ending of an output, in small letters; an error where it is none that can be written.

    Example:
        >>> output_ending("answers.CSV")
        '.csv'
    """
    ending = Path(path).suffix.lower()
    if ending not in OUTPUT_ENDINGS:
        raise LiminalError(f"{os.fspath(path)}: the ending {ending!r} is none of {', '.join(OUTPUT_ENDINGS)}.")
    return ending


def harmless(cell: str) -> str:
    """The cell, with an apostrophe before what a spreadsheet would run as a formula; a number stays as it is.

    Example:
        >>> [harmless(cell) for cell in ("=1+1", "-1,5", "- no", "fine")]
        ["'=1+1", '-1,5', "'- no", 'fine']
    """
    if not cell.lstrip(" ").startswith(_FORMULA) or _NUMBER.fullmatch(cell.strip()):
        return cell
    return f"'{cell}"


def number_formats(tables: Iterable[pa.Table], like: TableSettings | None) -> dict[str, str]:
    """Excel's formats of the columns that were numbers in a CSV, where all of its cells are text.

    A column is a number where each filled cell is written in the table's decimal convention, and a number loses nothing
    of it: no zeros in front (a postcode), at most 15 digits, and zeros behind only where all cells have as many places.

    Args:
        tables: all parts of the table.
        like: settings of the table that came in. The column of its texts stays text, as do all of them if it was no
            CSV, which has a separator.

    Example:
        >>> table = pa.table({"score": ["1,5", "", "-2"], "price": ["1,50", "2,00", "3,25"], "zip": ["01", "2", "3"]})
        >>> number_formats([table], TableSettings(separator=";", decimal=","))
        {'score': 'General', 'price': '0.00'}
    """
    if like is None or like.separator is None:
        return {}
    mark = like.decimal or "."
    point = re.escape(mark)
    plain = re.compile(rf"(?!-0*{point}?0*$)(?!(?:\D*\d){{16}})-?(?:0|[1-9]\d*)(?:{point}\d+)?", re.ASCII)
    columns: dict[str, set[str]] = {}
    texts = {fold(like.text)}
    for table in tables:
        for name, column in zip(table.column_names, table.columns, strict=True):
            if pa.types.is_string(column.type) and fold(name) not in texts:
                cells = set(column.unique().to_pylist()) - {None, ""}
                columns.setdefault(name, set()).update(cells)
                texts |= set() if all(map(plain.fullmatch, cells)) else {fold(name)}
    found = {}
    for name, cells in columns.items():
        places = {len(cell.partition(mark)[2]) for cell in cells}
        padded = any(mark in cell and cell.endswith("0") for cell in cells)
        # "1,234" alone may be thousands.
        unclear = mark == "," and any(places) and not any(mark in cell and len(readings(cell)) == 1 for cell in cells)
        if cells and fold(name) not in texts and not unclear and not (padded and len(places) > 1):
            found[name] = f"0.{'0' * max(places)}".rstrip(".") if padded or places == {0} else "General"
    return found


def rows_cut_by_excel(table: pa.Table) -> int:
    """How many rows have a text that is longer than a cell of Excel, where its end is missing.

    Example:
        >>> rows_cut_by_excel(pa.table({"id": [1, 2, 3], "text": ["a" * 32_767, "a" * 32_768, None]}))
        1
    """
    is_cut = np.zeros(len(table), dtype=bool)
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            lengths = pc.fill_null(pc.utf8_length(column), 0)
            is_cut |= pc.greater(lengths, EXCEL_CHARACTERS).to_numpy()
    return int(is_cut.sum())


class TableWriter:
    """Writes a table piece by piece; the file is in place, whole, when the block ends well.

    Args:
        path: the ending says the format: .csv, .tsv, .parquet, .xlsx or .jsonl.
        schema: names and types of the columns.
        like: settings of the table that came in: separator and decimal mark of a CSV. A CSV gets a byte-order mark, by
            which Excel knows UTF-8.
        metadata: goes into the schema of a Parquet file.
        formats: Excel's formats of columns of text that are written as numbers (see `number_formats`).

    Raises:
        LiminalError: the ending is none that can be written, or the rows do not fit into a sheet.
        ImportError: Excel without the extra `tables`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.csv"
        >>> table = pa.table({"text": ["=1+1", "fine"], "pleasure": [0.5, None]})
        >>> with TableWriter(path, table.schema) as writer:
        ...     writer.write(table)
        >>> path.read_text("utf-8-sig").splitlines()
        ['text,pleasure', "'=1+1,0.5", 'fine,']
    """

    def __init__(
        self,
        path: str | os.PathLike,
        schema: pa.Schema,
        like: TableSettings | None = None,
        metadata: Mapping[bytes, bytes] | None = None,
        formats: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.schema = Path(path), schema.with_metadata(metadata)
        self.ending = output_ending(path)
        separator = (like.separator if like else None) or ","
        self._separator = "\t" if self.ending == ".tsv" else separator
        self._decimal = (like.decimal if like else None) or "."
        self._formats = formats or {}
        self._rows = self._cut = 0

    def __enter__(self) -> "TableWriter":
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self.path))
            if self.ending == ".parquet":
                self._parquet = pq.ParquetWriter(temporary, self.schema, compression=COMPRESSION)
                stack.callback(self._parquet.close)
            elif self.ending == ".xlsx":
                book = of_extra("openpyxl", "Excel").Workbook(write_only=True)
                self._sheet = book.create_sheet("predictions")
                self._sheet.append([self._excel(name) for name in self.schema.names])
                stack.callback(book.save, temporary)
            else:
                encoding = "utf-8-sig" if self.ending == ".csv" else "utf-8"
                self._text = stack.enter_context(temporary.open("w", encoding=encoding, newline=""))
                self._csv = csv.writer(self._text, delimiter=self._separator, lineterminator="\n")
                if self.ending != ".jsonl":
                    self._csv.writerow([harmless(name) for name in self.schema.names])
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
        if kind is None and self._cut:
            logger.warning(
                "%s: %d rows have a text of more than %d characters, the most that a cell of Excel takes: its end is "
                "missing there. Write .csv or .parquet to keep it.",
                *(self.path, self._cut, EXCEL_CHARACTERS),
            )

    def write(self, table: pa.Table) -> None:
        """Adds rows with the columns of the schema."""
        self._rows += len(table)
        if self.ending == ".parquet":
            self._parquet.write_table(table.replace_schema_metadata(self.schema.metadata))
            return
        if self.ending == ".xlsx" and self._rows > EXCEL_ROWS:
            raise LiminalError(f"{self.path}: an Excel sheet takes {EXCEL_ROWS:,} rows. Write .csv or .parquet.")
        self._cut += rows_cut_by_excel(table) if self.ending == ".xlsx" else 0
        formats = list(map(self._formats.get, self.schema.names))
        columns = [column.to_pylist() for column in table.columns]
        for index, field in enumerate(self.schema):
            if pa.types.is_float32(field.type):
                columns[index] = list(map(_short, columns[index]))
        for row in zip(*columns, strict=True):
            if self.ending == ".xlsx":
                self._sheet.append(list(map(self._excel, row, formats)))
            elif self.ending == ".jsonl":
                values = dict(zip(self.schema.names, map(_plain, row), strict=True))
                self._text.write(json.dumps(values, ensure_ascii=False) + "\n")
            else:
                self._csv.writerow(map(self._cell, row))

    def _cell(self, value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, float):
            return "" if math.isnan(value) else repr(value).replace(".", self._decimal)
        text = as_text(value).replace("\x00", "\ufffd")
        return harmless(text) if isinstance(value, str) else text

    def _excel(self, value: Any, number_format: str | None = None) -> Any:
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE

        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return None
        if isinstance(value, bool | int | float) or (hasattr(value, "year") and getattr(value, "tzinfo", None) is None):
            return value
        if number_format and value:
            plain = value.replace(self._decimal, ".")
            cell = WriteOnlyCell(self._sheet, float(plain) if "." in plain else int(plain))
            cell.number_format = number_format
            return cell
        cell = WriteOnlyCell(self._sheet, ILLEGAL_CHARACTERS_RE.sub("\ufffd", as_text(value))[:EXCEL_CHARACTERS])
        if isinstance(cell.value, str) and cell.value.startswith(_FORMULA):
            cell.data_type, cell.quotePrefix = "s", True  # a text, whatever it begins with
        return cell


def write_table(
    path: str | os.PathLike, columns: pa.Table | Mapping[str, Sequence[Any]], like: TableSettings | None = None
) -> Path:
    """Writes a whole table; see `TableWriter`.

    Args:
        path: where to; the ending says the format.
        columns: an Arrow table, or values by column; values of mixed types become text.
        like: settings of the table that came in.

    Returns:
        The path.
    """
    if not isinstance(columns, pa.Table):
        columns = pa.table({name: _column(list(values)) for name, values in columns.items()})
    formats = number_formats([columns], like) if output_ending(path) == ".xlsx" else None
    with TableWriter(path, columns.schema, like, formats=formats) as writer:
        writer.write(columns)
    return Path(path)


def _column(values: list[Any]) -> pa.Array:
    try:
        return pa.array([clean(value) if isinstance(value, str) else value for value in values])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else clean(as_text(value)) for value in values])


def _short(value: Any) -> Any:
    """A float32 with the digits that it has."""
    return value if value is None or not math.isfinite(value) else float(f"{value:.7g}")


def _plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int) else as_text(value)
