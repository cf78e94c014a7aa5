"""`liminal predict`, `liminal chat` and `liminal demo`: texts in, pleasure, arousal and dominance out."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..modeling.answers import outside
from ..modeling.errors import LiminalError
from .shared import (
    Budget,
    Encoding,
    Model,
    Quotes,
    Separator,
    Sheet,
    TextColumn,
    Then,
    Threshold,
    find_checkpoint,
    load_cascade,
    load_pipeline,
    print_json,
    progress,
    report,
    table_settings,
)

_AT_ONCE = 256


def predict(
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT...", help="Texts; none reads stdin.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", "-f", help="A table (.csv, .xlsx, ...), or a UTF-8 file with a text per line.", show_default=False
        ),
    ] = None,
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    then: Then = None,
    budget: Budget = None,
    threshold: Threshold = None,
    column: TextColumn = None,
    separator: Separator = None,
    encoding: Encoding = None,
    sheet: Sheet = None,
    quotes: Quotes = None,
) -> None:
    """Read pleasure, arousal and dominance from texts. For many texts: liminal score."""
    from ..modeling.rows import in_words

    options = {"text": column, "separator": separator, "encoding": encoding, "sheet": sheet, "quotes": quotes}
    texts, errors = _texts(text or [], file, {name: value for name, value in options.items() if value is not None})
    if (then is None) != (budget is None and threshold is None):
        raise LiminalError("A second model goes with a budget or a threshold: --then mpnet --budget 1.5")
    reader = load_pipeline(model) if then is None else load_cascade(model, then, budget, threshold)
    config = reader.model.config if then is None else reader.config
    table = Table("text", *config.targets, "in words", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = False
    reasons: Counter[str] = Counter()
    long = unlike = 0
    for row, error in zip(_rows(reader, texts), errors, strict=True):
        row["error"] = error or row["error"]
        long += bool(row["windows"])
        unlike += outside(row["in_domain"])
        reasons.update([row["error"]] if row["error"] else [])
        if as_json:
            print_json(row)
        else:
            cells = [cell(row, name) for name in config.targets]
            table.add_row(Text(one_line(row["text"] or "")), *cells, row["error"] or in_words(row) or "-")
    if not as_json:
        for one in table.columns[1:-1]:
            one.no_wrap = True
        console = Console()
        console.print(table)
        low, high = (f"{end:g}" for end in config.label_range)
        hint = "; most texts lie close to 0" if (low, high) == ("-1", "1") else ""
        spread = " \u00b1: standard deviation; 80% intervals: --json."
        console.print(f"From {low} to {high}{hint}.{spread}", style="dim")
    report(long, len(texts), "longer than the model reads at once, read sentence by sentence (liminal timeline)")
    report(unlike, len(texts), "unlike the training texts (another language, code): the numbers mean little")
    why = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(5))
    report(reasons.total(), len(texts), f"not read ({why})")


def _rows(reader: Any, texts: list[Any]) -> Iterator[dict[str, Any]]:
    starts = range(0, len(texts), _AT_ONCE)
    for start in progress(starts, len(starts), "Reading"):
        some = texts[start : start + _AT_ONCE]
        for one, row in zip(some, reader(some, batch_size=32), strict=True):
            yield {"text": one, **row}


def _texts(texts: list[str], file: Path | None, options: dict[str, Any]) -> tuple[list[Any], list[str | None]]:
    """The texts to read, as typed, or from a table, or the lines of a file or of stdin; and why one can't be read."""
    from ..data import table_kind
    from ..modeling.texts import checked_text

    if texts and file is not None:
        raise LiminalError("Give texts or --file, not both.")
    is_table = file is not None and file.suffix != ".txt" and table_kind(file) is not None
    if file is not None and (is_table or options):
        return _column(file, options)
    if options:
        raise LiminalError(f"--{next(iter(options))} goes with a table: --file TABLE.")
    if texts:
        texts = [checked_text(texts[0])] if len(texts) == 1 else texts
    elif file is None and sys.stdin.isatty():
        raise LiminalError('There is nothing to read. Type for example: liminal predict "What a lovely surprise!"')
    else:
        texts = lines_of(file)
    return texts, [None] * len(texts)


def _column(file: Path, options: dict[str, Any]) -> tuple[list[Any], list[str | None]]:
    """The texts of a table, and the error of each row."""
    from ..data import read_table

    table = read_table(file, table_settings(**options))
    if not len(table):
        raise LiminalError(f"{file} has a header and no rows.")
    return [None if error else text for text, error in zip(table.texts, table.errors, strict=True)], table.errors


def lines_of(file: Path | None) -> list[str]:
    """The lines of a UTF-8 file, or of stdin, that are not empty; a line ends at a line feed only.

    Raises:
        FileNotFoundError: there is no such file.
        LiminalError: it is empty or not UTF-8.
    """
    from ..modeling.texts import text_error

    if file is None:
        name, content = "The input", sys.stdin.buffer.read()
    elif file.is_file():
        name, content = str(file), file.read_bytes()
    else:
        raise FileNotFoundError(f"There is no file {file}. A text itself goes without --file: liminal predict TEXT")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LiminalError(
            f"{name} is not UTF-8: line {line} holds the byte 0x{content[error.start]:02x}. Convert it first, for "
            "example: iconv -f WINDOWS-1252 -t UTF-8"
        ) from None
    # Not str.splitlines, which also ends a line at U+2028, a vertical tab and others that stand inside a text.
    lines = text.removesuffix("\n").split("\n")
    texts = [line.removesuffix("\r") for line in lines if text_error(line) != "empty"]
    if not texts:
        raise LiminalError(f"{name} is empty. It takes one text per line.")
    if len(texts) < len(lines):
        print(f"liminal: {len(lines) - len(texts)} empty lines of {len(lines)} are left out.", file=sys.stderr)
    return texts


def one_line(text: str, width: int = 200) -> str:
    """Nothing in it that would move a terminal's cursor."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def cell(row: dict[str, Any], name: str) -> str:
    """A target's value and its standard deviation, for a table."""
    if row[name] is None:
        return "-"
    return f"{row[name]:+.2f}" + (f" \u00b1{row['uncertainty'][name]:.2f}" if row["uncertainty"] else "")


def chat(
    model: Model = None,
    memory: Annotated[
        Path | None,
        typer.Option(help="A file: goes on from it where there is one, keeps the conversation.", show_default=False),
    ] = None,
    speaker: Annotated[str, typer.Option(help="Who speaks first.")] = "you",
) -> None:
    """Type turns and see pleasure, arousal and dominance turn by turn.

    Each speaker is remembered apart; /rate pleasure=0.5 says how the last turn felt, and later turns follow such
    ratings. A sharp turn: pleasure falls and arousal rises against the speaker's last turn, both together by more than
    two standard deviations of the model's own uncertainty.
    """
    from ..chat import converse
    from ..modeling.conversation import ConversationState

    state = ConversationState.load(memory) if memory is not None and memory.exists() else ConversationState()
    if memory is not None and not memory.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {memory.parent} to keep the conversation in.")
    converse(load_pipeline(model), state, memory, speaker)


def demo(
    model: Model = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.", show_default="this machine")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port.", show_default="a free one from 7860 on")] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write a Hugging Face Space into this folder instead.", show_default=False)
    ] = None,
    static: Annotated[
        Path | None,
        typer.Option(help="Write a page that needs no server: the model runs in the browser.", show_default=False),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="--static: the unpacked npm package onnxruntime-web.", show_default="fetched by npm"),
    ] = None,
) -> None:
    """Show a page: a conversation turn by turn, one text step by step, a CSV in and out."""
    if runtime is not None and static is None:
        raise LiminalError("--runtime goes with --static FOLDER.")
    if static is not None:
        if export is not None or host is not None or port is not None:
            raise LiminalError("--static writes a folder and shows nothing: leave --export, --host and --port out.")
        from .. import DEFAULT_CHECKPOINT
        from ..demo.static_page import write_static

        print(write_static(static, DEFAULT_CHECKPOINT if model is None else find_checkpoint(model), runtime=runtime))
        return
    from ..demo import launch
    from ..export.space import write_space

    if export is not None:
        print(write_space(export, None if model is None else find_checkpoint(model)))
        return
    launch(load_pipeline(model), host=host, port=port)
