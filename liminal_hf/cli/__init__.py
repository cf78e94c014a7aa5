"""The command line: `liminal predict | chat | demo | score | train | evaluate | plot | probe | push | verify | export`.

Requires typer and rich. A command imports what it needs when it runs. An error that a person can put right (a missing
file, an empty text, a package that is not installed) is printed as one message with exit status 2;
`LIMINAL_TRACEBACK=1` shows where it came from. Any other error is a fault of the package and keeps its traceback.
"""

import os
import sys
import traceback
from typing import Annotated

import typer

from .figures import plot, probe
from .hub import export, push, verify
from .read import chat, demo, predict
from .score import score
from .shared import find_checkpoint, load
from .train import evaluate, train

__all__ = ["app", "find_checkpoint", "load", "main"]

# What people can put right. Anything else is a fault of the package.
FOR_PEOPLE = (OSError, ValueError, ImportError)

app = typer.Typer(
    help="Pleasure, arousal and dominance of texts: a recursive head on any Hugging Face encoder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; `arguments` default to those of the process."""
    try:
        app(args=arguments, prog_name="liminal")
    except FOR_PEOPLE as error:
        if os.environ.get("LIMINAL_TRACEBACK"):
            raise
        line = " ".join(str(error).split()) or type(error).__name__
        print(f"liminal: {line}".encode("utf-8", "backslashreplace").decode(), file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        print("liminal: this is a fault of liminal_hf. Please report it with the lines above.", file=sys.stderr)
        sys.exit(1)


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


for _command in (predict, chat, demo, score, probe, train, evaluate, plot, push, verify, export):
    app.command()(_command)
