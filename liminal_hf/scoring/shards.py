"""A table of any size as shards that can be read one by one, in any order and by any process.

Requires numpy and pyarrow. The one reader reads the table once, and it is written as a Parquet file beside the output,
with the error of each row. A shard is a row group of that file.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.cells import OrderColumn, is_no_value
from ..data.formats import as_text
from ..data.tables import TableFile, TableSettings, open_table, table_kind, texts_of
from ..data.writing import COMPRESSION
from ..io import atomic_write, file_sha256
from ..modeling.errors import LiminalError
from ..modeling.texts import text_error

# A shard ends after about this many bytes of input, however few its rows.
SHARD_BYTES = 64 << 20
# A conversation is read as one; beyond this it would no longer fit beside the others.
LONGEST_CONVERSATION = 65_536
STAGED = "_table.parquet"
# Settings that say how the work is done, and change nothing in the output. A checkpoint is known by its content.
HOW = ("threads", "engine", "workers", "address", "then")
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
        backend, tokens, max_length, truncate, refuse_long, threads: as in `Scorer`.
        then: a checkpoint that reads again what the first is unsure of, see `Cascade`.
        budget, threshold: of `Cascade`; one of them goes with `then`.
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
    truncate: bool = False
    refuse_long: bool = False
    then: str | None = None
    budget: float | None = None
    threshold: float | None = None
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
        if (self.then is None) != (self.budget is None and self.threshold is None):
            raise LiminalError("A second model goes with a budget or a threshold: --then mpnet --budget 1.5")
        if self.then and self.conversation:
            raise LiminalError("A second model reads texts that stand alone: leave out --then or --conversation.")
        for name in ("shard_rows", "workers"):
            if getattr(self, name) < 1:
                raise LiminalError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.engine not in ("local", "ray"):
            raise LiminalError(f"The engine must be one of local, ray, got {self.engine!r}.")

    @property
    def identity(self) -> dict[str, Any]:
        """What the output depends on: all but how the work is done, and the labels, which scoring does not read."""
        left_out = {"labels", "scale", *HOW}
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name not in left_out}


@dataclass
class Plan:
    """A table that has been looked through; plain data, so that it can be stored and sent to other processes.

    Args:
        shards: how many rows each has; shard i is row group i of `STAGED`.
        settings: those of the run, with the columns' names as the table has them, and with what was found in it:
            separator, decimal mark, order of dates.
        order_decimal: the decimal mark of the order column.
    """

    shards: list[int]
    settings: ScoreSettings
    order_decimal: str | None = None

    @property
    def rows(self) -> int:
        """How many there are."""
        return sum(self.shards)

    @property
    def named(self) -> list[str]:
        """The columns that have to be read."""
        it = self.settings
        return list(dict.fromkeys(filter(None, [*(it.keep or ()), it.text, it.conversation, it.order, it.speaker])))


class ShardRows(NamedTuple):
    """The rows of a shard. What no column was named for is None, and so is what a row lacks."""

    kept: pa.Table  # the columns that go to the output, as they came
    texts: list[Any]
    errors: list[str | None]  # why a row can't be read at all
    conversations: list[str | None] | None
    orders: list[Any] | None  # what a turn is sorted by
    speakers: list[str | None] | None


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


def open_files(files: Sequence[Path], settings: ScoreSettings) -> list[TableFile]:
    """The tables; an error where they differ in their columns, or lack one that is named."""
    wanted = [name for name in (settings.conversation, settings.order, settings.speaker) if name]
    tables = [open_table(file, settings, [*wanted, *(settings.keep or [])]) for file in files]
    for table in tables[1:]:
        if table.schema.names != tables[0].schema.names:
            raise LiminalError(f"{table.path} has other columns than {tables[0].path}.")
    return tables


def make_plan(tables: Sequence[TableFile], settings: ScoreSettings, folder: Path, added: Sequence[str] = ()) -> Plan:
    """Reads the tables once, and writes them as `STAGED` into the folder: a row group per shard, no row left out.

    Raises:
        LiminalError: a table can't be read, the tables have columns of different types, the rows of a conversation are
            scattered or too many, the order column orders nothing, or one of the `added` columns is there already.
    """
    first = tables[0]
    names = {name: getattr(settings, name) for name in ("conversation", "order", "speaker")}
    found: dict[str, Any] = {name: column and first.column(column) for name, column in names.items()}
    found["keep"] = first.schema.names if settings.keep is None else list(map(first.column, settings.keep))
    if taken := [name for name in added if name in found["keep"]]:
        raise LiminalError(
            f"The input has a column {taken[0]!r} already. Put something before the new names, such as --prefix pad_, "
            "or choose what to keep: --keep COLUMN,COLUMN"
        )
    settings = replace(settings, text=first.text, separator=first.like.separator, decimal=first.like.decimal, **found)
    plan = Plan([], settings)
    try:
        schema = pa.unify_schemas([table.schema for table in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise LiminalError(f"The files beside {first.path} have columns of other types than it: {error}") from error
    schema = pa.schema([schema.field(name) for name in plan.named])
    order = OrderColumn(settings.order, settings.date_order, first.settings.decimal) if settings.order else None
    with atomic_write(folder / STAGED) as temporary:
        with pq.ParquetWriter(temporary, schema.append(pa.field(_ERROR, pa.string())), compression=COMPRESSION) as out:
            waiting = out.schema.empty_table()
            for table in tables:
                for part in table.batches(_BATCH):
                    if order is not None:
                        for line, value in zip(part.lines, part.columns[order.name].to_pylist(), strict=True):
                            order.add(value, f"{table.unit} {line}")
                    errors = [error or text_error(text) for error, text in zip(part.errors, part.texts, strict=True)]
                    columns = part.columns.select(schema.names).cast(schema)
                    columns = columns.append_column(_ERROR, pa.array(errors, pa.string()))
                    waiting = pa.concat_tables([waiting, columns])
                    most = SHARD_BYTES * len(waiting) // max(waiting.nbytes, 1)
                    most = max(1, min(settings.shard_rows, most))
                    while len(waiting) > most and (end := _end_of_shard(waiting, settings.conversation, most)):
                        out.write_table(waiting.slice(0, end).combine_chunks(), row_group_size=end)
                        plan.shards.append(end)
                        waiting = waiting.slice(end)
            if len(waiting) or not plan.shards:  # a table without rows is one shard without rows
                _end_of_shard(waiting, settings.conversation, len(waiting))
                out.write_table(waiting.combine_chunks(), row_group_size=max(len(waiting), 1))
                plan.shards.append(len(waiting))
        if settings.conversation:
            _check_contiguous(temporary, settings.conversation)
    if order is not None:
        plan.settings = replace(settings, date_order=order.decide())
        plan.order_decimal = order.decimal
    return plan


def _end_of_shard(rows: pa.Table, conversation: str | None, most: int) -> int:
    """The end of a shard of at most so many rows, or of one conversation; 0 where the conversation may go on."""
    if conversation is None:
        return most
    names = _names(rows[conversation])
    starts = [row for row, name in enumerate(names) if name is None or not row or name != names[row - 1]]
    for start, end in zip(starts, [*starts[1:], len(names)], strict=False):  # no rows, no start
        if end - start > LONGEST_CONVERSATION:
            raise LiminalError(
                f"Conversation {names[start]!r} has more than {LONGEST_CONVERSATION:,} rows. Cut it into several, for "
                "example by day."
            )
    return max((start for start in starts if start <= most), default=0) or min(starts[1:], default=0)


def _names(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """What conversations and speakers are known by."""
    return [None if is_no_value(value) or value == "" else as_text(value) for value in column.to_pylist()]


def _check_contiguous(path: Path, conversation: str) -> None:
    """Raises when a conversation begins twice."""

    def begun() -> Iterator[tuple[int, str]]:
        row, before = 0, None
        for batch in pq.ParquetFile(path).iter_batches(columns=[conversation], use_threads=False):
            for name in _names(batch.column(0)):
                row += 1
                if name is not None and name != before:
                    yield row, name
                before = name

    # A hash has 8 bytes, however long the name. What has one twice is looked at again: two names may share it.
    hashes, counts = np.unique(np.fromiter((hash(name) for _, name in begun()), np.int64), return_counts=True)
    twice = set(hashes[counts > 1].tolist())
    seen: set[str] = set()
    for row, name in begun() if twice else ():
        if name in seen:
            raise LiminalError(
                f"The rows of conversation {name!r} are not together (it comes up again in row {row}). "
                f"Sort the table by {conversation!r} first."
            )
        if hash(name) in twice:
            seen.add(name)


def read_shard(plan: Plan, folder: Path, number: int) -> ShardRows:
    """The rows of a shard of the table that `make_plan` wrote into a folder."""
    it = plan.settings
    with pq.ParquetFile(folder / STAGED) as file:
        table = file.read_row_group(number, columns=[*plan.named, _ERROR], use_threads=False)
    orders = None
    if it.order:
        column = OrderColumn(it.order, it.date_order, plan.order_decimal)
        orders = list(map(column.key, table[it.order].to_pylist()))
    conversations, speakers = (_names(table[name]) if name else None for name in (it.conversation, it.speaker))
    texts, _ = texts_of(table[it.text])
    return ShardRows(table.select(it.keep), texts, table[_ERROR].to_pylist(), conversations, orders, speakers)
