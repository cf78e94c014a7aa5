"""`liminal report`: a table of texts in, a folder with scores, figures, groups and a page out."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .score import score_progress
from .shared import Decimal, Encoding, Model, Quotes, Separator, Sheet, find_checkpoint


def report(
    source: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A CSV, JSON, Parquet, Excel or SPSS file with a text per row.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to make.")],
    model: Model = None,
    text: Annotated[
        str | None, typer.Option(help="Column with the text.", show_default="text, or the only one with texts")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Column with groups to compare.", show_default=False)] = None,
    time: Annotated[str | None, typer.Option(help="Column with numbers or dates.", show_default=False)] = None,
    prefix: Annotated[str, typer.Option(help="Before the names of the new columns.", show_default=False)] = "",
    separator: Separator = None,
    encoding: Encoding = None,
    decimal: Decimal = None,
    sheet: Sheet = None,
    quotes: Quotes = None,
    date_order: Annotated[
        str | None, typer.Option(help="dmy or mdy: how 1/9/2024 is meant.", show_default="found in the column")
    ] = None,
    backend: Annotated[str, typer.Option(help="torch, onnx, or int8.")] = "torch",
    threads: Annotated[int | None, typer.Option(help="Processor cores.", show_default="all", min=1)] = None,
    include_unlike: Annotated[
        bool, typer.Option("--include-unlike", help="Figures and means also of texts unlike the training texts.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the report that is in the folder.")] = False,
) -> None:
    """Write a report on the texts of a table: open index.html in FOLDER.

    Scores with intervals as CSV and Excel, how the texts spread, groups with means, intervals and effect sizes, times,
    the most extreme and the most doubtful texts, what could not be read, and sentences for a methods section.
    """
    import logging

    from transformers.utils import logging as library

    from .. import DEFAULT_CHECKPOINT
    from ..reporting import report as write

    library.set_verbosity_error()
    library.disable_progress_bar()
    logging.basicConfig(format="liminal: %(message)s")
    typed = {
        "separator": separator, "encoding": encoding, "decimal": decimal, "sheet": sheet, "quotes": quotes,
        "date_order": date_order,
    }  # fmt: skip
    with score_progress() as tell:
        result = write(
            source,
            output,
            find_checkpoint(model or DEFAULT_CHECKPOINT),
            text=text,
            group=group,
            time=time,
            prefix=prefix,
            backend=backend,
            threads=threads,
            include_unlike=include_unlike,
            overwrite=overwrite,
            progress=tell,
            **{name: value for name, value in typed.items() if value is not None},
        )
    if text is None:
        print(f"liminal: the texts are those of column {result.text!r}; another: --text", file=sys.stderr)
    print(result)
