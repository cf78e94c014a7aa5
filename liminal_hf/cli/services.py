"""`liminal mcp` and `liminal serve`: what agents and other programs ask."""

import ipaddress
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from .shared import Model, find_checkpoint, load_pipeline

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")]


def mcp(
    model: Model = None,
    memory: Annotated[
        Path | None,
        typer.Option(
            help="An SQLite file that keeps what is known of persons (no texts).", show_default="until the server ends"
        ),
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Streamable HTTP instead of stdin and stdout.")] = False,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port, with --http.", min=1, max=65535)] = 8000,
) -> None:
    """Serve agents by the Model Context Protocol: read texts and conversations, rate, forecast, forget.

    An agent starts it by itself: the command is "liminal", its argument "mcp". With --http it is at /mcp, and whoever
    reaches that reads and deletes the same persons.
    """
    from ..agents import build
    from ..scoring.affect_memory import AffectMemory

    pipeline = load_pipeline(model)
    with closing(AffectMemory(memory or ":memory:", pipeline)) as opened:
        server = build(pipeline, opened)
        if not http:
            server.run("stdio")
            return
        warn_others(host)
        print(f"liminal: http://{host}:{port}/mcp (Ctrl-C ends it).", file=sys.stderr)
        server.run("streamable-http", host=host, port=port)


def serve(
    model: Model = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    backend: Annotated[str, typer.Option(help="What reads single texts: int8, onnx or torch.")] = "int8",
    threads: Annotated[int | None, typer.Option(help="Processor cores.", min=1, show_default="all")] = None,
    at_once: Annotated[int, typer.Option(help="Most texts in a batch.", min=1)] = 64,
    wait: Annotated[float, typer.Option(help="Milliseconds that a batch waits for more.", min=0)] = 2.0,
    room: Annotated[int, typer.Option(help="Most texts that wait; beyond it the answer is 429.", min=1)] = 1024,
) -> None:
    """Serve other programs over HTTP: /predict, /conversation, /stream (WebSocket), /health, /metrics, /docs.

    Conversations are read by torch, whatever the back end.
    """
    from .. import DEFAULT_CHECKPOINT
    from ..scoring import Scorer
    from ..scoring.onnx_runtime import is_onnx_folder
    from ..serving import create_app
    from ..serving.app import run

    source = find_checkpoint(model or DEFAULT_CHECKPOINT)
    pipeline = None if is_onnx_folder(source) else load_pipeline(model)
    scorer = Scorer(source, backend, threads=threads)
    app = create_app(scorer, pipeline, at_once=at_once, wait=wait / 1000, room=room)
    warn_others(host)
    run(app, host, port)


def warn_others(host: str) -> None:
    """Says on stderr that other machines reach an address, where they do."""
    try:
        alone = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = False
    if not alone:
        print(f"liminal: {host} is open to other machines, and asks nobody who they are.", file=sys.stderr)
