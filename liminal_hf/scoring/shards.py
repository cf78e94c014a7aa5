"""A table of any size as shards that can be read one by one, in any order and by any process.

Requires numpy and pyarrow. The one reader reads the table once, and it is written as a Parquet file beside the output,
with the error of each row. A shard is a row group of that file.
"""

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.cells import OrderColumn, is_no_value
from ..data.formats import as_text
from ..data.tables import Table, TableFile, TableSettings, open_table, table_kind, texts_of
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
_BATCH = 512


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


@dataclass
class Plan:
    """A table that has been looked through; plain data, so that it can be stored and sent to other processes.

    Args:
        shards: how many rows each has; shard i is row group i of `STAGED`.
        keep: columns that go to the output.
        text, conversation, order, speaker: names of columns, as the table has them.
        date_order, order_decimal: how the order's dates and numbers are written.
        separator, decimal: of the table that came in, for a CSV that goes out.
    """

    shards: list[int]
    keep: list[str]
    text: str
    conversation: str | None = None
    order: str | None = None
    speaker: str | None = None
    date_order: str | None = None
    order_decimal: str | None = None
    separator: str | None = None
    decimal: str | None = None

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(self.shards)

    @property
    def named(self) -> list[str]:
        """The columns that have to be read."""
        return list(
            dict.fromkeys([*self.keep, self.text, *filter(None, (self.conversation, self.order, self.speaker))])
        )

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
    """Reads the tables once, and writes them as `STAGED` into the folder: a row group per shard, no row left out.

    Raises:
        LiminalError: a table can't be read, the tables have columns of different types, the rows of a conversation are
            scattered or too many, or the order column orders nothing.
    """
    first = tables[0]
    plan = Plan(
        shards=[],
        keep=list(first.schema.names) if settings.keep is None else list(map(first.column, settings.keep)),
        text=first.text,
        conversation=settings.conversation and first.column(settings.conversation),
        order=settings.order and first.column(settings.order),
        speaker=settings.speaker and first.column(settings.speaker),
        separator=first.like.separator,
        decimal=first.like.decimal,
    )
    try:
        schema = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise LiminalError(f"The files beside {first.path} have columns of other types than it: {error}") from error
    schema = pa.schema([schema.field(name) for name in plan.named])
    order = OrderColumn(plan.order, settings.date_order, settings.decimal) if plan.order else None
    with atomic_write(folder / STAGED) as temporary:
        stager = _Stager(temporary, schema, plan, settings.shard_rows)
        with stager.writer:
            for table in tables:
                for rows in table.batches(_BATCH):
                    if order is not None:
                        for line, value in zip(rows.lines, rows.columns[plan.order].to_pylist(), strict=True):
                            order.add(value, f"{table.unit} {line}")
                    stager.add(rows)
            stager.finish()
        _check_contiguous(plan, stager.runs, temporary)
    if order is not None:
        plan.date_order, plan.order_decimal = order.decide(), order.decimal
    return plan


class _Stager:
    """Cuts rows into shards, as they come: never within a conversation."""

    def __init__(self, path: Path, schema: pa.Schema, plan: Plan, most: int) -> None:
        self.schema, self.plan, self.most = schema, plan, most
        self.writer = pq.ParquetWriter(path, schema.append(pa.field(_ERROR, pa.string())), compression=COMPRESSION)
        self.rows = self.writer.schema.empty_table()  # not written yet
        self.starts: list[int] = []  # where a conversation begins in them
        self.runs = array("q")  # a hash of each conversation: 8 bytes, however long its name
        self.turns = 0
        self.before: str | None = None

    def add(self, rows: Table) -> None:
        """Takes some rows, and writes the shards that are full."""
        errors = [error or text_error(text) for error, text in zip(rows.errors, rows.texts, strict=True)]
        columns = rows.columns.select(self.schema.names).cast(self.schema)
        if self.plan.conversation:
            for index, value in enumerate(columns[self.plan.conversation].to_pylist(), start=len(self.rows)):
                self._turn(_identity(value), index)
        columns = columns.append_column(_ERROR, pa.array(errors, pa.string()))
        self.rows = pa.concat_tables([self.rows, columns])
        most = max(1, min(self.most, SHARD_BYTES * len(self.rows) // max(self.rows.nbytes, 1)))
        while len(self.rows) > most:
            end = most
            if self.plan.conversation:
                ends = [start for start in self.starts if start]
                end = max((start for start in ends if start <= most), default=min(ends, default=0))
            if not end:
                return
            self._write(end)

    def _turn(self, conversation: str | None, index: int) -> None:
        if conversation is None or conversation != self.before:
            self.starts.append(index)
            self.turns, self.before = 0, conversation
            if conversation is not None:
                self.runs.append(hash(conversation))
        self.turns += 1
        if self.turns > LONGEST_CONVERSATION:
            raise LiminalError(
                f"Conversation {conversation!r} has more than {LONGEST_CONVERSATION:,} rows. Cut it into several, for "
                "example by day."
            )

    def _write(self, end: int) -> None:
        self.writer.write_table(self.rows.slice(0, end).combine_chunks(), row_group_size=max(end, 1))
        self.plan.shards.append(end)
        self.rows = self.rows.slice(end)
        self.starts = [start - end for start in self.starts if start >= end]

    def finish(self) -> None:
        """Writes what is left; a table without rows is one shard without rows."""
        if len(self.rows) or not self.plan.shards:
            self._write(len(self.rows))


def _identity(value: Any) -> str | None:
    """What a conversation is known by."""
    return None if is_no_value(value) or value == "" else as_text(value)


def _check_contiguous(plan: Plan, runs: array, path: Path) -> None:
    """Raises when a conversation begins twice."""
    hashes, counts = np.unique(np.frombuffer(runs, dtype=np.int64), return_counts=True)
    if len(hashes) == len(runs):
        return
    # Perhaps two names with one hash: look again, at these alone.
    again = set(hashes[counts > 1].tolist())
    seen: set[str] = set()
    before, row = None, 0
    for batch in pq.ParquetFile(path).iter_batches(columns=[plan.conversation], use_threads=False):
        for conversation in map(_identity, batch.column(0).to_pylist()):
            row += 1
            if conversation is not None and conversation != before and hash(conversation) in again:
                if conversation in seen:
                    raise LiminalError(
                        f"The rows of conversation {conversation!r} are not together (it comes up again in row {row}). "
                        f"Sort the table by {plan.conversation!r} first."
                    )
                seen.add(conversation)
            before = conversation


def read_shard(plan: Plan, folder: Path, number: int) -> ShardRows:
    """The rows of a shard.

    Args:
        plan: what `make_plan` returned.
        folder: where it wrote the table.
        number: of the shard, from 0 on.
    """
    with pq.ParquetFile(folder / STAGED) as file:
        table = file.read_row_group(number, columns=[*plan.named, _ERROR], use_threads=False)
    texts, _ = texts_of(table[plan.text])
    rows = ShardRows(table.select(plan.keep), texts, table[_ERROR].to_pylist())
    if plan.conversation:
        rows.conversations = list(map(_identity, table[plan.conversation].to_pylist()))
    if plan.order:
        order = OrderColumn(plan.order, plan.date_order, plan.order_decimal)
        rows.orders = list(map(order.key, table[plan.order].to_pylist()))
    if plan.speaker:
        rows.speakers = ["" if is_no_value(value) else as_text(value) for value in table[plan.speaker].to_pylist()]
    return rows
