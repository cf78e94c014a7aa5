"""The command line `liminal`: predict, explain, chat, demo, score, report, timeline, train, evaluate, benchmark, ...

Requires typer and rich. A command imports what it needs when it runs. An error that a person can put right (a missing
file, an empty text, a package that is not installed) is printed as one message with exit status 2;
`LIMINAL_TRACEBACK=1` shows where it came from. Any other error is a fault of the package and keeps its traceback.
"""

import os
import sys
import traceback
from typing import Annotated

import typer

from ..modeling.errors import LiminalError
from .benchmark import benchmark
from .evaluate import evaluate
from .explain import explain
from .figures import plot, probe
from .hub import export, push, verify
from .read import chat, demo, predict
from .report import report
from .score import score
from .services import mcp, serve
from .shared import TextCommand, find_checkpoint, load
from .timeline import timeline
from .train import train

__all__ = ["app", "find_checkpoint", "load", "main"]

app = typer.Typer(
    help="Pleasure, arousal and dominance of texts: a recursive head on any Hugging Face encoder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; `arguments` default to those of the process.

    What is printed and piped in is UTF-8, whatever the console's own encoding.
    """
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        if hasattr(stream, "reconfigure") and not (stream is sys.stdin and stream.isatty()):
            stream.reconfigure(
                encoding="utf-8", errors="surrogateescape" if stream is sys.stdin else "backslashreplace"
            )
    try:
        app(args=arguments, prog_name="liminal")
    except Exception as error:
        if is_for_people(error) and not os.environ.get("LIMINAL_TRACEBACK"):
            print(f"liminal: {str(error).strip() or type(error).__name__}", file=sys.stderr)
            sys.exit(2)
        traceback.print_exc()
        if not is_for_people(error):
            print("liminal: this is a fault of liminal_hf. Please report it with the lines above.", file=sys.stderr)
        sys.exit(1)


def is_for_people(error: Exception) -> bool:
    """Whether a person can put it right; anything else is a fault of the package.

    transformers and huggingface_hub raise OSError where a model, a file or a network is missing; a Hub id that is no
    Hub id and weights that are no safetensors have classes of their own.

    Example:
        >>> is_for_people(FileNotFoundError("There is no file a.txt.")), is_for_people(KeyError("pleasure"))
        (True, False)
    """
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, LiminalError | OSError | ImportError) or library in ("huggingface_hub", "safetensors_rust")


def _print_version(wanted: bool) -> None:
    if wanted:
        from .._version import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


app.command(cls=TextCommand)(predict)
app.command(cls=TextCommand)(timeline)
app.command(cls=TextCommand)(explain)
for _command in (chat, demo, score, report, probe, train, evaluate, benchmark, plot, push, verify, export, mcp, serve):
    app.command()(_command)
