"""What `liminal mcp` costs an agent: time beside the pipeline's own, size of answers, and whether anything is mixed up.

Requires liminal_hf with its extra mcp, and EmoBank (`LIMINAL_DATA_DIR`).

    python scripts/agents.py

The SDK's own client asks real processes, one over pipes and one over HTTP. Calls and the pipeline's own readings of the
same sentences take turns, so that other work on the machine slows both.
"""

import argparse
import asyncio
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from research.report import add_folders, line, rounded, save
from transformers import pipeline

import liminal_hf
from liminal_hf.data import load_emobank
from liminal_hf.training.run_folder import hardware

COMMAND = ["-m", "liminal_hf", "mcp"]
TEXTS = 200
AT_ONCE = 8


@asynccontextmanager
async def pipes() -> AsyncIterator[Any]:
    """A client of a new process, over its pipes."""
    async with Client(
        stdio_client(StdioServerParameters(command=sys.executable, args=COMMAND, env=dict(os.environ)))
    ) as client:
        yield client


@asynccontextmanager
async def over_http() -> AsyncIterator[Any]:
    """A client of a new process, over HTTP."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, *COMMAND, "--http", "--port", str(port)])
    try:
        while server.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await asyncio.sleep(0.05)
        async with Client(f"http://127.0.0.1:{port}/mcp") as client:
            yield client
    finally:
        server.terminate()
        server.wait(30)


async def measure(transport: Callable[[], Any], texts: list[str], pad: Any) -> dict[str, Any]:
    """One transport."""
    start = time.perf_counter()
    async with transport() as client:
        tools = (await client.list_tools()).tools

        async def ask(text: str) -> Any:
            return await client.call_tool("read_text", {"text": text})

        await ask(texts[0])
        first = time.perf_counter() - start
        calls, own, size = [], [], []
        for text in texts:
            begin = time.perf_counter()
            pad(text)
            between = time.perf_counter()
            answer = await ask(text)
            own.append(between - begin)
            calls.append(time.perf_counter() - between)
            size.append(len(answer.content[0].text))
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(text: str) -> Any:
            async with limit:
                return (await ask(text)).structured_content

        together = await asyncio.gather(*map(one, texts))
    apart = [
        abs(row[name] - wanted[name])
        for row, wanted in zip(together, pad(texts), strict=True)
        for name in liminal_hf.DIMENSIONS
    ]
    ratios = np.array(calls) / np.array(own)
    return {
        "start to first answer, seconds": first,
        "call through the pipeline's own reading": dict(
            zip(("25%", "median", "75%"), np.percentile(ratios, [25, 50, 75]).tolist(), strict=True)
        ),
        "call, milliseconds": {
            "median": float(np.median(calls) * 1000), "99%": float(np.percentile(calls, 99) * 1000)
        },
        "characters of an answer": float(np.median(size)),
        "characters of the tools": sum(len(tool.model_dump_json(exclude_none=True)) for tool in tools),
        "largest difference": max(apart),
    }  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    names = list(report["transports"])
    lines = [line(["what", *names]), line(["---"] * (len(names) + 1))]

    def add(what: str, cell: Callable[[dict[str, Any]], str]) -> None:
        lines.append(line([what, *(cell(report["transports"][name]) for name in names)]))

    def ratio(found: dict[str, Any]) -> str:
        low, middle, high = found["call through the pipeline's own reading"].values()
        return f"{middle:.2f} [{low:.2f}, {high:.2f}]"

    def spent(found: dict[str, Any]) -> str:
        return " / ".join(f"{value:.0f} ms" for value in found["call, milliseconds"].values())

    add("a call through the pipeline's own reading, median [quartiles]", ratio)
    add("a call, median / 99%", spent)
    add(
        "from the start of the process to the first answer",
        lambda found: f"{found['start to first answer, seconds']:.0f} s",
    )
    add("an answer, characters", lambda found: f"{found['characters of an answer']:.0f}")
    add("the tools with their descriptions, characters", lambda found: f"{found['characters of the tools']:,}")
    add(
        f"largest difference from the pipeline, {AT_ONCE} calls at a time",
        lambda found: f"{found['largest difference']:.4f}",
    )
    lines += ["", f"`{report['command']}`; {report['texts']} of EmoBank's test sentences; {report['machine']}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure what an MCP server costs an agent.")
    parser.add_argument("--texts", type=int, default=TEXTS, help="sentences to read (%(default)s)")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    texts = load_emobank()["test"]["text"][: given.texts]
    pad = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
    transports: dict[str, Callable[[], Any]] = {"pipes": pipes, "HTTP": over_http}
    report = rounded(
        {
            "command": "python scripts/agents.py",
            "machine": hardware(),
            "texts": len(texts),
            "transports": {name: asyncio.run(measure(one, texts, pad)) for name, one in transports.items()},
        }
    )
    save(given.results, "agents", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
