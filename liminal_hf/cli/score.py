"""`liminal score`: a table of any size in, the same table with predictions out."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress

from ..modeling.errors import LiminalError
from .shared import (
    Budget,
    Decimal,
    Encoding,
    Model,
    Quotes,
    Separator,
    Sheet,
    TextColumn,
    Then,
    Threshold,
    find_checkpoint,
)

_REPORT_EVERY_SECONDS = 30
_MOST_FIGURES = 200


def score(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A CSV, JSON, Parquet, Excel or SPSS file, or a folder of them."),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="A .csv, .tsv, .parquet, .xlsx or .jsonl file, or FOLDER/ for shards."),
    ],
    model: Model = None,
    text: TextColumn = None,
    keep: Annotated[
        str | None, typer.Option(help="Columns to keep, such as id,text.", show_default="all of them")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Before the names of the new columns.", show_default=False)] = "",
    conversation: Annotated[
        str | None,
        typer.Option(help="Column that says whose turn a row is; such rows must stand together.", show_default=False),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(help="Column with a turn's number or date.", show_default="as they stand"),
    ] = None,
    speaker: Annotated[
        str | None, typer.Option(help="Column with who speaks; each has a memory of their own.", show_default=False)
    ] = None,
    person: Annotated[
        str | None, typer.Option(help="Column with who wrote a row: adjusts for persons.", show_default=False)
    ] = None,
    when: Annotated[
        str | None, typer.Option("--time", help="With --person: a number or a date.", show_default="as they stand")
    ] = None,
    ratings: Annotated[
        str | None,
        typer.Option(help="With --person: columns with ratings: pleasure=V,...", show_default=False),
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Lowest and highest possible rating.", show_default="the model's")
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(help="With --person: a file of PersonPrior.save.", show_default="the model's, or a guess"),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="With --person: a folder for a figure of each person.", show_default=False)
    ] = None,
    separator: Separator = None,
    encoding: Encoding = None,
    decimal: Decimal = None,
    sheet: Sheet = None,
    quotes: Quotes = None,
    date_order: Annotated[
        str | None, typer.Option(help="dmy or mdy: how 1/9/2024 is meant.", show_default="found in the file")
    ] = None,
    backend: Annotated[str, typer.Option(help="torch, onnx, or int8.")] = "torch",
    then: Then = None,
    budget: Budget = None,
    threshold: Threshold = None,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens read at once.", show_default="the checkpoint's", min=1)
    ] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Leave out the end of a longer text, not read it sentence by sentence.")
    ] = False,
    refuse_long: Annotated[bool, typer.Option("--refuse-long", help="An error for longer texts.")] = False,
    tokens: Annotated[int | None, typer.Option(help="Tokens per batch.", show_default="by the device", min=1)] = None,
    shard_rows: Annotated[int, typer.Option(help="Rows per shard; an interruption costs one.", min=1)] = 16384,
    threads: Annotated[
        int | None, typer.Option(help="Processor cores, with Ray per worker.", show_default="all; with Ray 1", min=1)
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    workers: Annotated[int, typer.Option(help="Ray: how many work at a time.", min=1)] = 1,
    address: Annotated[
        str | None, typer.Option(help="Ray: address of a cluster.", show_default="one on this machine")
    ] = None,
) -> None:
    """Read a table of any size; the same command again goes on after an interruption.

    A row that can't be read keeps its position: its numbers are empty, and the column `error` says why. With --person
    and --ratings, the columns adjusted_... follow what each person has rated before, and a table of the persons lies
    beside the output.
    """
    import logging

    from transformers.utils import logging as library

    from .. import DEFAULT_CHECKPOINT
    from ..scoring import PersonColumns, ScoreSettings, score_persons, score_table

    library.set_verbosity_error()
    library.disable_progress_bar()
    logging.basicConfig(format="liminal: %(message)s")
    settings = ScoreSettings(
        text=text or "text",
        separator=separator,
        encoding=encoding,
        decimal=decimal,
        sheet=sheet,
        quotes=quotes,
        date_order=date_order,
        keep=None if keep is None else [name.strip() for name in keep.split(",")],
        prefix=prefix,
        conversation=conversation,
        order=order,
        speaker=speaker,
        backend=backend,
        tokens=tokens,
        then=then and find_checkpoint(then),
        budget=budget,
        threshold=threshold,
        max_length=max_length,
        truncate=truncate,
        refuse_long=refuse_long,
        shard_rows=shard_rows,
        threads=threads,
        engine=engine,
        workers=workers,
        address=address,
    )
    checkpoint = find_checkpoint(model or DEFAULT_CHECKPOINT)
    if (person is None) != (ratings is None) or (person is None and (when or scale or prior or figures)):
        raise LiminalError(
            "Persons need both: --person COLUMN --ratings COLUMNS (--time, --scale, --prior and --figures go "
            "with them)."
        )
    with score_progress() as tell:
        if person is None or ratings is None:
            report = score_table(source, output, checkpoint, settings, progress=tell)
        else:
            columns = PersonColumns(person=person, time=when, ratings=ratings, scale=scale, prior=prior)
            draw = None if figures is None else _draw_persons(figures, checkpoint)
            report = score_persons(source, output, checkpoint, columns, settings, progress=tell, on_person=draw)
    print(report)


def _draw_persons(folder: Path, checkpoint: str) -> Callable[[Any], None]:
    """What draws a person's figure into the folder, for the first persons."""
    import numpy as np
    from transformers import AutoConfig

    from ..figures import person_history, save_figure

    config = AutoConfig.from_pretrained(checkpoint)
    trained = [index for index, is_trained in enumerate(config.trained_targets) if is_trained]
    folder.mkdir(parents=True, exist_ok=True)
    drawn = 0

    def draw(history: Any) -> None:
        nonlocal drawn
        drawn += 1
        if drawn > _MOST_FIGURES:
            if drawn == _MOST_FIGURES + 1:
                print(f"liminal: only the first {_MOST_FIGURES} persons are drawn.", file=sys.stderr)
            return
        shown = [index for index in trained if not np.isnan(history.ratings[:, index]).all()]
        figure = person_history(
            history.times,
            history.readings[:, shown],
            history.ratings[:, shown],
            history.levels[:, shown],
            history.ahead,
            history.expected[:, shown],
            targets=[config.targets[index] for index in shown],
            value_range=tuple(config.label_range),
            subject=history.person,
        )
        # A name may hold what no file's name may.
        name = re.sub(r"[^\w-]+", "_", history.person)[:60]
        save_figure(figure, folder / f"{drawn:03d}-{name}.png")

    return draw


@contextmanager
def score_progress() -> Iterator[Callable[[int, int], None]]:
    """Rows done, rate and time left: a bar on a terminal, else a line every half minute."""
    console = Console(stderr=True)
    start: tuple[float, int] | None = None  # when rows began to come, and how many were done by then
    reported = time.monotonic()
    columns = (BarColumn(), "{task.completed:,} of {task.total:,} rows, {task.fields[rate]}")
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1, rate="", visible=False)

        def tell(done: int, total: int) -> None:
            nonlocal start, reported
            now = time.monotonic()
            start = start or (now, done)
            speed = (done - start[1]) / max(now - start[0], 1e-9)
            left = f", {timedelta(seconds=round((total - done) / speed))} left" if speed > 0 else ""
            rate = f"{speed:,.0f} a second{left}"
            bar.update(task, completed=done, total=total, rate=rate, visible=True)
            if not console.is_terminal and now - reported > _REPORT_EVERY_SECONDS:
                reported = now
                print(f"liminal: {done:,} of {total:,} rows, {rate}", file=sys.stderr, flush=True)

        yield tell
