"""How `benchmark_speed.py` measures: systems take turns, and a ratio is formed within a round."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Line:
    """A line of the table: what, its median (or only value) and unit, the quartiles, and the target, met or not."""

    what: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    target: str = ""
    met: bool | None = None


def take_turns(systems: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time of each system in each round, after one to warm up; rounds start with another one."""
    for run in systems.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in systems}
    names = list(systems)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.process_time()
            systems[name]()
            found[name].append(time.process_time() - start)
    return found


def again(times: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], None]:
    """A function that makes a call that often."""

    def run() -> None:
        for _ in range(times):
            function(*args, **kwargs)

    return run


def spread(what: str, values: Sequence[float], unit: str) -> Line:
    """Median and quartiles."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return Line(what, float(middle), unit, float(low), float(high))


def ratio(what: str, of: Sequence[float], to: Sequence[float], unit: str = "x") -> Line:
    """The first through the second, round by round; in per cent if that is the unit."""
    return spread(what, [(100 if unit == "%" else 1) * a / b for a, b in zip(of, to, strict=True)], unit)


def aim(line: Line, at_least: float | None = None, below: float | None = None) -> Line:
    """The line with a target."""
    if at_least is not None:
        line.target, line.met = f"at least {at_least:g}", line.value >= at_least
    elif below is not None:
        line.target, line.met = f"below {below:g}", line.value < below
    return line


def run_python(code: str, *arguments: Any, **environment: str) -> tuple[str, str]:
    """Runs code in a process of its own; what it printed, on both streams."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout, done.stderr
