"""`liminal explain`: which words moved the answer, in the terminal, as JSON, or as a page."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .shared import Model, find_checkpoint, print_json

# Blue and orange of Okabe & Ito with black letters: told apart by every eye, on dark and light terminals.
_UP, _DOWN = "black on #56B4E9", "black on #E69F00"
_MOST_ROWS = 40


def explain(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="One text.")],
    model: Model = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with the place of each word.")] = False,
    page: Annotated[
        Path | None, typer.Option("--html", help="Write a page into this file.", show_default=False)
    ] = None,
) -> None:
    """Show which words moved the answer: each word is left out once, and each negation with what it negates.

    An effect is the answer of the whole text minus the answer without the word.
    """
    from transformers.utils import logging

    from .. import DEFAULT_CHECKPOINT
    from ..explaining import explain
    from ..explaining.page import signed
    from ..modeling.files import write_text

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    found = explain(text, find_checkpoint(model or DEFAULT_CHECKPOINT))
    if page is not None:
        write_text(page, found.to_html())
        print(f"liminal: the page is {page}", file=sys.stderr)
    for note in found.notes():
        print(f"liminal: {note}", file=sys.stderr)
    if as_json:
        print_json(found.to_dict())
        return

    def styled(shown: str, effect: float | None) -> tuple[str, str]:
        return shown, "" if not found.strength(effect) else _UP if (effect or 0.0) > 0 else _DOWN

    console = Console()
    for target, value in found.answer.items():
        line = Text.assemble((f"{target} {signed(value)}", "bold"), "  ")
        for piece, effect in found.pieces(target):
            line.append(*styled(_printable(piece) + (signed(effect) if found.strength(effect) else ""), effect))
        console.print(line)
    table = Table("left out", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for target in found.answer:
        table.add_column(target, justify="right", no_wrap=True)
    entries = found.words + found.negations
    strongest = sorted(entries, key=lambda entry: -max(abs(value or 0.0) for value in entry.effects.values()))
    for entry in strongest[:_MOST_ROWS]:
        cells = (Text(*styled(signed(value), value)) for value in entry.effects.values())
        table.add_row(Text(_printable(entry.word)), *cells)
    console.print(table)
    if len(entries) > _MOST_ROWS:
        console.print(f"The {_MOST_ROWS} largest effects of {len(entries)}; --json has all.", style="dim")


def _printable(text: str) -> str:
    """Nothing in it that would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
