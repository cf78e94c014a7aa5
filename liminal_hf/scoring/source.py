"""A table of any size, as shards that can be read one by one: Parquet, CSV, TSV or JSON lines, a file or a folder.

Requires numpy and pyarrow. A table is looked through once before anything is scored: where its shards begin, how many
rows it has, which types a JSON-lines file holds, and whether the rows of each conversation stand together. After that
each shard can be read by itself, in any order and by any process; its content depends on the table alone.
"""

import bz2
import csv
import difflib
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_KINDS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}  # fmt: skip
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# A shard ends after this many bytes of input, however few its rows.
SHARD_BYTES = 64 << 20
# A conversation is read as one; beyond this it would no longer fit beside the others.
LONGEST_CONVERSATION = 65_536
_LARGEST_CELL = 16 << 20
_SAMPLE = 1 << 20
_NOT_UTF8 = "The text is not UTF-8."


class Shard(NamedTuple):
    """A run of rows: `rows` of file number `file`, from byte `start` on (Parquet: from row `start` on)."""

    file: int
    start: int
    rows: int


@dataclass
class Rows:
    """The rows of a shard.

    Args:
        kept: the columns that go to the output, as they came.
        texts: what stands in the text column, of whatever type.
        problems: why a row can't be read at all, or None.
        conversations, orders, speakers: the values of these columns, or None where they were not asked for.
    """

    kept: pa.Table
    texts: list[Any]
    problems: list[str | None]
    conversations: list[Any] | None = None
    orders: list[Any] | None = None
    speakers: list[Any] | None = None


@dataclass
class Source:
    """A table that has been looked through; plain data, so that it can be stored and sent to other processes.

    Args:
        files: the files, in order.
        kind: "parquet", "csv" or "jsonl".
        separator: of a CSV.
        columns: all columns, each with its type as pyarrow writes it.
        keep: which of them go to the output.
        text, conversation, order, speaker: names of columns.
        shards: where the shards lie.
    """

    files: list[str]
    kind: str
    separator: str
    columns: dict[str, str]
    keep: list[str]
    text: str
    conversation: str | None
    order: str | None
    speaker: str | None
    shards: list[Shard]

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(shard.rows for shard in self.shards)

    @property
    def named(self) -> list[str]:
        """The columns that say something about a turn."""
        return [name for name in (self.conversation, self.order, self.speaker) if name]

    @property
    def wanted(self) -> list[str]:
        """The columns that have to be read."""
        return list(dict.fromkeys([*self.keep, self.text, *self.named]))


def open_source(
    path: str | os.PathLike,
    *,
    text: str = "text",
    keep: Sequence[str] | None = None,
    conversation: str | None = None,
    order: str | None = None,
    speaker: str | None = None,
    separator: str | None = None,
    shard_rows: int = 16_384,
    files: Sequence[str] | None = None,
) -> Source:
    """Looks through a table.

    Args:
        path: a `.parquet`, `.csv`, `.tsv` or `.jsonl` file, text files also as `.gz`, `.bz2` or `.xz`; or a folder of
            such files of one kind, read in the order of their names. Text files are UTF-8.
        text: column with the texts.
        keep: columns that go to the output; None keeps all.
        conversation: column that says which conversation a row belongs to. The rows of a conversation must stand
            together; a shard never cuts one.
        order, speaker: columns with a turn's place in its conversation, and with who speaks.
        separator: of a CSV; None goes by the ending.
        shard_rows: rows per shard, fewer where rows are long (64 MiB of input).
        files: the files, if they are known already.

    Returns:
        What was found. The cells of a CSV stay strings, as they stand; JSON values of one type keep it, anything else
        becomes a string of JSON.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the kind of file is not known, a column is missing, the text column can't hold texts, the rows of a
            conversation are scattered or too many, or a cell of a CSV never ends.

    Example:
        >>> _ = Path("mine.csv").write_text("id,text\\n1,Good morning.\\n2,Go away!\\n", encoding="utf-8")
        >>> source = open_source("mine.csv", shard_rows=1)
        >>> source.shards
        [Shard(file=0, start=8, rows=1), Shard(file=0, start=24, rows=1)]
        >>> Reader(source).read(source.shards[1]).texts
        ['Go away!']
    """
    paths = [Path(file) for file in files] if files else find_files(path)
    kind = _kind(paths[0])
    delimiter = separator or ("," if _ending(paths[0]) == ".csv" else "\t")
    if len(delimiter) != 1:
        raise ValueError(f"--separator takes one character, got {delimiter!r}. A tabulator: --separator $'\\t'")
    if (order or speaker) and not conversation:
        raise ValueError("An order or a speaker goes with a conversation: --conversation COLUMN")
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be at least 1, got {shard_rows}.")
    source = Source([str(p) for p in paths], kind, delimiter, {}, [], text, conversation, order, speaker, [])
    source.columns = {"parquet": _parquet_columns, "csv": _csv_columns, "jsonl": _json_columns}[kind](source)
    source.keep = list(source.columns) if keep is None else list(dict.fromkeys(keep))
    for name in source.wanted:
        if name not in source.columns:
            raise ValueError(_missing(paths[0], name, list(source.columns)))
    type_of_text = str(parse_type(source.columns[text]))
    if kind == "parquet" and not any(word in type_of_text for word in ("string", "binary", "null")):
        raise ValueError(f"{paths[0]}: column {text!r} holds {type_of_text}, which is no text.")
    source.shards = _cut(source, shard_rows)
    return source


def find_files(path: str | os.PathLike) -> list[Path]:
    """The file, or those of the folder.

    Raises:
        FileNotFoundError, ValueError: as in `open_source`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file and no folder {path}.")
    if not path.is_dir():
        _kind(path)
        return [path.absolute()]
    found = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith((".", "_"))]
    if not found:
        raise FileNotFoundError(f"The folder {path} holds no file.")
    if len({_kind(file) for file in found}) > 1:
        raise ValueError(f"The folder {path} holds files of several kinds. Give it only one of them.")
    return [file.absolute() for file in found]


def fingerprint(files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What tells a table from another: name and size of each file, and a hash of its first and last MiB."""
    found = []
    for file in map(Path, files):
        size = file.stat().st_size
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLE))
            stream.seek(max(0, size - _SAMPLE))
            digest.update(stream.read(_SAMPLE))
        found.append({"name": file.name, "bytes": size, "sha256": digest.hexdigest()})
    return found


class Reader:
    """Reads shards. One that follows the one before goes on in the open file; any other is looked up.

    Args:
        source: what `open_source` found.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._next: tuple[int, int] | None = None
        self._stream: Iterator[Any] = iter(())
        self._close: Callable[[], None] = lambda: None

    def read(self, shard: Shard) -> Rows:
        """The rows of a shard."""
        if self._next != (shard.file, shard.start):
            self._close()
            kind, file = self.source.kind, self.source.files[shard.file]
            if kind == "parquet":
                self._stream, self._close = _parquet_rows(self.source, file, shard.start)
            else:
                opener = _csv_records if kind == "csv" else _json_records
                self._stream, self._close = opener(self.source, file, shard.start)
        try:
            if self.source.kind == "parquet":
                end, rows = shard.start + shard.rows, self._parquet(shard)
            else:
                end, rows = self._records(shard)
        except StopIteration:
            raise ValueError(f"{self.source.files[shard.file]} has changed: it has fewer rows than before.") from None
        self._next = (shard.file, end)
        return rows

    def _parquet(self, shard: Shard) -> Rows:
        source = self.source
        pieces, missing = [], shard.rows
        while missing:
            batch = next(self._stream)
            if len(batch) > missing:
                # What is left belongs to the next shard.
                self._stream = itertools.chain([batch.slice(missing)], self._stream)
                batch = batch.slice(0, missing)
            pieces.append(batch)
            missing -= len(batch)
        schema = pa.schema([(name, parse_type(source.columns[name])) for name in source.wanted])
        table = pa.Table.from_batches(pieces) if pieces else schema.empty_table()
        texts, problems = _texts(table[source.text])
        columns = {name: table[name].to_pylist() for name in source.named}
        return self._rows(table.select(source.keep), texts, problems, columns)

    def _records(self, shard: Shard) -> tuple[int, Rows]:
        source, end = self.source, shard.start
        columns: dict[str, list[Any]] = {name: [] for name in source.wanted}
        problems = []
        for _ in range(shard.rows):
            end, record, problem = next(self._stream)
            problems.append(problem)
            for name, values in columns.items():
                values.append(record.get(name))
        kept = pa.table({name: _to_arrow(columns[name], source.columns[name]) for name in source.keep})
        return end, self._rows(kept, columns[source.text], problems, columns)

    def _rows(
        self, kept: pa.Table, texts: list[Any], problems: list[str | None], columns: dict[str, list[Any]]
    ) -> Rows:
        rows, source = Rows(kept, texts, problems), self.source
        if source.conversation:
            rows.conversations = [_identity(value) for value in columns[source.conversation]]
        if source.order:
            rows.orders = columns[source.order]
        if source.speaker:
            rows.speakers = columns[source.speaker]
        return rows


# ---- shards ----


def _cut(source: Source, shard_rows: int) -> list[Shard]:
    shards: list[Shard] = []
    # A hash of each run of rows with one conversation: 8 bytes, however long its name.
    runs = array("q")
    for number, file in enumerate(source.files):
        if source.kind == "parquet" and source.conversation is None:
            shards += _cut_by_number(number, file, shard_rows)
        else:
            shards += _cut_by_row(source, number, file, shard_rows, runs)
    _check_contiguous(source, runs)
    return shards or [Shard(0, 0, 0)]


def _cut_by_number(number: int, file: str, shard_rows: int) -> list[Shard]:
    """Shards of a Parquet file, from its footer."""
    rows, size = _parquet_size(file)
    shard_rows = max(1, min(shard_rows, SHARD_BYTES * rows // max(size, 1)))
    return [Shard(number, start, min(shard_rows, rows - start)) for start in range(0, rows, shard_rows)]


def _cut_by_row(source: Source, number: int, file: str, shard_rows: int, runs: array) -> list[Shard]:
    """Shards that end before the row which would be too much or, with conversations, before its conversation."""
    shards: list[Shard] = []
    begin, rows, size, turns = -1, 0, 0, 0
    before, place = None, (0, 0, 0)  # the last place to cut: where, and how many rows and bytes of the shard lie before
    for start, length, conversation in _positions(source, file):
        begin = start if begin < 0 else begin
        if conversation is None or conversation != before:
            place, turns, before = (start, rows, size), 0, conversation
            if conversation is not None:
                runs.append(hash(conversation))
        turns += 1
        if turns > LONGEST_CONVERSATION:
            raise ValueError(
                f"{file}: conversation {conversation!r} has more than {LONGEST_CONVERSATION:,} rows. Cut it into "
                "several, for example by day."
            )
        if place[1] and (rows >= shard_rows or size + length > SHARD_BYTES):
            shards.append(Shard(number, begin, place[1]))
            begin, rows, size = place[0], rows - place[1], size - place[2]
            place = (begin, 0, 0)
        rows, size = rows + 1, size + length
    return [*shards, Shard(number, begin, rows)] if rows else shards


def _positions(source: Source, file: str) -> Iterator[tuple[int, int, str | None]]:
    """Of each row: where it starts, how many bytes it has, and its conversation."""
    if source.kind == "parquet":
        rows, size = _parquet_size(file)
        numbers = itertools.count()
        for batch in _open_parquet(file).iter_batches(columns=[source.conversation], use_threads=False):
            for value in batch.column(0).to_pylist():
                yield next(numbers), size // rows, _identity(value)
        return
    records, close = (_csv_records if source.kind == "csv" else _json_records)(source, file, None)
    try:
        start = next(records)[0]
        for end, record, _ in records:
            yield start, end - start, _identity(record.get(source.conversation))
            start = end
    finally:
        close()


def _identity(value: Any) -> str | None:
    """What a conversation is known by; None and NaN are none, and a CSV can only leave a cell empty."""
    return None if value is None or value == "" or value != value else str(value)


def _check_contiguous(source: Source, runs: array) -> None:
    """Raises when a conversation begins twice."""
    hashes, counts = np.unique(np.frombuffer(runs, dtype=np.int64), return_counts=True)
    if len(hashes) == len(runs):
        return
    # Perhaps two names with one hash: look again, at these alone.
    again = set(hashes[counts > 1].tolist())
    seen: set[str] = set()
    for file in source.files:
        before = None
        for row, (_, _, conversation) in enumerate(_positions(source, file), start=1):
            if conversation is not None and conversation != before and hash(conversation) in again:
                if conversation in seen:
                    raise ValueError(
                        f"{file}: the rows of conversation {conversation!r} do not stand together (it comes up again "
                        f"in row {row}). Sort the table by {source.conversation!r} first."
                    )
                seen.add(conversation)
            before = conversation


# ---- Parquet ----


def _open_parquet(file: str) -> pq.ParquetFile:
    # Through a small buffer: otherwise the chunk of a whole row group is in memory.
    return pq.ParquetFile(file, buffer_size=_SAMPLE, pre_buffer=False)


def _parquet_size(file: str) -> tuple[int, int]:
    """Rows and uncompressed bytes."""
    metadata = pq.read_metadata(file)
    groups = range(metadata.num_row_groups)
    return metadata.num_rows, sum(metadata.row_group(group).total_byte_size for group in groups)


def _parquet_columns(source: Source) -> dict[str, str]:
    try:
        schemas = [pq.read_schema(file) for file in source.files]
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source.files[0]} is not a whole Parquet file: {error}") from error
    columns = {field.name: _type_name(field.type) for field in schemas[0]}
    if len(columns) < len(schemas[0]):
        raise ValueError(f"{source.files[0]} has two columns of one name: {', '.join(schemas[0].names)}.")
    for file, schema in zip(source.files, schemas, strict=True):
        if {field.name: _type_name(field.type) for field in schema} != columns:
            raise ValueError(f"{file} has other columns or types than {source.files[0]}.")
    return columns


def _type_name(value: pa.DataType) -> str:
    # A type's text can't be read back for every type; a schema can.
    simple = str(value)
    return simple if _parses(simple, value) else pa.schema([("x", value)]).serialize().to_pybytes().hex()


def _parses(name: str, value: pa.DataType) -> bool:
    try:
        return pa.type_for_alias(name) == value
    except ValueError:
        return False


def parse_type(name: str) -> pa.DataType:
    """The type that a source's `columns` name."""
    try:
        return pa.type_for_alias(name)
    except ValueError:
        return pa.ipc.read_schema(pa.BufferReader(bytes.fromhex(name))).field(0).type


def _parquet_rows(source: Source, file: str, start: int) -> tuple[Iterator[pa.RecordBatch], Callable[[], None]]:
    opened = _open_parquet(file)
    groups: list[int] = []
    before = 0
    for group in range(opened.metadata.num_row_groups):
        rows = opened.metadata.row_group(group).num_rows
        if before + rows > start or groups:
            groups.append(group)
        else:
            before += rows
    skipped = start - before

    def batches() -> Iterator[pa.RecordBatch]:
        left = skipped
        for batch in opened.iter_batches(4096, row_groups=groups, columns=source.wanted, use_threads=False):
            if left < len(batch):
                yield batch.slice(left)
            left = max(0, left - len(batch))

    return batches(), opened.close


def _texts(column: pa.ChunkedArray) -> tuple[list[Any], list[str | None]]:
    """Texts of a column; Parquet does not promise that a string is UTF-8."""
    if pa.types.is_null(column.type):
        return [None] * len(column), [None] * len(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    texts: list[Any] = []
    problems: list[str | None] = []
    for value in column.cast(pa.large_binary()).to_pylist():
        try:
            texts.append(None if value is None else value.decode("utf-8"))
            problems.append(None)
        except UnicodeDecodeError:
            texts.append(None)
            problems.append(_NOT_UTF8)
    return texts, problems


# ---- CSV and JSON lines ----


def _ending(path: Path) -> str:
    """What says the kind of file: the ending, or the one before it where that is a compression's."""
    return (Path(path.stem) if path.suffix.lower() in _OPENERS else path).suffix.lower()


def _kind(path: Path) -> str:
    ending = _ending(path)
    if ending not in _KINDS or (path.suffix.lower() in _OPENERS and _KINDS[ending] == "parquet"):
        hint = " JSON with one object per line is called .jsonl." if ending == ".json" else ""
        raise ValueError(
            f"{path}: the ending must be .parquet, .csv, .tsv or .jsonl, the last three also with .gz, .bz2 or .xz."
            f"{hint}"
        )
    return _KINDS[ending]


def _open_text(file: str, start: int | None, newline: str) -> tuple[int, io.TextIOWrapper]:
    """A stream from byte `start` on, None for the beginning, and where that is after a byte-order mark.

    Bytes that are no UTF-8 become lone surrogates, which are found as such later.
    """
    binary = _OPENERS.get(Path(file).suffix.lower(), open)(file, "rb")
    if start is None:
        mark = binary.read(3)
        if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError(f"{file} is UTF-16. Convert it first: iconv -f UTF-16 -t UTF-8")
        start = 3 if mark == b"\xef\xbb\xbf" else 0
    binary.seek(start)
    return start, io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline=newline)


def _size(line: str) -> int:
    return len(line) if line.isascii() else len(line.encode("utf-8", "surrogateescape"))


def _csv_columns(source: Source) -> dict[str, str]:
    headers = []
    for file in source.files:
        _, stream = _open_text(file, None, newline="")
        with stream:
            headers.append(next(csv.reader(stream, delimiter=source.separator), []))
    if not headers[0]:
        raise ValueError(f"{source.files[0]} is empty. The first line of a CSV names its columns.")
    for file, header in zip(source.files, headers, strict=True):
        if header != headers[0]:
            raise ValueError(f"{file} has other columns than {source.files[0]}.")
    if len(set(headers[0])) < len(headers[0]):
        raise ValueError(f"{source.files[0]} has two columns of one name: {', '.join(headers[0])}.")
    return dict.fromkeys((clean(name) for name in headers[0]), "string")


def _csv_records(source: Source, file: str, start: int | None) -> tuple[Iterator[Any], Callable[[], None]]:
    """Records (end in bytes, cells by column, problem); from the beginning, first one that ends where they begin."""
    begin, stream = _open_text(file, start, newline="")
    names = list(source.columns)
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
    position = begin

    def lines() -> Iterator[str]:
        nonlocal position
        for line in stream:
            position += _size(line)
            yield line

    def records() -> Iterator[Any]:
        reader = csv.reader(lines(), delimiter=source.separator)
        if start is None:
            next(reader, None)
            yield position, {}, None
        last = position
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise ValueError(
                    f"{file}: the row at byte {last:,} can't be read ({error}). Is a quotation mark left open there?"
                ) from error
            if cells is None:
                return
            last = position
            if not cells:
                continue  # an empty line is no row
            problem = None
            if len(cells) != len(names):
                problem = "The line has another number of cells than the header."
            yield position, dict(zip(names, cells, strict=False)), problem

    return records(), stream.close


def _json_records(source: Source, file: str, start: int | None) -> tuple[Iterator[Any], Callable[[], None]]:
    """As `_csv_records`, of JSON lines."""
    begin, stream = _open_text(file, start, newline="\n")

    def records() -> Iterator[Any]:
        position = begin
        if start is None:
            yield position, {}, None
        for line in stream:
            position += _size(line)
            if line.isspace():
                continue
            record, problem = {}, None
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                problem = "The line is not JSON."
            if not isinstance(record, dict):
                record, problem = {}, "The line is no JSON object."
            yield position, record, problem

    return records(), stream.close


def _json_columns(source: Source) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for file in source.files:
        records, close = _json_records(source, file, None)
        for _, record, _ in records:
            for name, value in record.items():
                found.setdefault(clean(name), set()).add(_json_type(value))
        close()
    if not found:
        raise ValueError(f'{source.files[0]} holds no JSON object. It takes one per line, such as {{"text": "Hi"}}.')
    return {name: _common_type(types - {"null"}) for name, types in found.items()}


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "json"
    return {str: "string", float: "double"}.get(type(value), "json")


def _common_type(types: set[str]) -> str:
    if len(types) == 1 and "json" not in types:
        return next(iter(types))
    return "double" if types == {"int64", "double"} else "string"


def _to_arrow(values: list[Any], name: str) -> pa.Array:
    if name != "string":
        return pa.array(values, parse_type(name))
    return pa.array(
        [None if v is None else clean(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False)) for v in values],
        pa.string(),
    )


def clean(text: str) -> str:
    """The text with U+FFFD for what is no character, so that it can be written.

    Example:
        >>> clean("half \\ud83d, whole")
        'half \ufffd, whole'
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _missing(file: Path, column: str, found: list[str]) -> str:
    close = difflib.get_close_matches(column, found, n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    if len(found) == 1 and any(mark in found[0] for mark in ";\t|,"):
        mark = next(mark for mark in ";\t|," if mark in found[0])
        hint = f" It looks as if the columns were separated otherwise: --separator {mark!r}"
    return f"{file} has no column {column!r}. Its columns: {', '.join(map(repr, found))}.{hint}"
