"""What the affect memory costs: time per message, size per person, and whether anything is mixed up or left behind.

Requires liminal_hf with its extra onnx, and EmoBank (`LIMINAL_DATA_DIR`) for the part with the model.

    python scripts/affect_memory.py

A million messages of ten thousand persons, in random order, update their states with predictions that were drawn
beforehand: the model is no part of that time, and is measured apart. Afterwards every person's row is compared with
sums that numpy made of the same messages, and one person is deleted.
"""

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from research.report import add_folders, line, rounded, save

import liminal_hf
from liminal_hf import AffectMemory
from liminal_hf.data import load_emobank
from liminal_hf.export.onnx import export_onnx
from liminal_hf.io import write_text
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer
from liminal_hf.training.run_folder import hardware

TARGETS = ("pleasure", "arousal", "dominance")
BATCH = 1000
ALONE = 2000  # messages that are added one by one
RATED = 0.1  # of the messages
WITH_MODEL = 300


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds."""
    values = np.array(seconds) * 1000
    return {"median": float(np.median(values)), "95%": float(np.percentile(values, 95))}


def timed(call: Callable[..., Any], *arguments: Any) -> float:
    """How long a call takes, in seconds."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


class Traffic:
    """Messages that are drawn once: whose, when, what the model would have said, and some ratings."""

    def __init__(self, persons: int, messages: int) -> None:
        draw = np.random.default_rng(0)
        self.person = draw.integers(0, persons, messages)
        self.seconds = np.arange(messages, dtype=np.float64) * 60
        self.predictions = draw.uniform(-1, 1, (messages, 3)).round(6)
        self.ratings = np.where(draw.random((messages, 1)) < RATED, draw.uniform(-1, 1, (messages, 3)).round(6), np.nan)

    def message(self, index: int) -> dict[str, Any]:
        """One of them, for `AffectMemory.add_many`."""
        rating = self.ratings[index]
        return {
            "person": f"person {self.person[index]}",
            "time": float(self.seconds[index]),
            "prediction": dict(zip(TARGETS, self.predictions[index].tolist(), strict=True)),
            "rating": None if np.isnan(rating[0]) else dict(zip(TARGETS, rating.tolist(), strict=True)),
        }

    def mixed_up(self, memory: AffectMemory) -> int:
        """How many persons' rows are not what their own messages give."""
        wrong = 0
        names, index = np.unique(self.person, return_inverse=True)
        rated = ~np.isnan(self.ratings)
        apart = np.where(rated, self.ratings - self.predictions, 0.0)
        sums = {
            name: np.stack([np.bincount(index, column) for column in values.T], axis=1)
            for name, values in (("count", rated), ("residual_sum", apart), ("reading_sum", self.predictions))
        }
        turns, latest = np.bincount(index), np.zeros(len(names), dtype=np.int64)
        np.maximum.at(latest, index, np.arange(len(index)))
        last = np.where(rated, self.ratings, self.predictions)[latest]
        for place, name in enumerate(names):
            kept = memory.memory(f"person {name}")
            right = kept is not None and int(kept.turn[0]) == turns[place]
            right = right and np.allclose(kept["last"][0].numpy(), last[place], rtol=0, atol=1e-12)
            right = right and all(np.allclose(kept[one][0].numpy(), sums[one][place], atol=1e-9) for one in sums)
            wrong += not right
        return wrong


def states(path: Path, reader: Any, traffic: Traffic) -> dict[str, Any]:
    """The part without the model."""
    size = len(traffic.person)
    with AffectMemory(path, reader) as memory:
        in_batches = max(size - ALONE, 0)
        spent = 0.0
        for start in range(0, in_batches, BATCH):
            batch = [traffic.message(index) for index in range(start, min(start + BATCH, in_batches))]
            spent += timed(memory.add_many, batch)
        alone = [timed(memory.add_many, [traffic.message(index)]) for index in range(in_batches, size)]
        people = memory.persons()
        asked = [timed(memory.state, name) for name in people[:ALONE]]
        wrong = traffic.mixed_up(memory)
        row = len(next(filter(None, map(memory.memory, people))).to_bytes())
        memory.close()
    stored = sum(one.stat().st_size for one in path.parent.iterdir())
    with AffectMemory(path, reader) as memory:
        gone = people[0]
        deletion = timed(memory.delete, gone)
        content = b"".join(one.read_bytes() for one in path.parent.iterdir())
        left = content.count(f"{gone}".encode() + b"\x00") + (gone in memory)
        remaining = len(memory)
    return {
        "persons": len(people),
        "messages": size,
        "batch, microseconds a message": 1e6 * spent / max(in_batches, 1),
        "alone, milliseconds": percentiles(alone),
        "asked, milliseconds": percentiles(asked),
        "bytes of a person": row,
        "file, bytes a person": stored / len(people),
        "mixed up": int(wrong),
        "deletion, seconds": deletion,
        "left of the deleted": int(left),
        "left of the others": remaining,
    }


def with_model(path: Path, reader: Scorer, texts: list[str]) -> dict[str, Any]:
    """Messages with the model: one by one, and together."""
    with AffectMemory(path, reader) as memory:
        memory.add("warm up", texts[0])
        alone = [timed(memory.add, "Ada", text) for text in texts]
        together = timed(memory.add_many, [{"person": "Ben", "text": text} for text in texts])
    return {"alone, milliseconds": percentiles(alone), "batch, milliseconds a message": 1000 * together / len(texts)}


def exported_scorer(folder: Path) -> tuple[Scorer, str]:
    """The default checkpoint in 8 bits; in float, where this processor's 8 bits differ too much from torch."""
    try:
        export_onnx(liminal_hf.DEFAULT_CHECKPOINT, folder / "int8", quantize="int8")
        return Scorer(str(folder / "int8"), backend="int8", threads=1), "int8"
    except LiminalError as error:
        print(error, file=sys.stderr)
        export_onnx(liminal_hf.DEFAULT_CHECKPOINT, folder / "onnx")
        return Scorer(str(folder / "onnx"), backend="onnx", threads=1), "ONNX, in float"


def kept(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier run has computed, or else is computed now and written there."""
    if not path.is_file():
        write_text(path, json.dumps(rounded(compute()), indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    it, model = report["states"], report["with model"]
    how = model["how"]

    def shown(values: dict[str, float]) -> str:
        return f"{values['median']:.2f} ms (95%: {values['95%']:.2f} ms)"

    rows = [
        (f"a message without the model, {BATCH:,} at a time", f"{it['batch, microseconds a message']:.0f} µs"),
        ("a message without the model, one by one", shown(it["alone, milliseconds"])),
        (f"a message with the model ({how}), one by one", shown(model["alone, milliseconds"])),
        (
            f"a message with the model ({how}), {report['texts']} at a time",
            f"{model['batch, milliseconds a message']:.2f} ms",
        ),
        ("asking for a person's state", shown(it["asked, milliseconds"])),
        (
            "a person: the row; with all of the file",
            f"{it['bytes of a person']:,} B; {it['file, bytes a person']:,.0f} B",
        ),
        ("persons whose row is not what their own messages give", f"{it['mixed up']} of {it['persons']:,}"),
        ("deleting a person", f"{it['deletion, seconds']:.2f} s"),
        ("places in the file that still name them", str(it["left of the deleted"])),
    ]
    lines = [line(["what", "measured"]), line(["---", "---"]), *map(line, rows)]
    lines += [
        "",
        f"`{report['command']}`; {it['messages']:,} messages of {it['persons']:,} persons, {RATED:.0%} of them rated, "
        f"in one SQLite file; one thread; {report['machine']}. The model reads EmoBank's test sentences.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure the affect memory.")
    parser.add_argument("--persons", type=int, default=10_000)
    parser.add_argument("--messages", type=int, default=1_000_000)
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    texts = [text for text in load_emobank()["test"]["text"][:] if text.strip()][:WITH_MODEL]
    name = f"affect_memory-{given.persons}-{given.messages}"

    def of_model() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            reader, how = exported_scorer(Path(folder))
            (Path(folder) / "model").mkdir()
            return {"how": how, **with_model(Path(folder) / "model" / "affect.db", reader, texts)}

    def of_states() -> dict[str, Any]:
        reader = Scorer(liminal_hf.DEFAULT_CHECKPOINT, threads=1)
        with tempfile.TemporaryDirectory() as folder:
            return states(Path(folder) / "affect.db", reader, Traffic(given.persons, given.messages))

    report = rounded(
        {
            "command": "python scripts/affect_memory.py",
            "machine": hardware(),
            "texts": len(texts),
            "states": kept(given.work / f"{name}.json", of_states),
            "with model": kept(given.work / "affect_memory-model.json", of_model),
        }
    )
    save(given.results, "affect_memory", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
