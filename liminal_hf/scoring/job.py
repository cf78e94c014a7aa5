"""A table scored shard by shard: interrupted, resumed, never a row lost or done twice, on one machine or on many.

Requires filelock, numpy, pyarrow, torch and transformers; `engine="ray"` needs the extra `ray`. A shard is read, scored
and put in place by rename; what is there is done. The manifest beside the shards says what they were made of.
"""

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from ..io import atomic_write
from .scorer import COLUMNS, Scorer, checkpoint_identity, load
from .source import Reader, Rows, Shard, Source, clean, find_files, fingerprint, open_source

ENGINES = ("local", "ray")
_MANIFEST = "_manifest.json"
_FORMAT = 1
_COMPRESSION = "zstd"
_KEY = b"liminal_hf"

Progress = Callable[[int, int], None]


class DifferentRunError(ValueError):
    """The output was begun from another input, with another checkpoint or with other options."""


@dataclass
class Report:
    """What a run came to.

    Args:
        rows: in the table.
        errors: how many rows have no numbers, by the reason in their column `error`.
        done_before: rows that an earlier, interrupted run had done.
        seconds: this run took, without the time to load the model.
        output: file or folder.
    """

    rows: int
    errors: dict[str, int]
    done_before: int
    seconds: float
    output: Path

    @property
    def failed(self) -> int:
        """Rows without numbers."""
        return sum(self.errors.values())

    def __str__(self) -> str:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in self.errors.items())
        failed = f", {self.failed:,} without numbers ({reasons})" if self.failed else ""
        now = self.rows - self.done_before
        speed = f"{now:,} of them now, {now / max(self.seconds, 1e-9):,.0f} a second" if now else "all of them before"
        return f"{self.rows:,} rows ({speed}){failed}: {self.output}"


@dataclass
class Job:
    """All that a worker has to know; plain data."""

    folder: str
    checkpoint: str
    source: Source
    prefix: str
    settings: dict[str, Any]

    def part(self, number: int) -> Path:
        """The file of a shard."""
        return Path(self.folder) / f"part-{number:05d}.parquet"


def score_table(
    path: str | os.PathLike,
    output: str | os.PathLike,
    checkpoint: str,
    *,
    text: str = "text",
    keep: Sequence[str] | None = None,
    prefix: str = "",
    conversation: str | None = None,
    order: str | None = None,
    speaker: str | None = None,
    separator: str | None = None,
    backend: str = "torch",
    tokens: int | None = None,
    max_length: int | None = None,
    refuse_long: bool = False,
    shard_rows: int = 16_384,
    threads: int | None = None,
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Reads pleasure, arousal and dominance from every text of a table.

    Called again with the same arguments, an interrupted run goes on; `threads`, `engine`, `workers` and `address` may
    differ then.

    Args:
        path: a Parquet, CSV, TSV or JSON-lines file, or a folder of them (`open_source`).
        output: a folder, which gets `part-00000.parquet` and so on; or a name that ends in .parquet, for one file that
            is put together at the end (until then the shards are in a folder of that name and `.parts`).
        checkpoint: folder or Hub id.
        text, keep, conversation, order, speaker, separator, shard_rows: as in `open_source`. The rows of a conversation
            must stand together; within it they are read by `order` (numbers by size, anything else as text), or as they
            stand. Each speaker has a memory of their own; without `speaker` a conversation has one.
        prefix: before the names of the new columns.
        backend, tokens, max_length, refuse_long, threads: as in `Scorer`.
        engine: "local", or "ray" for a Ray cluster.
        workers: how many work at a time with Ray, each with `threads` cores (default 1).
        address: of the Ray cluster; None starts one on this machine.
        progress: is called with the rows done and the rows there are.

    Returns:
        How many rows were done, and what became of them.

    Raises:
        DifferentRunError: the output was begun otherwise; the message says what differs.
        FileNotFoundError, ValueError: the input can't be read, see `open_source`; a column is there already; or another
            process is writing this output.
        ImportError: an extra is not installed; the message has the line to type.

    Example:
        >>> import liminal_hf
        >>> _ = Path("mine.csv").write_text("id,text\\n1,What a lovely surprise!\\n2,\\n", encoding="utf-8")
        >>> report = score_table("mine.csv", "mine.parquet", liminal_hf.DEFAULT_CHECKPOINT, threads=1)
        >>> report.rows, report.errors
        (2, {'The text is empty.': 1})
        >>> pq.read_table("mine.parquet").column_names[:4]
        ['id', 'text', 'pleasure', 'arousal']
    """
    if engine not in ENGINES:
        raise ValueError(f"The engine must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if engine == "ray":
        _import_ray()
    output = Path(output)
    single = output.suffix == ".parquet"
    if output.exists() and single == output.is_dir():
        kind = "a folder" if single else "a file"
        raise ValueError(f"{output} is {kind}. A name that ends in .parquet becomes a file, any other a folder.")
    folder = output.with_name(f"{output.name}.parts") if single else output
    files = [str(file) for file in find_files(path)]
    settings: dict[str, Any] = {
        "backend": backend, "tokens": tokens, "max_length": max_length, "refuse_long": refuse_long,
        "conversations": conversation is not None, "threads": threads or (1 if engine == "ray" else None),
    }  # fmt: skip
    here = Path(checkpoint)
    checkpoint = str(here.absolute()) if here.exists() else checkpoint
    # With Ray the model is only looked at here; each worker loads it.
    scorer = Scorer(checkpoint, **settings) if engine == "local" else None
    facts = {
        "format": _FORMAT,
        "input": fingerprint(files),
        "checkpoint": scorer.identity if scorer else checkpoint_identity(*load(checkpoint)),
        "options": {
            "text": text, "keep": None if keep is None else list(keep), "prefix": prefix, "conversation": conversation,
            "order": order, "speaker": speaker, "separator": separator, "backend": backend, "tokens": tokens,
            "max_length": max_length, "refuse_long": refuse_long, "shard_rows": shard_rows,
        },
    }  # fmt: skip
    if single and output.exists():
        _check_same(json.loads((pq.read_schema(output).metadata or {}).get(_KEY, b"{}")), facts, output)
        shutil.rmtree(folder, ignore_errors=True)
        rows, errors = _count([output], prefix)
        return Report(rows, errors, rows, 0.0, output)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "_lock", timeout=0):
            source = _begin(folder, facts, files)
            job = Job(str(folder.absolute()), checkpoint, source, prefix, settings)
            numbers = range(len(source.shards))
            left = [number for number in numbers if not _is_done(job, number)]
            done_before = source.rows - sum(source.shards[number].rows for number in left)
            done = done_before

            def tell(rows: int) -> None:
                nonlocal done
                done += rows
                if progress:
                    progress(done, source.rows)

            started = time.monotonic()
            if scorer:
                worker = ShardWorker(job, scorer, tell)
                for number in left:
                    worker.do(number)
            elif left:
                _run_on_ray(job, left, workers, address, tell)
            seconds = time.monotonic() - started
            parts = [job.part(number) for number in numbers]
            rows, errors = _count(parts, prefix)
            if single:
                _concatenate(parts, output, facts)
    except Timeout:
        raise ValueError(f"Another process is writing {output}. Wait for it, or give another -o.") from None
    if single:
        shutil.rmtree(folder)
    return Report(rows, errors, done_before, seconds, output)


class ShardWorker:
    """Reads, scores and commits shards: the whole work of one process, and of one actor of Ray.

    Args:
        job: what there is to do.
        scorer: what reads the texts; None makes it from the job.
        on_rows: is told how many rows have been dealt with since it was last called.
    """

    def __init__(self, job: Job, scorer: Scorer | None = None, on_rows: Callable[[int], None] | None = None) -> None:
        self.job = job
        self.on_rows = on_rows
        self.reader = Reader(job.source)
        self.scorer = scorer or Scorer(job.checkpoint, **job.settings)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As Ray Data wants it: numbers of shards in, the rows that each had out."""
        for number in batch["shard"]:
            self.do(int(number))
        return {"rows": np.array([self.job.source.shards[int(number)].rows for number in batch["shard"]])}

    def do(self, number: int) -> None:
        """Scores a shard and puts it in place."""
        rows = self.reader.read(Shard(*self.job.source.shards[number]))
        table = self.scored(rows)
        with atomic_write(self.job.part(number)) as temporary:
            pq.write_table(table, temporary, compression=_COMPRESSION)

    def scored(self, rows: Rows) -> pa.Table:
        """The kept columns of some rows, with the new ones."""
        if rows.conversations is None:
            found = self.scorer.score(rows.texts, problems=rows.problems, on_rows=self.on_rows)
        else:
            order, keys, problems = _turns(rows)
            found = self.scorer.score([rows.texts[row] for row in order], keys, problems, self.on_rows)
            found = found.take(np.argsort(order))
        table = rows.kept
        for name in COLUMNS.names:
            table = table.append_column(f"{self.job.prefix}{name}", found[name])
        return table


def _turns(rows: Rows) -> tuple[list[int], list[Any], list[str | None]]:
    """Rows in the order of their turns, each with what it shares its memory with, and why it can't be read."""
    numbers = range(len(rows.texts))
    problems = list(rows.problems)
    orders = [None] * len(rows.texts) if rows.orders is None else rows.orders
    for row in numbers:
        if rows.conversations[row] is None:
            problems[row] = problems[row] or "The row names no conversation."
        elif rows.orders is not None and _rank(orders[row]) is None:
            problems[row] = problems[row] or "The row does not say its place in the conversation."
    order = list(numbers)
    if rows.orders is not None:
        ranks = [_rank(value) for value in orders]
        # The cells of a CSV are text: in a conversation where all of them are numbers, they count as numbers.
        worded = {rows.conversations[row] for row in numbers if isinstance(ranks[row], str)}
        order = sorted(
            (row for row in numbers if problems[row] is None),
            key=lambda row: (
                rows.conversations[row],
                str(orders[row]) if rows.conversations[row] in worded else ranks[row],
            ),
        )
        order += [row for row in numbers if problems[row] is not None]
    speakers = [None] * len(rows.texts) if rows.speakers is None else rows.speakers
    keys = [(rows.conversations[row], clean(str(speakers[row]))) for row in order]
    return order, keys, [problems[row] for row in order]


def _rank(value: Any) -> Any:
    """A number where the value is one, else its text; None where there is nothing."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, int | float):
        return value
    for kind in (int, float):
        try:
            return kind(value) if math.isfinite(kind(value)) else str(value)
        except (TypeError, ValueError, OverflowError):
            continue
    return str(value)


# ---- what is there already ----


def _begin(folder: Path, facts: dict[str, Any], files: list[str]) -> Source:
    """Looks through the input and writes the manifest; or reads it, if the run had begun."""
    manifest = folder / _MANIFEST
    if manifest.is_file():
        content = json.loads(manifest.read_text(encoding="utf-8"))
        _check_same(content["facts"], facts, folder)
        for leftover in folder.glob(".*.part"):
            leftover.unlink()
        return Source(**{**content["source"], "files": files, "shards": [Shard(*one) for one in content["shards"]]})
    found = sorted(path.name for path in folder.iterdir() if path.name != "_lock" and not path.name.startswith("."))
    if found:
        raise ValueError(f"{folder} is not empty ({', '.join(found[:3])}). Give another -o, or an empty folder.")
    names = ("text", "keep", "conversation", "order", "speaker", "separator", "shard_rows")
    source = open_source("", files=files, **{name: facts["options"][name] for name in names})
    taken = [name for name in COLUMNS.names if facts["options"]["prefix"] + name in source.keep]
    if taken:
        raise ValueError(
            f"The input has a column {taken[0]!r} already. Put something before the new names, such as --prefix pad_, "
            "or choose what to keep: --keep COLUMN,COLUMN"
        )
    described = asdict(source)
    shards = [list(shard) for shard in described.pop("shards")]
    del described["files"]
    with atomic_write(manifest) as temporary:
        temporary.write_text(json.dumps({"facts": facts, "source": described, "shards": shards}), encoding="utf-8")
    return source


def _check_same(before: dict[str, Any], now: dict[str, Any], output: Path) -> None:
    if before == now:
        return
    if not before:
        raise ValueError(f"{output} is there already and is not of this command. Give another -o.")
    old, new = before.get("options", {}), now["options"]
    differing = [f"{name} {old.get(name)!r} and not {new[name]!r}" for name in new if old.get(name) != new[name]]
    differing += [f"another {name}" for name in ("input", "checkpoint", "format") if before.get(name) != now[name]]
    raise DifferentRunError(
        f"{output} was begun with {', '.join(differing)}. Give the same again to go on, or another -o, or delete it."
    )


def _is_done(job: Job, number: int) -> bool:
    try:
        return pq.read_metadata(job.part(number)).num_rows == job.source.shards[number].rows
    except (OSError, pa.ArrowInvalid):
        return False


def _count(parts: Iterable[Path], prefix: str) -> tuple[int, dict[str, int]]:
    rows, errors = 0, Counter[str]()
    name = f"{prefix}error"
    for part in parts:
        file = pq.ParquetFile(part)
        rows += file.metadata.num_rows
        for batch in file.iter_batches(columns=[name], use_threads=False):
            column = batch.column(0)
            if column.null_count < len(column):
                errors.update(column.drop_null().to_pylist())
        file.close()
    return rows, dict(errors.most_common())


def _concatenate(parts: list[Path], output: Path, facts: dict[str, Any]) -> None:
    """One file from all shards, a row group each, without ever holding more than one."""
    schema = pq.read_schema(parts[0]).with_metadata({_KEY: json.dumps(facts).encode()})
    with atomic_write(output) as temporary, pq.ParquetWriter(temporary, schema, compression=_COMPRESSION) as writer:
        for part in parts:
            with pq.ParquetFile(part, pre_buffer=False) as file:
                writer.write_table(file.read(use_threads=False).replace_schema_metadata(schema.metadata))


# ---- Ray ----


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"The engine ray needs Ray: pip install 'liminal_hf[ray]' ({error})") from error
    return ray


def _run_on_ray(job: Job, numbers: list[int], workers: int, address: str | None, tell: Callable[[int], None]) -> None:
    """Does the shards on actors of Ray Data; a shard whose actor dies is done again by another."""
    ray = _import_ray()
    if workers < 1:
        raise ValueError(f"--workers must be at least 1, got {workers}.")
    threads = job.settings["threads"]
    mine = not ray.is_initialized()
    if mine:
        local: dict[str, Any] = {} if address else {"num_cpus": workers * threads + 1, "include_dashboard": False}
        ray.init(address=address, logging_level="ERROR", **local)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        shards = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
        done = shards.map_batches(
            ShardWorker,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=threads,
        )
        for row in done.iter_rows():
            tell(int(row["rows"]))
    finally:
        if mine:
            ray.shutdown()
