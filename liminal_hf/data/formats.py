"""JSON, Excel and SPSS tables as records, and the values of cells as columns of Arrow.

Requires pyarrow; Excel needs openpyxl and SPSS pyreadstat (the extra `tables`).
"""

import datetime as dt
import importlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any
from zipfile import BadZipFile

import pyarrow as pa

from ..modeling.errors import LiminalError
from .cells import fold, is_no_value, option
from .delimited import HEADER_WITHIN, Dialect, Record, find_dialect, find_encoding, read_lines, read_records
from .table_settings import TableSettings

_MOMENT = pa.timestamp("us")
_TYPES = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), dt.datetime: _MOMENT, dt.date: _MOMENT}


@dataclass
class Source:
    """A table that can be read record by record, as often as needed.

    Args:
        names: of the columns, as the file has them.
        records: starts reading; a record's cells may be fewer or more than the names where it has an error.
        unit: what `Record.line` counts: "line" or "row".
        dialect: of a delimited file, in which all cells are text; elsewhere they have types.
    """

    names: list[str]
    records: Callable[[], Iterator[Record]]
    unit: str = "row"
    dialect: Dialect | None = None


def of_extra(module: str, what: str) -> Any:
    """A module that the extra `tables` brings."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} files need {module}: pip install 'liminal_hf[tables]' ({error})") from error


def open_source(path: Path, kind: str, wanted: Sequence[str], settings: TableSettings) -> Source:
    """A table of any kind but Parquet; `wanted` columns tell the header from titles, and one sheet from another."""
    if kind == "excel":
        return _open_excel(path, wanted, settings.sheet)
    if kind == "spss":
        return _open_spss(path, settings.text, settings.encoding)
    if kind != "delimited":
        return _open_json(path, settings.text or "text", settings.encoding, lines=kind == "jsonl")
    quotes = None if settings.quotes is None else settings.quotes == "yes"
    dialect = find_dialect(path, wanted, encoding=settings.encoding, separator=settings.separator, quotes=quotes)
    return Source(list(dialect.header), lambda: read_records(dialect), "line", dialect)


# ---- JSON ----


def _open_json(path: Path, text: str, encoding: str | None, lines: bool) -> Source:
    """JSON lines (`lines`), or an array of objects, or an object with a list per column."""
    name = find_encoding(path, encoding)

    def values() -> Iterator[tuple[int, Any]]:
        return _parsed_lines(path, name) if lines else enumerate(rows, start=1)

    if not lines:
        try:
            content = json.loads("".join(read_lines(path, name)).removeprefix("\ufeff"))
        except (json.JSONDecodeError, RecursionError) as error:
            lines = True  # one object per line, whatever the ending says
            if not isinstance(next(values(), (0, None))[1], dict):
                raise LiminalError(f"{path} is not JSON: {error}. It takes an array of objects.") from None
        else:
            rows = _json_rows(content, text, path)
    names = list(dict.fromkeys(name for _, row in values() if isinstance(row, dict) for name in row))
    if lines and not names:
        raise LiminalError(f'{path} holds no JSON object. It takes one per line, such as {{"text": "Hi"}}.')
    unit = "line" if lines else "row"

    def records() -> Iterator[Record]:
        for number, row in values():
            if isinstance(row, dict):
                yield Record(number, [row.get(name) for name in names])
            else:
                what = f"not JSON ({row})" if isinstance(row, ValueError) else "no JSON object"
                yield Record(number, [None] * len(names), f"{unit} {number} is {what}")

    return Source(names, records, unit)


def _json_rows(value: Any, text: str, path: Path) -> list[Any]:
    if isinstance(value, dict):
        columns = list(value.values())
        if columns and all(isinstance(column, dict) for column in columns):  # as pandas writes them
            columns = [list(column.values()) for column in columns]
        if columns and all(isinstance(column, list) for column in columns) and len({*map(len, columns)}) == 1:
            one = len(columns) == 1 and columns[0] and all(isinstance(row, dict) for row in columns[0])
            value = columns[0] if one else [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
        else:
            value = [value]
    if not isinstance(value, list) or not value:
        raise LiminalError(f'{path} holds no rows. It takes an array of objects: [{{"text": "Hi"}}, ...]')
    if all(isinstance(row, str) for row in value):
        value = [{text: row} for row in value]
    if not any(isinstance(row, dict) for row in value):
        raise LiminalError(f'{path} holds no objects. It takes an array of them: [{{"text": "Hi"}}, ...]')
    return value


def _parsed_lines(path: Path, encoding: str) -> Iterator[tuple[int, Any]]:
    """Number and value of each line; a `ValueError` where it is no JSON."""
    for number, line in enumerate(read_lines(path, encoding, newline="\n"), start=1):
        line = line.removeprefix("\ufeff") if number == 1 else line
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            yield number, ValueError(f"{error.msg}, column {error.colno}")
        except (ValueError, RecursionError) as error:
            yield number, ValueError(str(error))


# ---- Excel ----


def _open_excel(path: Path, wanted: Sequence[str], sheet: str | int | None) -> Source:
    """A sheet of an .xlsx file: the only one, the one that has the wanted columns, or the one that `sheet` names."""
    openpyxl = of_extra("openpyxl", "Excel")
    try:
        book = openpyxl.load_workbook(path)
        formulas = {
            (page.title, cell.row, cell.column)
            for page in book.worksheets
            for row in page.iter_rows()
            for cell in row
            if cell.data_type == "f"
        }
        if formulas:
            book = openpyxl.load_workbook(path, data_only=True)
    except (BadZipFile, openpyxl.utils.exceptions.InvalidFileException, KeyError, ValueError, TypeError) as error:
        raise LiminalError(
            f"{path} is no Excel file that can be read ({error}). Save it again as 'Excel Workbook (.xlsx)' without a "
            "password, or as 'CSV UTF-8'."
        ) from error
    folded = {fold(name) for name in wanted}

    def hits(cells: list[Any]) -> int:
        return len(folded & {fold(str(cell)) for cell in cells if cell is not None})

    sheets = {page.title: _sheet_rows(page) for page in book.worksheets}
    title = _choose_sheet(path, sheets, sheet, lambda rows: max(map(hits, rows[:HEADER_WITHIN])))
    rows = sheets[title]
    start = max(range(min(len(rows), HEADER_WITHIN)), key=lambda index: hits(rows[index]))
    while all(cell is None for cell in rows[start]):
        start += 1
    header = ["" if cell is None else str(cell).strip() for cell in rows[start]]
    below = rows[start + 1 :]
    used = [index for index, name in enumerate(header) if name or any(cells[index] is not None for cells in below)]

    def records() -> Iterator[Record]:
        for number, cells in enumerate(below, start=start + 2):
            lost = [header[i] for i in used if cells[i] is None and (title, number, i + 1) in formulas]
            error = (
                f"row {number} has a formula without a value in {lost[0]!r}: save the file in Excel" if lost else None
            )
            yield Record(number, [cells[index] for index in used], error)

    return Source([header[index] for index in used], records)


def _sheet_rows(page: Any) -> list[list[Any]]:
    """Values of a sheet, merged cells filled downwards, without empty rows at the end."""
    from openpyxl.utils.escape import unescape

    rows = [
        [
            None if cell.data_type == "e" else unescape(cell.value) if isinstance(cell.value, str) else cell.value
            for cell in row
        ]
        for row in page.iter_rows()
    ]
    for area in page.merged_cells.ranges:
        for row in range(area.min_row, area.max_row):
            rows[row][area.min_col - 1] = rows[area.min_row - 1][area.min_col - 1]
    while rows and all(cell is None or cell == "" for cell in rows[-1]):
        rows.pop()
    return rows


def _choose_sheet(
    path: Path, sheets: dict[str, list[list[Any]]], sheet: str | int | None, hits: Callable[[list[list[Any]]], int]
) -> str:
    names = list(sheets)
    filled = [name for name in names if sheets[name]]
    if sheet is not None:
        if str(sheet).isdigit() and str(sheet) not in names and 1 <= int(sheet) <= len(names):
            sheet = names[int(sheet) - 1]
        title = next((name for name in names if fold(name) == fold(str(sheet))), None)
        if title not in filled:
            problem = "is empty" if title else "is not there"
            raise LiminalError(f"{path}: sheet {sheet!r} {problem}. Its sheets: {', '.join(map(repr, names))}.")
        return title
    if not filled:
        raise LiminalError(f"{path} is empty. The first row of a table names its columns.")
    best = max(hits(sheets[name]) for name in filled)
    fitting = [name for name in filled if hits(sheets[name]) == best]
    if len(fitting) > 1:
        raise LiminalError(
            f"{path} has several sheets that fit: {', '.join(map(repr, fitting))}. Say which: "
            f"{option('sheet', fitting[0])}."
        )
    return fitting[0]


# ---- SPSS ----


def _open_spss(path: Path, text: str, encoding: str | None) -> Source:
    """An SPSS file. Missing values of its own are missing; a text column of codes is read by its value labels."""
    pyreadstat = of_extra("pyreadstat", "SPSS")
    try:
        columns, meta = pyreadstat.read_sav(str(path), encoding=encoding, output_format="dict")
    except (pyreadstat.ReadstatError, pyreadstat.PyreadstatError, UnicodeDecodeError) as error:
        raise LiminalError(f"{path} is no SPSS file that can be read ({error}).") from error
    for name, codes in meta.variable_value_labels.items():
        if fold(name) == fold(text):
            columns[name] = [codes.get(value, value) for value in columns[name]]
    rows = zip(*columns.values(), strict=True)
    records = [
        Record(number, [None if is_no_value(value) else value for value in row]) for number, row in enumerate(rows, 1)
    ]
    return Source(list(columns), lambda: iter(records))


# ---- values ----


def column_types(source: Source) -> list[pa.DataType]:
    """The type of each column: string where no other fits all of its values."""
    if source.dialect:
        return [pa.string()] * len(source.names)
    kinds: list[set[type]] = [set() for _ in source.names]
    for record in source.records():
        for index, value in enumerate(record.cells):
            is_long = type(value) is int and not -(2**63) <= value < 2**63
            kinds[index].add(str if is_long else type(value))
    found = [{_TYPES.get(kind, pa.string()) for kind in some - {NoneType}} for some in kinds]
    numbers = {pa.int64(), pa.float64()}
    return [some.pop() if len(some) == 1 else pa.float64() if some == numbers else pa.string() for some in found]


def to_arrow(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Cells as a column; in a column of strings, what is none is written as a cell of a CSV would have it."""
    if pa.types.is_timestamp(kind):
        values = [dt.datetime.combine(value, dt.time()) if type(value) is dt.date else value for value in values]
    if kind != pa.string():
        return pa.array(values, kind)
    return pa.array([None if value is None else clean(as_text(value)) for value in values], pa.string())


def as_text(value: Any) -> str:
    """A cell as the text that a person would see.

    Example:
        >>> [as_text(value) for value in (5.0, 0.5, dt.datetime(2024, 9, 1), True, ["a"])]
        ['5', '0.5', '2024-09-01', 'TRUE', '["a"]']
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        return str(int(value)) if math.isfinite(value) and value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, dt.datetime):
        return str(value.date()) if value.time() == dt.time() and value.tzinfo is None else value.isoformat(" ")
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def clean(text: str) -> str:
    """The text with U+FFFD for what is no character, so that it can be written.

    Example:
        >>> clean("half \\ud83d, whole")
        'half \ufffd, whole'
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
