"""The one reader of tables: CSV, TSV, JSON, Parquet, Excel and SPSS files, with the line and the error of every row.

Requires numpy and pyarrow; Excel and SPSS need the extra `tables`. No row is lost or glued to another: what can't be
read keeps its position and says why. Encoding, separator and decimal mark are found in the file, and can be given.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..modeling.errors import LiminalError
from .cells import find_decimal, numbers
from .delimited import COMPRESSIONS, Record
from .formats import Source, as_text, column_types, open_source, to_arrow
from .table_settings import TableSettings, find_column, unique_names
from .writing import TableWriter, write_table

__all__ = ["Table", "TableFile", "TableSettings", "TableWriter", "column_names", "open_table", "read_table"]
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


@dataclass
class TableFile:
    """A table that has been opened: its columns are known, and its rows are read batch by batch, as often as needed.

    Args:
        path: of the file.
        kind: "delimited", "jsonl", "json", "parquet", "excel" or "spss".
        settings: as given, with the encoding and separator that were found.
        schema: names and types of the columns.
        text: name of the text column, as the file has it.
        source: what reads a table that is not Parquet.
    """

    path: Path
    kind: str
    settings: TableSettings
    schema: pa.Schema
    text: str = ""
    source: Source | None = None

    @property
    def unit(self) -> str:
        """What counts rows in messages: "line" or "row"."""
        return self.source.unit if self.source else "row"

    @property
    def like(self) -> TableSettings:
        """The settings by which `write_table` gives back a table of the same dialect."""
        dialect = self.source.dialect if self.source else None
        return replace(self.settings, decimal=self.settings.decimal or (dialect.decimal if dialect else None))

    def column(self, name: str) -> str:
        """The column's name as the file has it; case and blanks around it do not count.

        Raises:
            LiminalError: there is none, or there are several; the message lists them and the closest.
        """
        return find_column(self.schema.names, name, self.path)

    def batches(self, rows: int = _BATCH) -> "Iterator[Table]":
        """All rows, some at a time."""
        if self.source is None:
            yield from self._parquet(rows)
            return
        records = self.source.records()
        while some := list(islice(records, rows)):
            yield self._part(some)

    def _part(self, records: list[Record]) -> "Table":
        width = len(self.schema)
        cells = [[*record.cells[:width], *[None] * (width - len(record.cells))] for record in records]
        columns = [
            to_arrow(list(column), field.type)
            for column, field in zip(zip(*cells, strict=True), self.schema, strict=True)
        ]
        table = pa.Table.from_arrays(columns, schema=self.schema)
        if not self.text:
            texts = [None] * len(table)
        elif self.kind in ("excel", "spss"):
            texts, _ = texts_of(table[self.text])
        else:  # a number in JSON is no text
            index = self.schema.names.index(self.text)
            texts = [row[index] for row in cells]
        return Table(self, table, texts, [record.line for record in records], [record.error for record in records])

    def _parquet(self, rows: int) -> "Iterator[Table]":
        start = 0
        # Through a small buffer: otherwise the chunk of a whole row group is in memory.
        with pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
            for batch in file.iter_batches(rows, use_threads=False):
                table = _with_index(pa.Table.from_batches([batch]), file.schema_arrow, start)
                table = table.rename_columns(self.schema.names).replace_schema_metadata(None)
                column = table[self.text] if self.text else pa.chunked_array([pa.nulls(len(table))])
                texts, errors = texts_of(column)
                if any(errors):  # bytes that are no characters could not be written anywhere else
                    field = self.schema.field(self.text)
                    table = table.set_column(self.schema.names.index(self.text), field, pa.array(texts, field.type))
                lines = list(range(start + 1, start + len(table) + 1))
                yield Table(self, table, texts, lines, errors)
                start += len(table)


def texts_of(column: pa.ChunkedArray) -> tuple[list[Any], list[str | None]]:
    """The cells of a column as texts, and their errors: Parquet does not promise that a string is UTF-8."""
    errors: list[str | None] = [None] * len(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) or not holds_text(column.type):
        # Excel and SPSS make a number of a text that looks like one.
        return [None if value is None else as_text(value) for value in column.to_pylist()], errors
    texts = column.cast(pa.large_binary()).to_pylist()
    for index, value in enumerate(texts):
        try:
            texts[index] = None if value is None else value.decode("utf-8")
        except UnicodeDecodeError:
            texts[index], errors[index] = value.decode("utf-8", "replace"), "the text is not UTF-8"
    return texts, errors


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
    source = None
    if kind == "parquet":
        try:
            schema = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise LiminalError(f"{path} is not a whole Parquet file: {error}") from error
        schema = _with_index(schema.empty_table(), schema, 0).schema
        names, types = schema.names, schema.types
    else:
        source = open_source(path, kind, wanted, settings)
        names, types = source.names, column_types(source)
        if source.dialect:
            settings = replace(settings, encoding=source.dialect.encoding, separator=source.dialect.separator)
    schema = pa.schema(list(zip(unique_names(names, wanted, path), types, strict=True)))
    file = TableFile(path, kind, settings, schema, source=source)
    for name in wanted:
        file.column(name)
    file.text = file.column(settings.text) if settings.text else ""
    if kind == "parquet" and file.text and not holds_text(schema.field(file.text).type):
        texts = [field.name for field in schema if holds_text(field.type)]
        hint = f" Columns with texts: {', '.join(map(repr, texts))}." if texts else ""
        raise LiminalError(
            f"{path}: column {file.text!r} holds {schema.field(file.text).type}, which is no text.{hint}"
        )
    return file


def column_names(path: str | os.PathLike) -> list[str]:
    """The names of a table's columns, before it is known which of them has the texts; see `open_table`."""
    return open_table(path, TableSettings(text="")).schema.names


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


def holds_text(kind: pa.DataType) -> bool:
    """Whether a column of a type holds texts.

    Example:
        >>> holds_text(pa.string()), holds_text(pa.list_(pa.string()))
        (True, False)
    """
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(word in str(kind).split("<")[0] for word in ("string", "binary", "null"))


def _with_index(table: pa.Table, schema: pa.Schema, start: int) -> pa.Table:
    """With the named RangeIndex that pandas describes in the file's metadata and writes no column for."""
    for index in (schema.pandas_metadata or {}).get("index_columns", []):
        if isinstance(index, dict) and index.get("kind") == "range" and index.get("name") is not None:
            first, step = index["start"] + start * index["step"], index["step"]
            values = pa.array(range(first, first + step * len(table), step), pa.int64())
            table = table.add_column(0, str(index["name"]), values)
    return table


@dataclass
class Table:
    """A table in memory, or some of its rows.

    Args:
        file: what was opened: path, settings with the encoding and separator that were found.
        columns: as they go to an output.
        texts: what stands in the text column, of whatever type; `modeling.texts.text_error` says what can't be read.
        lines: where each row begins, from 1 on.
        errors: why a row can't be read, or None.
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
            shown = f"column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
            decimal = find_decimal([*chain(*cells.values())], scale, f"{self.file.path}, {shown}")
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
    table = pa.concat_tables([part.columns for part in parts]) if parts else file.schema.empty_table()
    rest = ([one for part in parts for one in getattr(part, name)] for name in ("texts", "lines", "errors"))
    return Table(file, table, *rest)
