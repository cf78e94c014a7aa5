"""The speed benchmark: ratios measured in one run, side by side, with their spread.

Requires liminal_hf with the extras `offline` and `onnx`, and `ray` for the item `scaling`. Reads EmoBank's test texts
(`LIMINAL_DATA_DIR`), for their lengths.

    python scripts/benchmark_speed.py                       everything, about ten minutes on two idle cores
    python scripts/benchmark_speed.py --only latency,head   some items; the others stay as they were
    python scripts/benchmark_speed.py --quick               on a tiny model, in seconds: does it still run?
    python scripts/benchmark_speed.py --estimate            what 100 million messages take, from what was measured

Systems that are compared take turns, round by round, on the same texts. A ratio is formed within a round; the table
shows the median of the rounds and the quartiles. Time is processor time of one thread, which on an idle machine is the
time on the clock and on a busy one still about right; only `fit` and `scaling` go by the clock. Results and machine go
to scripts/results/speed.json, the table to speed.md beside it.
"""

import argparse
import contextlib
import json
import logging
import math
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from research.report import save
from research.speed_items import BYTES, ITEMS, ONE_CORE, QUICK_ITEMS, READING, TWO_WORKERS, make_setting
from research.timing import ROOT, Line
from transformers.utils import logging as transformers_logging

from liminal_hf.training.run_folder import hardware, versions

RESULTS = ROOT / "scripts" / "results" / "speed.json"


def show(line: Line) -> str:
    """A row of the Markdown table."""
    digits = {"%": 1, "x": 2, "ms": 1, "s": 2, "MB": 0, "r": 4}.get(line.unit, 0)
    figure = f"{line.value:,.{digits}f}" + ("" if line.unit in ("x", "r") else f" {line.unit}")
    between = "" if line.low is None else f"{line.low:,.{digits}f} to {line.high:,.{digits}f}"
    met = "" if line.met is None else f"{line.target}: {'met' if line.met else '**missed**'}"
    return f"| {line.what} | {figure} | {between} | {met} |"


def markdown(results: dict[str, Any]) -> str:
    """The table of all items that were measured, and the estimate as far as they allow one."""
    rows = ["| what | median | quartiles | target |", "| --- | --- | --- | --- |"]
    for name in ITEMS:
        rows += [show(Line(**line)) for line in results["items"].get(name, {}).get("lines", [])]
    where: dict[str, list[str]] = {}
    for name, item in results["items"].items():
        where.setdefault(item["machine"], []).append(name)
    machines = "; ".join(
        f"{machine} ({', '.join(names)})" if len(where) > 1 else machine for machine, names in where.items()
    )
    rounds = max(item["rounds"] for item in results["items"].values())
    rows += [
        "",
        f"`python scripts/benchmark_speed.py`; {machines}; up to {rounds} rounds, in which all systems of an item take "
        "turns; processor time of one thread where no clock is named. Texts: EmoBank's test split, 29 tokens each. "
        'Plain: `pipeline("text-classification")` on the same MiniLM with a linear head.',
    ]
    with contextlib.suppress(SystemExit):
        rows += ["", "`python scripts/benchmark_speed.py --estimate`: " + estimate(results).replace("\n", " ")]
    return "\n".join(rows) + "\n"


def estimate(
    results: dict[str, Any],
    messages: float = 1e8,
    price: float = 0.04,
    cores: int = 16,
    hours: float = 8,
    link: float = 125,
) -> str:
    """What many messages take, from the lines that were measured.

    Args:
        results: content of speed.json.
        messages: how many.
        price: of a core for an hour.
        cores: of a machine.
        hours: in which it should be done.
        link: what the storage gives to all machines together, in MB/s.
    """
    lines = {line["what"]: line["value"] for item in results["items"].values() for line in item["lines"]}
    needed = (ONE_CORE.format("int8"), TWO_WORKERS, READING, BYTES)
    if missing := [name for name in needed if name not in lines]:
        raise SystemExit(f"Not measured yet: {', '.join(missing)}. Run: benchmark_speed.py --only throughput,scaling")
    rate, twice, copied, size = (lines[name] for name in needed)
    share = min(1.0, twice / 2)
    core_hours = messages / (rate * share) / 3600
    machines = math.ceil(core_hours / cores / hours)
    total = machines * cores * rate * share
    limit = link * 1e6 / (size * rate * share)
    return (
        f"{messages:,.0f} messages as long as EmoBank's sentences, with MiniLM in 8 bits: one core does {rate:,.0f} a "
        f"second. Two workers did {twice:.2f} times the work of one, so {rate * share:,.0f} per core are counted. That "
        f"makes {core_hours:,.0f} core hours: {machines} machines of {cores} cores for "
        f"{core_hours / cores / machines:.1f} hours, {core_hours * price:,.2f} in all and "
        f"{1e6 * core_hours * price / messages:.3f} per million at {price:g} per core and hour.\n"
        f"The cores saturate first: reading and writing take {100 * rate / copied:.1f}% of a core's time, all machines "
        f"together read {total * size / 1e6:,.1f} MB/s, and storage that gives {link:g} MB/s would be the limit from "
        f"{limit:,.0f} cores on. Ray hears of a shard of 16,384 rows every {16_384 / total:.2g} s."
    )


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"items, with commas between them: {', '.join(ITEMS)}")
    parser.add_argument(
        "--quick", action="store_true", help="a tiny model and few rounds; writes only where --results says"
    )
    parser.add_argument("--results", type=Path, help="the JSON file; the table goes beside it")
    parser.add_argument("--memory-rows", type=int, default=1_000_000, help="rows of the item memory")
    parser.add_argument("--rounds", type=int, default=7, help="in which the systems take turns (default: %(default)s)")
    parser.add_argument("--estimate", action="store_true", help="measure nothing; say what many messages take")
    parser.add_argument("--messages", type=float, default=1e8, help="for the estimate (default: %(default)g)")
    parser.add_argument("--price", type=float, default=0.04, help="of a core for an hour (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=16, help="of a machine (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=8, help="in which it should be done (default: %(default)s)")
    parser.add_argument("--link", type=float, default=125, help="MB/s of the storage (default: %(default)s, a gigabit)")
    given = parser.parse_args(arguments)
    path = given.results or (None if given.quick else RESULTS)
    results: dict[str, Any] = {"command": "python scripts/benchmark_speed.py", "items": {}}
    if path is not None and path.is_file():
        results = json.loads(path.read_text(encoding="utf-8"))
    if given.estimate:
        print(estimate(results, given.messages, given.price, given.cores, given.hours, given.link))
        return
    names = given.only.split(",") if given.only else list(QUICK_ITEMS if given.quick else ITEMS)
    if unknown := set(names) - set(ITEMS):
        parser.error(f"--only {', '.join(sorted(unknown))}: the items are {', '.join(ITEMS)}")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        setting = make_setting(given.quick, 2 if given.quick else given.rounds, given.memory_rows, Path(folder))
        for name in names:
            start = time.perf_counter()
            lines = ITEMS[name](setting)
            results["items"][name] = {
                "lines": [asdict(line) for line in lines], "machine": hardware(), "versions": versions(),
                "rounds": setting.rounds, "seconds": round(time.perf_counter() - start, 1),
            }  # fmt: skip
            print(f"{name} ({time.perf_counter() - start:.0f} s)", *map(show, lines), sep="\n", flush=True)
            if path is not None:
                save(path.parent, path.stem, results, markdown(results))


if __name__ == "__main__":
    # Not in main: who calls it keeps their own logging.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    main()
