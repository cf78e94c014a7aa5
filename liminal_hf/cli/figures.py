"""`liminal plot` and `liminal probe`: figures of runs, predictions, conversations and encoders."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from .read import lines_of


def plot(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Which figure; a wrong name lists them all.")],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="What it is drawn from; - reads stdin.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where it goes; the ending says which format.")],
) -> None:
    """Draw a figure."""
    from ..figures import plot as draw

    print(draw(kind, source, output))


def probe(
    encoders: Annotated[list[str], typer.Argument(metavar="ENCODER...", help="Hub ids or folders of encoders.")],
    random_floor: Annotated[
        bool, typer.Option("--random-floor", help="Also each encoder with random weights, as the honest floor.")
    ] = False,
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
    found = probing.probe(
        encoders,
        random_floor=random_floor,
        phrases=chosen,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    options = [*(["--random-floor"] if random_floor else []), *([f"--phrases {phrases}"] if phrases else [])]
    found.about["command"] = " ".join(["liminal probe", *encoders, *options])
    print(found.markdown())
    if output is not None:
        for path in found.save(output):
            print(path)
