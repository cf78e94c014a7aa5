"""The one reader of tables: CSV, TSV, JSON, Parquet, Excel and SPSS files, with the line and the error of every row.

Requires numpy and pyarrow; Excel and SPSS need the extra `tables`. No row is lost or glued to another: what can't be
read keeps its position and says why. Encoding, separator and decimal mark are found in the file, and can be given.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..modeling.errors import LiminalError
from .cells import find_decimal, is_missing, numbers
from .delimited import COMPRESSIONS
from .formats import (
    Source,
    arrow_type,
    as_text,
    kind_of,
    open_delimited,
    open_excel,
    open_json,
    open_spss,
    to_arrow,
)
from .table_settings import TableSettings, find_column, unique_names
from .writing import TableWriter, write_table

__all__ = ["Rows", "Table", "TableFile", "TableSettings", "TableWriter", "column_names", "open_table", "read_table"]
__all__ += ["table_kind", "write_table"]

KINDS = {
    ".csv": "delimited", ".tsv": "delimited", ".tab": "delimited", ".txt": "delimited", ".jsonl": "jsonl",
    ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet", ".pq": "parquet", ".xlsx": "excel", ".xlsm": "excel",
    ".sav": "spss", ".zsav": "spss",
}  # fmt: skip
_PACKED = {"delimited", "jsonl", "json"}  # the kinds that may be compressed
_ADVICE = {
    ".xls": "Save it as .xlsx or as 'CSV UTF-8'.", ".ods": "Save it as .xlsx or as CSV.",
    ".numbers": "Export it as CSV or Excel.", ".dta": "Save it as CSV: export delimited.",
    ".sas7bdat": "Save it as CSV.", ".rds": "Save it as CSV: write.csv(x, row.names = FALSE).",
}  # fmt: skip
_BATCH = 4096


class Rows(NamedTuple):
    """Some rows of a table.

    Args:
        columns: as they go to an output.
        texts: what stands in the text column, of whatever type; `modeling.texts.text_error` says what can't be read.
        lines: where each row begins, from 1 on.
        errors: why a row can't be read, or None.
    """

    columns: pa.Table
    texts: list[Any]
    lines: list[int]
    errors: list[str | None]


class TableFile:
    """A table that has been opened: its columns are known, and its rows are read batch by batch, as often as needed.

    Args:
        path: of the file.
        kind: "delimited", "jsonl", "json", "parquet", "excel" or "spss".
        settings: as given, with the encoding and separator that were found.
        schema: names and types of the columns.
        text: name of the text column, as the file has it.
        unit: what counts rows in messages: "line" or "row".
    """

    def __init__(self, path: Path, kind: str, settings: TableSettings, schema: pa.Schema, unit: str) -> None:
        self.path, self.kind, self.settings, self.schema, self.unit = path, kind, settings, schema, unit
        self.text = ""
        self._source: Source | None = None

    def column(self, name: str) -> str:
        """The column's name as the file has it; case and blanks around it do not count.

        Raises:
            LiminalError: there is none, or there are several; the message lists them and the closest.
        """
        return find_column(self.schema.names, name, self.path)

    @property
    def like(self) -> TableSettings:
        """The settings by which `write_table` gives back a table of the same dialect."""
        dialect = self._source.dialect if self._source else None
        return replace(self.settings, decimal=self.settings.decimal or (dialect.decimal if dialect else None))

    def batches(self, rows: int = _BATCH) -> Iterator[Rows]:
        """All rows, some at a time."""
        if self._source is None:
            yield from self._parquet(rows)
            return
        texts = self.schema.names.index(self.text) if self.text else None
        some = []
        for record in self._source.records():
            some.append(record)
            if len(some) == rows:
                yield self._rows(some, texts)
                some = []
        if some:
            yield self._rows(some, texts)

    def _rows(self, records: list[Any], text: int | None) -> Rows:
        width = len(self.schema)
        cells = [[*record.cells[:width], *[None] * (width - len(record.cells))] for record in records]
        columns = [
            to_arrow(list(column), field.type)
            for column, field in zip(zip(*cells, strict=True), self.schema, strict=True)
        ]
        texts = [None if text is None else row[text] for row in cells]
        if self.kind in ("excel", "spss"):  # these programs make a number of a text that looks like one
            texts = [value if value is None or isinstance(value, str) else as_text(value) for value in texts]
        table = pa.Table.from_arrays(columns, schema=self.schema)
        return Rows(table, texts, [record.line for record in records], [record.error for record in records])

    def _parquet(self, rows: int) -> Iterator[Rows]:
        start = 0
        # Through a small buffer: otherwise the chunk of a whole row group is in memory.
        with pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(rows, use_threads=False):
                table = with_index(pa.Table.from_batches([batch]), file.schema_arrow, start).rename_columns(
                    self.schema.names
                )
                no_texts = pa.chunked_array([pa.nulls(len(table))])
                texts, errors = parquet_texts(table[self.text] if self.text else no_texts)
                if any(errors):  # bytes that are no characters could not be written anywhere else
                    cells = table[self.text].cast(pa.large_binary()).to_pylist()
                    whole = [None if value is None else value.decode("utf-8", "replace") for value in cells]
                    index = self.schema.names.index(self.text)
                    field = self.schema.field(index)
                    table = table.set_column(index, field, pa.array(whole, field.type))
                lines = list(range(start + 1, start + len(table) + 1))
                yield Rows(table.replace_schema_metadata(None), texts, lines, errors)
                start += len(table)


def open_table(
    path: str | os.PathLike, settings: TableSettings | None = None, columns: Sequence[str] = ()
) -> TableFile:
    """Opens a table of any kind; its ending says which.

    Args:
        path: `.csv`, `.tsv`, `.txt`, `.jsonl`, `.ndjson`, `.json` (these also with `.gz`, `.bz2`, `.xz` or `.zst`),
            `.parquet`, `.xlsx` or `.sav`.
        settings: how it is read.
        columns: that are needed beside the text; they tell the header from title lines, and one sheet from another.

    Raises:
        FileNotFoundError: there is no file.
        LiminalError: the kind is unknown, the file is empty or damaged, or a needed column is missing or there twice.
        ImportError: Excel or SPSS without the extra `tables`.
    """
    path, settings = Path(path), settings or TableSettings()
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "not a file"
        raise FileNotFoundError(f"{path} is {what}. Give the path of a CSV, TSV, JSON, Parquet, Excel or SPSS file.")
    kind = table_kind(path)
    if kind is None:
        ending = path.suffix.lower()
        raise LiminalError(
            f"{path}: the ending {ending!r} is none of {', '.join(sorted(KINDS))}. "
            + _ADVICE.get(ending, "Save the table as one of these.")
        )
    if path.stat().st_size == 0:
        raise LiminalError(f"{path} is empty. A table has a row of names, and rows below it.")
    wanted = [name for name in (settings.text, *columns) if name]
    if kind == "parquet":
        schema = _parquet_schema(path)
        file = TableFile(
            path, kind, settings, pa.schema(_named(schema, unique_names(schema.names, wanted, path))), "row"
        )
    else:
        source = _open_source(path, kind, wanted, settings)
        names = unique_names(source.names, wanted, path)
        if source.typed:
            types = _types(source)
        else:
            types = [pa.string()] * len(names)
            settings = replace(settings, encoding=source.dialect.encoding, separator=source.dialect.separator)
        schema = pa.schema(list(zip(names, types, strict=True)))
        file = TableFile(path, kind, settings, schema, source.unit)
        file._source = source
    for name in wanted:
        file.column(name)
    if settings.text:
        file.text = file.column(settings.text)
        _check_text_type(file)
    return file


def column_names(path: str | os.PathLike, settings: TableSettings | None = None) -> list[str]:
    """The names of a table's columns, before it is known which of them has the texts.

    Raises:
        LiminalError: the kind is unknown, or the file is empty or damaged.
        ImportError: Excel or SPSS without the extra `tables`.
    """
    path = Path(path)
    kind = table_kind(path)
    if kind is None or path.stat().st_size == 0:
        raise LiminalError(f"{path.name} is empty, or its ending is none of {', '.join(sorted(KINDS))}.")
    if kind == "parquet":
        names = list(_parquet_schema(path).names)
    else:
        names = _open_source(path, kind, [], settings or TableSettings()).names
    return unique_names(names, [], path)


def _open_source(path: Path, kind: str, wanted: list[str], settings: TableSettings) -> Source:
    if kind == "delimited":
        quotes = None if settings.quotes is None else settings.quotes == "yes"
        return open_delimited(path, wanted, settings.encoding, settings.separator, quotes)
    if kind == "excel":
        return open_excel(path, wanted, settings.sheet)
    if kind == "spss":
        return open_spss(path, settings.text, settings.encoding)
    return open_json(path, settings.text, settings.encoding, lines=kind == "jsonl")


def _types(source: Source) -> list[pa.DataType]:
    kinds: list[set[str]] = [set() for _ in source.names]
    for record in source.records():
        for index, value in enumerate(record.cells):
            kinds[index].add(kind_of(value))
    return list(map(arrow_type, kinds))


def table_kind(path: str | os.PathLike) -> str | None:
    """The kind of table that a file's ending says; None where it says none.

    Example:
        >>> table_kind("answers.CSV.gz"), table_kind("answers.xlsx"), table_kind("notes.docx")
        ('delimited', 'excel', None)
    """
    path = Path(path)
    packed = path.suffix.lower() in COMPRESSIONS
    kind = KINDS.get((Path(path.stem) if packed else path).suffix.lower())
    return None if packed and kind not in _PACKED else kind


def _check_text_type(file: TableFile) -> None:
    kind = file.schema.field(file.text).type
    if file.kind == "parquet" and not holds_text(kind):
        texts = [field.name for field in file.schema if holds_text(field.type)]
        hint = f" Columns with texts: {', '.join(map(repr, texts))}." if texts else ""
        raise LiminalError(f"{file.path}: column {file.text!r} holds {kind}, which is no text.{hint}")


def holds_text(kind: pa.DataType) -> bool:
    """Whether a column of a type holds texts.

    Example:
        >>> holds_text(pa.string()), holds_text(pa.list_(pa.string()))
        (True, False)
    """
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(word in str(kind).split("<")[0] for word in ("string", "binary", "null"))


# ---- Parquet ----


def _parquet_schema(path: Path) -> pa.Schema:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise LiminalError(f"{path} is not a whole Parquet file: {error}") from error
    return with_index(schema.empty_table(), schema, 0).schema


def _named(schema: pa.Schema, names: list[str]) -> list[pa.Field]:
    return [field.with_name(name) for field, name in zip(schema, names, strict=True)]


def with_index(table: pa.Table, schema: pa.Schema, start: int) -> pa.Table:
    """With the named RangeIndex that pandas describes in the file's metadata and writes no column for."""
    for index in (schema.pandas_metadata or {}).get("index_columns", []):
        if isinstance(index, dict) and index.get("kind") == "range" and index.get("name") is not None:
            first, step = index["start"] + start * index["step"], index["step"]
            values = pa.array(range(first, first + step * len(table), step), pa.int64())
            table = table.add_column(0, str(index["name"]), values)
    return table


def parquet_texts(column: pa.ChunkedArray) -> tuple[list[Any], list[str | None]]:
    """Texts of a column and their errors; Parquet does not promise that a string is UTF-8."""
    if pa.types.is_null(column.type):
        return [None] * len(column), [None] * len(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts: list[Any] = []
    errors: list[str | None] = []
    for value in column.cast(pa.large_binary()).to_pylist():
        try:
            texts.append(None if value is None else value.decode("utf-8"))
            errors.append(None)
        except UnicodeDecodeError:
            texts.append(None)
            errors.append("the text is not UTF-8")
    return texts, errors


# ---- whole tables ----


@dataclass
class Table:
    """A whole table in memory.

    Args:
        file: what was opened: path, settings with the encoding and separator that were found.
        columns, texts, lines, errors: as in `Rows`.
    """

    file: TableFile
    columns: pa.Table
    texts: list[Any]
    lines: list[int]
    errors: list[str | None]

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, name: str) -> list[Any]:
        """The cells of a column."""
        return self.columns[self.file.column(name)].to_pylist()

    def where(self, index: int) -> str:
        """Where a row stands, for messages: "line 3"."""
        return f"{self.file.unit} {self.lines[index]}"

    def numbers(self, names: Sequence[str], scale: tuple[float, float] | None = None) -> np.ndarray:
        """Columns as `(rows, names)` float64, NaN for missing cells; one decimal mark for all of them.

        Raises:
            LiminalError: a cell is no number, or may be two; the message says where.
        """
        cells = {name: self[name] for name in names}
        decimal = self.file.settings.decimal
        if decimal is None:
            texts = [
                cell for column in cells.values() for cell in column if isinstance(cell, str) and not is_missing(cell)
            ]
            shown = ", ".join(map(repr, names))
            decimal = find_decimal(texts, scale, f"{self.file.path}, column{'s' if len(names) > 1 else ''} {shown}")
        columns = [
            numbers(column, decimal, f"{self.file.path}: column {name!r}", self.where) for name, column in cells.items()
        ]
        return np.column_stack(columns)


def read_table(path: str | os.PathLike, settings: TableSettings | None = None, columns: Sequence[str] = ()) -> Table:
    """Reads a whole table; see `open_table`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mine.csv"
        >>> _ = path.write_text('id;text;score\\n1;Well, hello!;5,5\\n2;Go away\\n', "utf-8")
        >>> table = read_table(path)
        >>> table.texts, table.errors
        (['Well, hello!', 'Go away'], [None, 'line 3 has 2 cells, the header has 3 cells'])
        >>> table.numbers(["score"]).tolist(), table.file.settings.separator
        ([[5.5], [nan]], ';')
    """
    file = open_table(path, settings, columns)
    parts = list(file.batches())
    return Table(
        file,
        pa.concat_tables([part.columns for part in parts]) if parts else file.schema.empty_table(),
        [text for part in parts for text in part.texts],
        [line for part in parts for line in part.lines],
        [error for part in parts for error in part.errors],
    )
