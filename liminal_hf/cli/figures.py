"""`liminal plot` and `liminal probe`: figures of runs, predictions, conversations and encoders."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .read import lines_of
from .shared import Decimal, Encoding, Labels, Quotes, Scale, Separator, Sheet, TextColumn, table_settings


def plot(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Which figure; a wrong name lists them all.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A run's folder, or a table; - reads stdin.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where it goes; the ending says which format.")],
    labels: Labels = None,
    scale: Scale = None,
    text: TextColumn = None,
    separator: Separator = None,
    encoding: Encoding = None,
    decimal: Decimal = None,
    sheet: Sheet = None,
    quotes: Quotes = None,
    prefix: Annotated[str, typer.Option(help="What liminal score --prefix was given.", show_default=False)] = "",
) -> None:
    """Draw a figure of a run, of a conversation, or of what score, predict --json or evaluate --predictions wrote."""
    from ..figures import plot as draw

    options = {"labels": labels, "scale": scale, "text": text, "separator": separator, "encoding": encoding}
    settings = table_settings(**options, decimal=decimal, sheet=sheet, quotes=quotes)
    print(draw(kind, source, output, settings=settings, labelled=labels is not None, prefix=prefix))


def probe(
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER...", help="Hub ids or folders of encoders.")],
    random_floor: Annotated[
        bool, typer.Option("--random-floor", help="Also each encoder with random weights, as the honest floor.")
    ] = False,
    pooling: Annotated[
        list[str] | None, typer.Option(help="How states of tokens become one; again to compare.", show_default="mean")
    ] = None,
    phrases: Annotated[
        Path | None, typer.Option(help="A UTF-8 file with phrases to place, one per line.", show_default="our own")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Writes STEM.md, .json, .png and STEM_phrases.png.", show_default=False),
    ] = None,
) -> None:
    """Read pleasure, arousal and dominance from each layer of encoders by a ridge, on EmoBank."""
    from .. import probing

    chosen = probing.PHRASES if phrases is None else tuple(lines_of(phrases))
    result = probing.probe(
        encoders,
        random_floor=random_floor,
        pooling=pooling or ["mean"],
        phrases=chosen,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    options = [*(["--random-floor"] if random_floor else []), *([f"--phrases {phrases}"] if phrases else [])]
    options += [f"--pooling {name}" for name in pooling or []]
    result.about["command"] = " ".join(["liminal probe", *encoders, *options])
    print(result.markdown())
    if output is not None:
        for path in result.save(output):
            print(path)
