"""A table scored shard by shard: interrupted, resumed, never a row lost or done twice, on one machine or on many.

Requires filelock, numpy, pyarrow, torch and transformers; `engine="ray"` needs the extra `ray`. A shard is read, scored
and put in place by rename; a shard that is there is done. The manifest beside the shards says what they were made of.
"""

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from .._version import __version__
from ..data.writing import COMPRESSION, EXCEL_ROWS, OUTPUT_ENDINGS, TableWriter, number_formats
from ..io import atomic_write, write_text
from ..modeling.errors import LiminalError
from .cascade import Cascade
from .scorer import Scorer
from .shards import HOW, STAGED, Plan, ScoreSettings, find_files, fingerprint, make_plan, open_files, read_shard

_MANIFEST = "_manifest.json"
_FORMAT = 3
_KEY = b"liminal_hf"

Progress = Callable[[int, int], None]


class DifferentRunError(LiminalError):
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
        truncated: texts of which the end was left out.
        long: texts that were read sentence by sentence.
    """

    rows: int
    errors: dict[str, int]
    done_before: int
    seconds: float
    output: Path
    truncated: int = 0
    long: int = 0

    @property
    def failed(self) -> int:
        """Rows without numbers."""
        return sum(self.errors.values())

    def __str__(self) -> str:
        reasons = [f"{count:,} {reason}" for reason, count in self.errors.items()]
        reasons = [*reasons[:5], *([f"{len(reasons) - 5} other reasons"] if len(reasons) > 5 else [])]
        failed = f", {self.failed:,} without numbers ({'; '.join(reasons)})" if self.failed else ""
        truncated = f", {self.truncated:,} longer than the model reads, and truncated" if self.truncated else ""
        long = f", {self.long:,} longer than the model reads at once: read sentence by sentence" if self.long else ""
        now = self.rows - self.done_before
        speed = f"{now:,} of them now, {now / max(self.seconds, 1e-9):,.0f} a second" if now else "all of them before"
        return f"{self.rows:,} rows ({speed}){failed}{truncated}{long}: {self.output}"


def score_table(
    path: str | os.PathLike,
    output: str | os.PathLike,
    checkpoint: str,
    settings: ScoreSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Reads every text of a table.

    Called again with the same arguments, an interrupted run goes on; `threads`, `engine`, `workers` and `address` may
    differ then.

    Args:
        path: a table of any kind (`read_table`), or a folder of tables of one kind, read in the order of their names.
        output: the ending says the format: .csv, .tsv, .parquet, .xlsx or .jsonl. It is put together at the end; until
            then the shards are in a folder of that name and `.parts`. A path that ends with "/" is a folder, which gets
            `part-00000.parquet` and so on.
        checkpoint: folder or Hub id, or a folder with an exported ONNX model.
        settings: how the table is read and scored.
        progress: is called with the rows done and the rows there are.
        options: fields of `ScoreSettings`, instead of `settings` or on top of them.

    Returns:
        How many rows were done, and what became of them.

    Raises:
        DifferentRunError: the output was begun otherwise; the message says what differs.
        FileNotFoundError, LiminalError: the input can't be read, a column is there already, the output's ending is
            unknown, or another process is writing this output.
        ImportError: an extra is not installed; the message has the line to type.

    Example:
        >>> import liminal_hf
        >>> _ = Path("mine.csv").write_text("id,text\\n1,What a lovely surprise!\\n2,\\n", encoding="utf-8")
        >>> report = score_table("mine.csv", "mine.parquet", liminal_hf.DEFAULT_CHECKPOINT, threads=1)
        >>> report.rows, report.errors
        (2, {'empty': 1})
        >>> pq.read_table("mine.parquet").column_names[:4]
        ['id', 'text', 'pleasure', 'arousal']
    """
    settings = ScoreSettings(**options) if settings is None else replace(settings, **options)
    if settings.engine == "ray":
        _import_ray()
        settings = replace(settings, threads=settings.threads or 1)
    output, folder, single = _output(output)
    files = find_files(path)
    checkpoint = _absolute(checkpoint)
    settings = replace(settings, then=settings.then and _absolute(settings.then))
    # With Ray the model is only looked at here; each worker loads it.
    scorer = make_scorer(checkpoint, settings, device="cpu" if settings.engine == "ray" else None)
    facts = {
        "format": _FORMAT,
        "liminal_hf": __version__,
        "input": fingerprint(files),
        "checkpoint": scorer.identity,
        "options": settings.identity,
    }
    if single and output.exists():
        before: dict[str, Any] = {}
        with suppress(pa.ArrowInvalid):  # no Parquet
            before = json.loads((pq.read_schema(output).metadata or {}).get(_KEY, b"{}"))
        _check_same(before, facts, output)
        shutil.rmtree(folder, ignore_errors=True)
        rows, errors, *counts = _count([output], settings.prefix)
        return Report(rows, errors, rows, 0.0, output, *counts)
    began = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "_lock", timeout=0):
            plan = _begin(folder, facts, files, settings, scorer.columns)
            if output.suffix.lower() == ".xlsx" and plan.rows > EXCEL_ROWS:
                raise LiminalError(f"{output}: an Excel sheet takes {EXCEL_ROWS:,} rows. Give .csv or .parquet.")
            report = _run(ShardWorker(folder.absolute(), checkpoint, plan, scorer), settings, files, output, progress)
            if single:
                _concatenate(folder, plan, output, facts)
    except Timeout:
        raise LiminalError(f"Another process is writing {output}. Wait for it, or give another -o.") from None
    except BaseException:
        if began and not any(folder.glob("part-*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if single:
        shutil.rmtree(folder)
    else:
        (folder / STAGED).unlink(missing_ok=True)
    return report


def _absolute(checkpoint: str) -> str:
    """A folder by its whole path, a Hub id as it is."""
    here = Path(checkpoint)
    return str(here.absolute()) if here.exists() else checkpoint


def make_scorer(checkpoint: str, settings: ScoreSettings, device: str | None = None) -> Scorer | Cascade:
    """The scorer that the settings ask for."""
    names = ("backend", "tokens", "max_length", "truncate", "refuse_long", "threads")
    options = {name: getattr(settings, name) for name in names}
    if settings.then is not None:
        pair = [checkpoint, settings.then]
        return Cascade(pair, settings.threshold, budget=settings.budget, device=device, **options)
    return Scorer(checkpoint, conversations=settings.conversation is not None, device=device, **options)


def _output(output: str | os.PathLike) -> tuple[Path, Path, bool]:
    """The output, the folder of its shards, and whether it is one file."""
    name = os.fspath(output)
    path = Path(name)
    if name.endswith(("/", os.sep)) or path.is_dir():
        if path.is_file():
            raise LiminalError(f"{path} is a file. Give another folder.")
        if path.is_dir() and path.suffix.lower() in OUTPUT_ENDINGS and not name.endswith(("/", os.sep)):
            raise LiminalError(f"{path} is a folder. Give another name for the file, or {path}/ for the folder.")
        return path, path, False
    if path.suffix.lower() not in OUTPUT_ENDINGS:
        raise LiminalError(
            f"{path}: the ending says the format, and {path.suffix!r} is none of {', '.join(OUTPUT_ENDINGS)}. A folder "
            f"of shards ends with a slash: {path}/"
        )
    return path, path.with_name(f"{path.name}.parts"), True


def _run(
    worker: "ShardWorker", settings: ScoreSettings, files: list[Path], output: Path, progress: Progress | None
) -> Report:
    """Does the shards that are not done yet."""
    plan, folder = worker.plan, worker.folder
    left = [number for number in range(len(plan.shards)) if not worker.is_done(number)]
    if left and not (folder / STAGED).is_file():  # a part of a finished run is damaged
        make_plan(open_files(files, settings), settings, folder)
    done = done_before = plan.rows - sum(plan.shards[number] for number in left)

    def on_rows(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress(done, plan.rows)

    started = time.monotonic()
    if settings.engine == "local":
        for number in left:
            worker.do(number, on_rows)
    elif left:
        _run_on_ray(worker, left, on_rows)
    seconds = time.monotonic() - started
    rows, errors, *counts = _count(_parts(folder, plan), settings.prefix)
    if rows != plan.rows:
        raise RuntimeError(f"{plan.rows:,} rows were read and {rows:,} written; the shards are in {folder}.")
    return Report(rows, errors, done_before, seconds, output, *counts)


class ShardWorker:
    """Reads, scores and commits the shards in a folder: the whole work of one process, and of one actor of Ray."""

    def __init__(self, folder: Path, checkpoint: str, plan: Plan, scorer: Scorer | Cascade | None = None) -> None:
        self.folder, self.checkpoint, self.plan = folder, checkpoint, plan
        self.scorer = scorer or make_scorer(checkpoint, plan.settings)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """As Ray Data wants it: numbers of shards in, the rows that each had out."""
        for number in batch["shard"]:
            self.do(int(number))
        return {"rows": np.array([self.plan.shards[int(number)] for number in batch["shard"]])}

    def is_done(self, number: int) -> bool:
        """Whether a shard is in place, with all its rows."""
        try:
            return pq.read_metadata(_part(self.folder, number)).num_rows == self.plan.shards[number]
        except (OSError, pa.ArrowInvalid):
            return False

    def do(self, number: int, on_rows: Callable[[int], None] | None = None) -> None:
        """Scores a shard and puts it in place; `on_rows` is told how many rows have been dealt with since last."""
        table, texts, errors, conversations, orders, speakers = read_shard(self.plan, self.folder, number)
        turns = list(range(len(texts)))
        if conversations and orders:
            for row, (name, order) in enumerate(zip(conversations, orders, strict=True)):
                if name is not None and order is None:
                    errors[row] = errors[row] or "no order: the row does not say its position in the conversation"
            first = [row for row in turns if errors[row] is None and conversations[row] is not None]
            first.sort(key=lambda row: (conversations[row], orders[row]))
            turns = [*first, *sorted(set(turns) - set(first))]

        def in_turn(values: list[Any] | None) -> Any:
            return values and [values[row] for row in turns]

        answers = self.scorer.score(
            in_turn(texts), in_turn(conversations), in_turn(errors), on_rows, speakers=in_turn(speakers)
        ).take(np.argsort(turns))
        for name in answers.column_names:
            table = table.append_column(f"{self.plan.settings.prefix}{name}", answers[name])
        with atomic_write(_part(self.folder, number)) as temporary:
            pq.write_table(table, temporary, compression=COMPRESSION)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}.parquet"


def _parts(folder: Path, plan: Plan) -> list[Path]:
    return [_part(folder, number) for number in range(len(plan.shards))]


# ---- what is there already ----


def _begin(folder: Path, facts: dict[str, Any], files: list[Path], settings: ScoreSettings, columns: pa.Schema) -> Plan:
    """Looks through the input and writes the manifest; or reads it, if the run had begun."""
    manifest = folder / _MANIFEST
    if manifest.is_file():
        content = json.loads(manifest.read_text(encoding="utf-8"))
        _check_same(content["facts"], facts, folder)
        for leftover in folder.glob(".*.part"):
            leftover.unlink()
        plan = Plan(**content["plan"])
        plan.settings = ScoreSettings(
            **{**content["plan"]["settings"], **{name: getattr(settings, name) for name in HOW}}
        )
        return plan
    others = sorted(path.name for path in folder.iterdir() if path.name != "_lock" and not path.name.startswith("."))
    if others and others != [STAGED]:
        raise LiminalError(f"{folder} is not empty ({', '.join(others[:3])}). Give another -o, or an empty folder.")
    plan = make_plan(open_files(files, settings), settings, folder, [settings.prefix + name for name in columns.names])
    write_text(manifest, json.dumps({"facts": facts, "plan": asdict(plan)}))
    return plan


def _check_same(before: dict[str, Any], now: dict[str, Any], output: Path) -> None:
    now = json.loads(json.dumps(now))
    if before == now:
        return
    if not before:
        raise LiminalError(f"{output} is there already. Give another -o, or delete it.")
    old, new = before.get("options", {}), now["options"]
    differing = [f"{name} {old.get(name)!r} and not {new[name]!r}" for name in new if old.get(name) != new[name]]
    names = ("input", "checkpoint", "format", "liminal_hf")
    differing += [f"another {name}" for name in names if before.get(name) != now[name]]
    raise DifferentRunError(
        f"{output} was begun with {', '.join(differing)}. Give the same again to go on, or another -o, or delete it."
    )


def _count(parts: Iterable[Path], prefix: str) -> tuple[int, dict[str, int], int, int]:
    """Rows, errors by their reason without the line, truncated texts, and those read in windows."""
    rows, truncated, long, errors = 0, 0, 0, Counter[str]()
    names = [f"{prefix}error", f"{prefix}truncated", f"{prefix}windows"]
    for part in parts:
        with pq.ParquetFile(part) as file:
            rows += file.metadata.num_rows
            for batch in file.iter_batches(columns=names, use_threads=False):
                reasons = batch.column(names[0]).drop_null().to_pylist()
                errors.update(re.sub(r"^(line|row) \d+ ", r"a \1 ", reason) for reason in reasons)
                truncated += sum(map(bool, batch.column(names[1]).to_pylist()))
                long += sum(count is not None and count > 1 for count in batch.column(names[2]).to_pylist())
    return rows, dict(errors.most_common()), truncated, long


def _concatenate(folder: Path, plan: Plan, output: Path, facts: dict[str, Any]) -> None:
    """One file from all shards, without ever holding more than one."""

    def tables() -> Iterator[pa.Table]:
        for part in _parts(folder, plan):
            with pq.ParquetFile(part, pre_buffer=False) as file:
                yield file.read(use_threads=False).replace_schema_metadata(None)

    ending = output.suffix.lower()
    metadata = {_KEY: json.dumps(facts).encode()} if ending == ".parquet" else None
    formats = number_formats(tables(), plan.settings) if ending == ".xlsx" else None
    schema = pq.read_schema(_part(folder, 0)).remove_metadata()
    with TableWriter(output, schema, plan.settings, metadata, formats) as writer:
        for table in tables():
            writer.write(table)


# ---- Ray ----


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"The engine ray needs Ray: pip install 'liminal_hf[ray]' ({error})") from error
    return ray


def _run_on_ray(worker: ShardWorker, numbers: list[int], on_rows: Callable[[int], None]) -> None:
    """Does the shards on actors of Ray Data; a shard whose actor dies is done again by another."""
    ray = _import_ray()
    settings = worker.plan.settings
    workers, address, threads = settings.workers, settings.address, settings.threads or 1
    mine = not ray.is_initialized()
    if mine:
        local: dict[str, Any] = {} if address else {"num_cpus": workers * threads + 1, "include_dashboard": False}
        ray.init(address=address, logging_level="ERROR", **local)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        shards = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
        done = shards.map_batches(
            ShardWorker,
            fn_constructor_args=(worker.folder, worker.checkpoint, worker.plan),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=threads,
        )
        for row in done.iter_rows():
            on_rows(int(row["rows"]))
    finally:
        if mine:
            ray.shutdown()
