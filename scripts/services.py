"""What `liminal serve` costs beside the Scorer, with up to 1,000 clients, and what kills and a full queue do to it.

Requires liminal_hf with its extra serve, EmoBank (`LIMINAL_DATA_DIR`), and the load tool wrk (`apt-get install wrk`).

    python scripts/services.py

Server, clients and the Scorer share a core on loopback. So costs are compared in processor time of the server's process
and of the Scorer's, in rounds that take turns; times on the clock are given beside the Scorer's own at that moment.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from research.report import add_folders, line, rounded, save

import liminal_hf
from liminal_hf.data import load_emobank
from liminal_hf.scoring import Scorer
from liminal_hf.training.run_folder import hardware

TEXTS, ROUNDS, CLIENTS = 64, 7, 1000
SENTENCES = 400  # different ones, in the test for mixing
SECONDS, SECONDS_OF_MANY = 15, 75  # long enough for everybody to have an answer
_PATIENCE = 300
_TICKS = os.sysconf("SC_CLK_TCK")
# wrk asks for one of these sentences after the other.
_LUA = """
local bodies = {%s}
local at = 0
request = function()
  at = at %% #bodies + 1
  return wrk.format("POST", "/predict", {["content-type"] = "application/json"}, bodies[at])
end
"""


class Server:
    """`liminal serve` in a process of its own, on a free port."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "liminal_hf", "serve", "--port", "0", "--threads", "1", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        found = None
        while not found:
            said = self.process.stderr.readline()
            if not said:
                raise RuntimeError("the server ended before it listened")
            found = re.search(r"http://\S+", said)
        self.address = found[0]
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def spent(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Server]:
    server = Server(*options)
    try:
        yield server
    finally:
        server.end()


async def ask(address: str, requests: Sequence[Sequence[str]], clients: int) -> list[Any]:
    """Each request's rows, or its status, or the name of what went wrong; so many clients at a time."""
    turn, limits = iter(enumerate(requests)), httpx.Limits(max_connections=1)
    answers: list[Any] = [None] * len(requests)

    async def client() -> None:
        async with httpx.AsyncClient(base_url=address, limits=limits, timeout=_PATIENCE) as one:
            for index, texts in turn:
                try:
                    answer = await one.post("/predict", json={"texts": texts})
                    answers[index] = answer.json()["rows"] if answer.status_code == 200 else answer.status_code
                except httpx.HTTPError as error:
                    answers[index] = type(error).__name__

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def quartiles(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": float(middle), "25%": float(low), "75%": float(high)}


def costs(server: Server, scorer: Scorer, texts: list[str]) -> dict[str, Any]:
    """The Scorer's throughput and the server's, as a ratio, by the number of texts in a request."""
    ways = {f"{size} in a request": [texts[at : at + size] for at in range(0, len(texts), size)] for size in (1, 8, 64)}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, requests in ways.items():
            start = time.process_time()
            scorer.rows(texts)
            own, before = time.process_time() - start, server.spent()
            asyncio.run(ask(server.address, requests, 8))
            ratios[name].append(own / (server.spent() - before))
    return {name: quartiles(values) for name, values in ratios.items()}


def loaded(server: Server, scorer: Scorer, texts: list[str], clients: int) -> dict[str, Any]:
    """What wrk says, with so many connections that ask for one sentence each, one after the other."""
    seconds = SECONDS if clients < CLIENTS else SECONDS_OF_MANY
    quoted = ", ".join(f"[==[{json.dumps({'texts': [text]})}]==]" for text in texts)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA % quoted)
        script.flush()
        name = script.name
        alone = []
        for text in texts[:50]:
            start = time.perf_counter()
            scorer.rows([text])
            alone.append(time.perf_counter() - start)
        out = subprocess.run(
            ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout=90s", "--latency", f"-s{name}", server.address],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
    shares = re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s|m)", out)
    found = {share: float(value) * units[unit] for share, value, unit in shares}

    def count(pattern: str) -> int:
        return sum(int(number) for number in re.findall(pattern, out))

    return {
        "clients": clients,
        "answers": count(r"(\d+) requests in"),
        "refused": count(r"Non-2xx or 3xx responses: (\d+)"),
        "broken": sum(map(count, (r"connect (\d+)", r"read (\d+)", r"write (\d+)", r"timeout (\d+)"))),
        "p50": found["50"],
        "p99": found["99"],
        "the Scorer's time for a sentence": float(np.median(alone)),
    }


def right(answers: list[Any], wanted: dict[str, Any], requests: Sequence[Sequence[str]]) -> dict[str, int]:
    """How many requests were answered as the Scorer does bit by bit, otherwise, or not."""
    found = {"right": 0, "wrong": 0, "none": 0}
    for rows, texts in zip(answers, requests, strict=True):
        if not isinstance(rows, list):
            found["none"] += 1
        else:
            found["right" if rows == [wanted[text] for text in texts] else "wrong"] += 1
    return found


def killed(wanted: dict[str, Any], texts: list[str], how: signal.Signals) -> dict[str, int]:
    """What became of 64 requests of eight texts each that were under way when the server was told to end."""
    requests = [[texts[(index + step) % len(texts)] for step in range(8)] for index in range(64)]
    with serving() as server:

        async def scene() -> list[Any]:
            asked = asyncio.create_task(ask(server.address, requests, len(requests)))
            async with httpx.AsyncClient(base_url=server.address, timeout=_PATIENCE) as watcher:
                while (await watcher.get("/health")).json()["waiting"] < 300:
                    await asyncio.sleep(0.01)
            server.process.send_signal(how)
            return await asked

        return right(asyncio.run(scene()), wanted, requests)


def left(server: Server, texts: list[str]) -> dict[str, Any]:
    """What clients that hang up leave behind: 100 of them, with eight texts each."""

    async def scene() -> dict[str, Any]:
        before = await counted(server)
        one = json.dumps({"texts": texts[:8]})
        head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(one)}"
        writers = [
            await asyncio.open_connection(*server.address.removeprefix("http://").split(":")) for _ in range(100)
        ]
        for _, writer in writers:
            writer.write(f"{head}\r\n\r\n{one}".encode())
            await writer.drain()
        for _, writer in writers:
            writer.close()
        start = time.perf_counter()
        async with httpx.AsyncClient(base_url=server.address, timeout=_PATIENCE) as watcher:
            while (await watcher.get("/health")).json()["waiting"]:
                await asyncio.sleep(0.01)
        spent = time.perf_counter() - start
        return {"asked": 800, "read": await counted(server) - before, "seconds": spent}

    return asyncio.run(scene())


async def counted(server: Server) -> int:
    """How many texts were read so far."""
    async with httpx.AsyncClient(base_url=server.address, timeout=_PATIENCE) as watcher:
        page = (await watcher.get("/metrics")).text
    (found,) = re.findall(r"^liminal_batch_texts_sum (\S+)", page, re.MULTILINE)
    return int(float(found))


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [line(["what", "measured"]), line(["---", "---"])]
    for name, found in report["costs"].items():
        low, middle, high = (found[share] for share in ("25%", "median", "75%"))
        what = f"throughput through the Scorer's, {name}, 8 clients, by processor time: median [quartiles]"
        lines.append(line([what, f"{middle:.2f} [{low:.2f}, {high:.2f}]"]))
    for name, found in report["load"].items():
        own = found["the Scorer's time for a sentence"]
        p50, p99 = found["p50"], found["p99"]
        cells = (
            f"p50 {p50:.3g} s, p99 {p99:.3g} s ({p50 / own:.3g} and {p99 / own:.3g} times the Scorer's alone); "
            f"{found['answers']:,} answers, {found['refused']:,} of them 429, {found['broken']} broken"
        )
        lines.append(line([f"{name}, one sentence a request", cells]))
    mixed = report["mixed"]
    cells = f"{mixed['right']:,} right to the bit, {mixed['wrong']} wrong, {mixed['none']} without an answer"
    lines.append(line([f"{CLIENTS:,} clients at once, {SENTENCES} different sentences", cells]))
    for name, found in report["killed"].items():
        cells = (
            f"{found['right']} answered right, {found['wrong']} wrong, {found['none']} got an error of the connection"
        )
        lines.append(line([f"64 requests under way, the server gets {name}", cells]))
    gone = report["left"]
    cells = (
        f"{gone['read']} of their {gone['asked']} texts were read; the queue was empty after {gone['seconds']:.1f} s"
    )
    lines.append(line(["100 clients hang up in mid-request", cells]))
    lines += ["", f"`{report['command']}`; int8, EmoBank's test sentences; {report['machine']}; wrk on the same core."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure liminal serve under load.")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed: apt-get install wrk")
    sentences = load_emobank()["test"]["text"][:SENTENCES]
    scorer = Scorer(liminal_hf.DEFAULT_CHECKPOINT, "int8", threads=1)
    wanted = dict(zip(sentences, json.loads(json.dumps(scorer.rows(sentences))), strict=True))
    some = sentences[:TEXTS]
    report: dict[str, Any] = {"command": "python scripts/services.py", "machine": hardware(), "load": {}}
    with serving() as server:
        report["costs"] = costs(server, scorer, some)
        for clients in (1, 8, CLIENTS):
            report["load"][f"{clients:,} client{'s' * (clients > 1)}"] = loaded(server, scorer, some, clients)
        requests = [[sentences[index % SENTENCES]] for index in range(CLIENTS)]
        report["mixed"] = right(asyncio.run(ask(server.address, requests, CLIENTS)), wanted, requests)
        report["left"] = left(server, some)
    with serving("--room", "256") as server:
        report["load"][f"{CLIENTS:,} clients, room for 256"] = loaded(server, scorer, some, CLIENTS)
    report["killed"] = {how.name: killed(wanted, some, how) for how in (signal.SIGTERM, signal.SIGKILL)}
    report = rounded(report)
    save(given.results, "services", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
