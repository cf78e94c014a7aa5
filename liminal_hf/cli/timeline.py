"""`liminal timeline`: a long text in, a row per sentence and an answer for the whole out."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..modeling.answers import outside
from ..modeling.errors import LiminalError
from .read import cell, one_line
from .shared import Encoding, Model, load_pipeline, print_json, progress, report


def timeline(
    source: Annotated[
        str, typer.Argument(metavar="FILE|TEXT", help="A file of plain text, or the text itself; - reads stdin.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .csv, .tsv, .parquet, .xlsx or .jsonl file.", show_default=False),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Draws it: a .png, .svg, .pdf, .jpg or .webp file.", show_default=False)
    ] = None,
    model: Model = None,
    encoding: Encoding = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per sentence, the whole text last.")] = False,
) -> None:
    """Read a text of any length sentence by sentence.

    Each row has the offsets of its sentence. A sentence that is longer than the model reads is divided between words.
    The whole text's answer is the mean of its sentences, weighted by their length.
    """
    from ..data.writing import output_ending
    from ..figures import checked_ending, save_figure
    from ..timelines import timeline as read

    for path in (output, figure):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} into.")
    if output is not None:
        output_ending(output)
    if figure is not None:
        checked_ending(figure, "timeline", "--figure")
    text, subject = _text_of(source, encoding)
    reader = load_pipeline(model)
    result = read(text, reader, progress=lambda rows, total: progress(rows, total, "Reading"))
    if output is not None:
        result.save(output)
    if figure is not None:
        save_figure(result.figure(subject), figure)
    if as_json:
        for row in (*result.rows, result.whole):
            print_json(row)
    else:
        _show([] if output is not None else result.rows, result.whole, result.config.targets)
        for path in filter(None, (output, figure)):
            print(path)
    for count, what in (
        (sum(outside(row["in_domain"]) for row in result.rows), "unlike the training texts: the numbers mean little"),
        (sum(row["truncated"] for row in result.rows), "longer than the model reads, the end was left out"),
        (sum(row["error"] is not None for row in result.rows), "not read, and not in the answer for the whole text"),
    ):
        report(count, len(result.rows), what, "sentences")


def _show(rows: list[dict[str, Any]], whole: dict[str, Any], targets: list[str]) -> None:
    from ..modeling.rows import in_words

    table = Table("characters", "sentence", *targets, "in words", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = False
    for row in (*rows, whole):
        sentence = Text(one_line(row["sentence"])) if "sentence" in row else Text("the whole text", style="bold")
        cells = [cell(row, name) for name in targets]
        table.add_row(f"{row['start']}-{row['end']}", sentence, *cells, row["error"] or in_words(row) or "-")
    for index, column in enumerate(table.columns):
        column.no_wrap = index not in (1, len(table.columns) - 1)
    Console().print(table)


def _text_of(source: str, encoding: str | None) -> tuple[str, str | None]:
    """The text, and the name of the file that holds it; of stdin and a text itself there is none."""
    from ..data import table_kind
    from ..data.delimited import SURROGATE, find_encoding, read_lines

    if source == "-":
        try:
            return sys.stdin.buffer.read().decode(encoding or "utf-8-sig"), None
        except (UnicodeDecodeError, LookupError) as error:
            raise LiminalError(
                f"The input can't be decoded ({error}). Say what it is, for example --encoding cp1252."
            ) from None
    # Not Path.is_file, for which a text longer than any name is an error.
    if not os.path.isfile(source):  # noqa: PTH113
        if os.path.isdir(source):  # noqa: PTH112
            raise LiminalError(f"{source} is a folder. Give one file: liminal timeline FILE")
        if re.fullmatch(
            r"[^\n]{0,250}\.(txt|md|text|log|csv|tsv|docx?|pdf|html?|rtf|odt|epub|gz)", source, re.IGNORECASE
        ):
            raise FileNotFoundError(f"There is no file {source}. If it is a text, pipe it in: liminal timeline -")
        if encoding is not None:
            raise LiminalError("--encoding goes with a file: liminal timeline FILE --encoding cp1252")
        return source, None
    path = Path(source)
    if path.suffix != ".txt" and table_kind(path) is not None:
        raise LiminalError(f"{source} is a table, with a text per row: liminal score {source} -o scored.csv")
    with path.open("rb") as stream:
        start = stream.read(8)
    if start.startswith((b"%PDF", b"PK\x03\x04", b"{\\rtf", b"\xd0\xcf\x11\xe0")):
        raise LiminalError(f"{source} is no plain text. Save it as plain text (.txt) first.")
    name = find_encoding(path, encoding)
    text = "".join(read_lines(path, name))
    if broken := SURROGATE.search(text):
        line = text.count("\n", 0, broken.start()) + 1
        raise LiminalError(
            f"{source} is not UTF-8: line {line} holds the byte 0x{ord(broken[0]) - 0xDC00:02x}. Say what it is, for "
            "example --encoding cp1252."
        )
    if name == "cp1252" and encoding is None:
        print(f"liminal: {source} is no UTF-8, and is read as Windows' cp1252; another: --encoding", file=sys.stderr)
    return text.removeprefix("\ufeff"), path.name
