"""A table of any size as shards that can be read one by one, in any order and by any process.

Requires numpy and pyarrow. Parquet files are read where they are; any other table is first read through the one reader
into a Parquet file beside the output, with the error of each row. A shard is a run of rows of one file.
"""

import itertools
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.cells import OrderColumn, is_no_value
from ..data.formats import as_text
from ..data.tables import TableFile, TableSettings, open_table, parquet_texts, table_kind
from ..data.writing import COMPRESSION
from ..io import atomic_write, file_sha256
from ..modeling.errors import LiminalError
from ..modeling.texts import text_error

# A shard ends after about this many bytes of input, however few its rows.
SHARD_BYTES = 64 << 20
# A conversation is read as one; beyond this it would no longer fit beside the others.
LONGEST_CONVERSATION = 65_536
STAGED = "_table.parquet"
_ERROR = "__liminal_error__"
_SAMPLE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(TableSettings):
    """How a table is scored; also all of `TableSettings`, which say how it is read.

    Args:
        keep: columns that go to the output; None keeps all.
        prefix: before the names of the new columns.
        conversation: column that says which conversation a row belongs to. The rows of one must be together.
        order: column by which the turns of a conversation are ordered: numbers or dates.
        speaker: column with who speaks; each speaker has a memory of their own.
        backend, tokens, max_length, refuse_long, threads: as in `Scorer`.
        shard_rows: rows per shard, fewer where rows are long (64 MiB of input).
        engine: "local", or "ray" for a Ray cluster.
        workers: how many work at a time with Ray, each with `threads` cores (default 1).
        address: of the Ray cluster; None starts one on this machine.
    """

    keep: Sequence[str] | None = None
    prefix: str = ""
    conversation: str | None = None
    order: str | None = None
    speaker: str | None = None
    backend: str = "torch"
    tokens: int | None = None
    max_length: int | None = None
    refuse_long: bool = False
    shard_rows: int = 16_384
    threads: int | None = None
    engine: str = "local"
    workers: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep is not None:
            object.__setattr__(self, "keep", list(dict.fromkeys(self.keep)))
        if (self.order or self.speaker) and not self.conversation:
            raise LiminalError("An order or a speaker goes with a conversation: --conversation COLUMN")
        for name in ("shard_rows", "workers"):
            if getattr(self, name) < 1:
                raise LiminalError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.engine not in ("local", "ray"):
            raise LiminalError(f"The engine must be one of local, ray, got {self.engine!r}.")

    @property
    def identity(self) -> dict[str, Any]:
        """What the output depends on: all but how the work is done, and the labels, which scoring does not read."""
        left_out = {"labels", "scale", "threads", "engine", "workers", "address"}
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in left_out}


class Shard(NamedTuple):
    """A run of rows: `rows` of file number `file`, from row `start` on."""

    file: int
    start: int
    rows: int


@dataclass
class Plan:
    """A table that has been looked through; plain data, so that it can be stored and sent to other processes.

    Args:
        files: Parquet files, in order.
        staged: whether they were written by the one reader, with the errors of the rows.
        keep: columns that go to the output.
        text, conversation, order, speaker: names of columns, as the table has them.
        date_order, order_decimal: how the order's dates and numbers are written.
        separator, decimal: of the table that came in, for a CSV that goes out.
        shards: the runs of rows.
    """

    files: list[str]
    staged: bool
    keep: list[str]
    text: str
    conversation: str | None = None
    order: str | None = None
    speaker: str | None = None
    date_order: str | None = None
    order_decimal: str | None = None
    separator: str | None = None
    decimal: str | None = None
    shards: list[Shard] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(shard.rows for shard in self.shards)

    @property
    def like(self) -> TableSettings:
        """Settings for a CSV in the dialect of the table that came in."""
        return TableSettings(separator=self.separator, decimal=self.decimal)


@dataclass
class ShardRows:
    """The rows of a shard.

    Args:
        kept: the columns that go to the output, as they came.
        texts: what the text column holds.
        errors: why a row can't be read at all, or None.
        conversations: names, or None for a row without one.
        orders: what a turn is sorted by, or None for a row without it.
        speakers: names.
    """

    kept: pa.Table
    texts: list[Any]
    errors: list[str | None]
    conversations: list[str | None] | None = None
    orders: list[Any] | None = None
    speakers: list[str] | None = None


def find_files(path: str | os.PathLike) -> list[Path]:
    """The file, or those of the folder in the order of their names.

    Raises:
        FileNotFoundError: there is none.
        LiminalError: the folder holds files of several kinds, or one that is no table.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file and no folder {path}.")
    if not path.is_dir():
        return [path.absolute()]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith((".", "_"))]
    if not files:
        raise FileNotFoundError(f"The folder {path} holds no file.")
    kinds = {table_kind(file) for file in files}
    if len(kinds) > 1:
        raise LiminalError(f"The folder {path} holds files of several kinds. Give it only one of them.")
    if kinds == {"delimited"} and {file.suffix.lower() for file in files} == {".txt"}:
        raise LiminalError(
            f"The folder {path} holds a text per file. Put them into one table with a column 'text', a row for each."
        )
    return [file.absolute() for file in files]


def fingerprint(files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What tells a table from another: name, size and sha256 of each file."""
    return [{"name": file.name, "bytes": file.stat().st_size, "sha256": file_sha256(file)} for file in map(Path, files)]


# ---- looking through ----


def open_files(files: Sequence[Path], settings: ScoreSettings) -> list[TableFile]:
    """The tables, all with the same columns and with those that are named.

    Raises:
        FileNotFoundError, LiminalError: as `open_table`; or the files differ in their columns.
    """
    wanted = [name for name in (settings.conversation, settings.order, settings.speaker) if name]
    tables = [open_table(file, settings, [*wanted, *(settings.keep or [])]) for file in files]
    for table in tables[1:]:
        if table.schema.names != tables[0].schema.names:
            raise LiminalError(f"{table.path} has other columns than {tables[0].path}.")
    return tables


def make_plan(tables: Sequence[TableFile], settings: ScoreSettings, folder: Path) -> Plan:
    """Looks through the tables, and writes `STAGED` into the folder where they are no plain Parquet files.

    Raises:
        LiminalError: a table can't be read, the rows of a conversation are scattered or too many, or the order column
            orders nothing.
    """
    first = tables[0]
    staged = not all(table.kind == "parquet" and table.schema.names == _names(table.path) for table in tables)
    like = first.like
    plan = Plan(
        files=[str(folder / STAGED)] if staged else [str(table.path) for table in tables],
        staged=staged,
        keep=list(first.schema.names) if settings.keep is None else list(map(first.column, settings.keep)),
        text=first.text,
        conversation=settings.conversation and first.column(settings.conversation),
        order=settings.order and first.column(settings.order),
        speaker=settings.speaker and first.column(settings.speaker),
        separator=like.separator,
        decimal=like.decimal,
    )
    if staged:
        stage(tables, folder / STAGED)
    schemas = [pq.read_schema(file) for file in plan.files]
    if any(schema.remove_metadata() != schemas[0].remove_metadata() for schema in schemas):
        raise LiminalError(f"The files beside {first.path} have columns of other types than it.")
    _cut(plan, settings)
    return plan


def stage(tables: Sequence[TableFile], target: Path) -> None:
    """Writes tables as one Parquet file, with a column for the error of each row; no row is left out.

    Raises:
        LiminalError: a table can't be read, or the tables have columns of different types.
    """
    try:
        schema = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise LiminalError(f"The files beside {tables[0].path} have columns of other types than it: {error}") from error
    schema = schema.remove_metadata()
    count = 0
    with atomic_write(target) as temporary:
        with pq.ParquetWriter(
            temporary, schema.append(pa.field(_ERROR, pa.string())), compression=COMPRESSION
        ) as writer:
            for table in tables:
                for rows in table.batches():
                    errors = [error or text_error(text) for error, text in zip(rows.errors, rows.texts, strict=True)]
                    columns = rows.columns.cast(schema)
                    writer.write_table(columns.append_column(_ERROR, pa.array(errors, pa.string())))
                    count += len(errors)
        if pq.read_metadata(temporary).num_rows != count:
            raise RuntimeError(f"{tables[0].path}: {count} rows were read, and another number was written.")


def _names(path: Path) -> list[str]:
    return pq.read_schema(path).names


def _cut(plan: Plan, settings: ScoreSettings) -> None:
    order = OrderColumn(plan.order, settings.date_order, settings.decimal) if plan.order else None
    # A hash of each run of rows with one conversation: 8 bytes, however long its name.
    runs = array("q")
    for index, file in enumerate(plan.files):
        rows, size = _parquet_size(file)
        most = max(1, min(settings.shard_rows, SHARD_BYTES * rows // max(size, 1)))
        if plan.conversation is None:
            plan.shards += [Shard(index, start, min(most, rows - start)) for start in range(0, rows, most)]
        else:
            plan.shards += _cut_by_conversation(plan, index, most, runs, order)
    _check_contiguous(plan, runs)
    plan.shards = plan.shards or [Shard(0, 0, 0)]
    if order is not None:
        plan.date_order, plan.order_decimal = order.decide(), order.decimal


def _cut_by_conversation(plan: Plan, index: int, most: int, runs: array, order: OrderColumn | None) -> list[Shard]:
    """Shards that end before the conversation which would be too much."""
    shards: list[Shard] = []
    start = begin = turns = number = 0  # of the shard, and of the conversation in it
    before: str | None = None
    for number, (conversation, moment) in enumerate(_turns(plan, plan.files[index]), start=1):
        if order is not None:
            order.add(moment, f"row {number}")
        if conversation is None or conversation != before:
            begin, turns, before = number - 1, 0, conversation
            if conversation is not None:
                runs.append(hash(conversation))
        turns += 1
        if turns > LONGEST_CONVERSATION:
            raise LiminalError(
                f"Conversation {conversation!r} has more than {LONGEST_CONVERSATION:,} rows. Cut it into several, for "
                "example by day."
            )
        if begin > start and number - start > most:
            shards.append(Shard(index, start, begin - start))
            start = begin
    return [*shards, Shard(index, start, number - start)] if number > start else shards


def _turns(plan: Plan, file: str) -> Iterator[tuple[str | None, Any]]:
    """Conversation and order of each row."""
    names = [name for name in (plan.conversation, plan.order) if name]
    for batch in _open(file).iter_batches(columns=list(dict.fromkeys(names)), use_threads=False):
        conversations = batch.column(plan.conversation).to_pylist()
        orders = batch.column(plan.order).to_pylist() if plan.order else itertools.repeat(None)
        for conversation, moment in zip(conversations, orders, strict=False):
            yield _identity(conversation), moment


def _identity(value: Any) -> str | None:
    """What a conversation is known by."""
    return None if is_no_value(value) or value == "" else as_text(value)


def _check_contiguous(plan: Plan, runs: array) -> None:
    """Raises when a conversation begins twice."""
    hashes, counts = np.unique(np.frombuffer(runs, dtype=np.int64), return_counts=True)
    if len(hashes) == len(runs):
        return
    # Perhaps two names with one hash: look again, at these alone.
    again = set(hashes[counts > 1].tolist())
    seen: set[str] = set()
    for file in plan.files:
        before = None
        for row, (conversation, _) in enumerate(_turns(plan, file), start=1):
            if conversation is not None and conversation != before and hash(conversation) in again:
                if conversation in seen:
                    raise LiminalError(
                        f"The rows of conversation {conversation!r} are not together (it comes up again in row {row}). "
                        f"Sort the table by {plan.conversation!r} first."
                    )
                seen.add(conversation)
            before = conversation


# ---- reading ----


def _open(file: str) -> pq.ParquetFile:
    # Through a small buffer: otherwise the chunk of a whole row group is in memory.
    return pq.ParquetFile(file, buffer_size=_SAMPLE, pre_buffer=False)


def _parquet_size(file: str) -> tuple[int, int]:
    """Rows and uncompressed bytes."""
    metadata = pq.read_metadata(file)
    groups = range(metadata.num_row_groups)
    return metadata.num_rows, sum(metadata.row_group(group).total_byte_size for group in groups)


class ShardReader:
    """Reads shards. One that follows the one before goes on in the open file; any other is looked up.

    Args:
        plan: what `make_plan` returned.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._next: tuple[int, int] | None = None
        self._file: pq.ParquetFile | None = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        named = [plan.text, plan.conversation, plan.order, plan.speaker, _ERROR if plan.staged else None]
        self._wanted = list(dict.fromkeys([*plan.keep, *(name for name in named if name)]))
        self._order = OrderColumn(plan.order, plan.date_order, plan.order_decimal) if plan.order else None

    def read(self, shard: Shard) -> ShardRows:
        """The rows of a shard."""
        if self._next != (shard.file, shard.start):
            if self._file is not None:
                self._file.close()
            self._file = _open(self.plan.files[shard.file])
            self._batches = self._from(self._file, shard.start)
        pieces, missing = [], shard.rows
        while missing:
            batch = next(self._batches, None)
            if batch is None:
                raise LiminalError(f"{self.plan.files[shard.file]} has changed: it has fewer rows than before.")
            if len(batch) > missing:
                # What is left belongs to the next shard.
                self._batches = itertools.chain([batch.slice(missing)], self._batches)
                batch = batch.slice(0, missing)
            pieces.append(batch)
            missing -= len(batch)
        self._next = (shard.file, shard.start + shard.rows)
        schema = pq.read_schema(self.plan.files[shard.file]).remove_metadata()
        empty = pa.schema([schema.field(name) for name in self._wanted]).empty_table()
        return self._rows(pa.Table.from_batches(pieces).replace_schema_metadata(None) if pieces else empty)

    def _from(self, file: pq.ParquetFile, start: int) -> Iterator[pa.RecordBatch]:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        ends = list(itertools.accumulate(counts))
        groups = [group for group, end in enumerate(ends) if end > start]
        skip = start - (ends[groups[0]] - counts[groups[0]]) if groups else 0
        for batch in file.iter_batches(4096, row_groups=groups, columns=self._wanted, use_threads=False):
            if skip < len(batch):
                yield batch.slice(skip)
            skip = max(0, skip - len(batch))

    def _rows(self, table: pa.Table) -> ShardRows:
        plan = self.plan
        if plan.staged:
            errors = table[_ERROR].to_pylist()
            texts = [
                value if value is None or isinstance(value, str) else as_text(value)
                for value in table[plan.text].to_pylist()
            ]
        else:
            texts, errors = parquet_texts(table[plan.text])
        rows = ShardRows(table.select(plan.keep), texts, errors)
        if plan.conversation:
            rows.conversations = list(map(_identity, table[plan.conversation].to_pylist()))
        if self._order:
            rows.orders = [self._key(value) for value in table[plan.order].to_pylist()]
        if plan.speaker:
            rows.speakers = ["" if is_no_value(value) else as_text(value) for value in table[plan.speaker].to_pylist()]
        return rows

    def _key(self, value: Any) -> Any:
        key = self._order.key(value)
        return None if isinstance(key, float) and math.isnan(key) else key
