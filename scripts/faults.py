"""The long half of "nothing breaks it": kills, full disks, damage, a hundred thousand turns, a busy page, the packages.

    python scripts/faults.py [--parts kills,disk,damage,soak,page,packages] [--share 1.0]

Requires liminal_hf with its test and demo extras and the packaged MiniLM. Prints a table and writes it to
scripts/results/faults.md and faults.json (parts that were run before keep their rows); ends with status 1 if anything
failed. Encoders are tiny and random: what is tested is the machinery, and it costs minutes instead of hours.
`--share 0.02` does a fiftieth of each part.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from research.report import line, save
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, PreTrainedTokenizerFast, pipeline

from liminal_hf import DIMENSIONS, ConversationState, LiminalConfig, LiminalForPADRegression
from liminal_hf.demo import MAX_TURNS
from liminal_hf.modeling.encoders import build_encoder
from liminal_hf.training.fit import fit
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.run_folder import hardware

ROOT = Path(__file__).resolve().parents[1]
WORDS = [f"w{number}" for number in range(56)]
PARTS = ("kills", "disk", "damage", "soak", "page", "packages")
KILLS, LIMITS, DAMAGES = 20, 8, 10
CONVERSATIONS, TURNS, SPEAKERS = 1_000, 100, 2
CLIENTS, ASKED = 4, 500


def tiny_encoder(folder: Path) -> BertConfig:
    """Saves an encoder of two layers with random weights, and a tokenizer of one token per word."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    config = BertConfig(**size, vocab_size=60, max_position_embeddings=64)
    build_encoder(config).save_pretrained(folder)
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{word: 4 + place for place, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return config


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(2, 12)))


# ---- training ----


def small_recipe(folder: Path) -> Recipe:
    """Two phases, the second of the whole model, on 96 sentences."""
    chance = random.Random(0)
    tiny_encoder(folder / "encoder")
    for split, rows in (("train", 96), ("validation", 32), ("test", 32)):
        lines = [f"{sentence(chance)},{','.join(f'{chance.uniform(1, 5):.3f}' for _ in range(3))}" for _ in range(rows)]
        (folder / f"{split}.csv").write_text("\n".join(["text,V,A,D", *lines]) + "\n", encoding="utf-8")
    training = {"num_train_epochs": 4, "per_device_train_batch_size": 8, "disable_tqdm": True, "use_cpu": True}
    return Recipe.from_dict(
        {
            "model": {"encoder": str(folder / "encoder"), "latent_size": 16, "num_outer_steps": 2},
            "data": {"files": {split: str(folder / f"{split}.csv") for split in ("train", "validation", "test")}},
            "phases": [
                {
                    "name": "head",
                    "trainable": "head",
                    "ema_decay": 0.9,
                    "training": {**training, "learning_rate": 1e-2},
                },
                {"name": "all", "trainable": "all", "training": {**training, "learning_rate": 1e-4}},
            ],
        }
    )


def in_child(work: Callable[[], Any], seconds: float | None = None) -> int:
    """Runs something in a forked process, killed with no chance to clean up after so many seconds; its exit code."""
    child = multiprocessing.get_context("fork").Process(target=_quiet, args=(work,))
    child.start()
    child.join(seconds)
    if child.is_alive():
        child.kill()
        child.join()
    return child.exitcode


def _quiet(work: Callable[[], Any]) -> None:
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    work()


class Training:
    """A recipe, its undisturbed run, and the comparison with it."""

    def __init__(self, folder: Path, share: float) -> None:
        self.folder, self.share = folder, share
        self.chance = random.Random(1)
        os.environ["LIMINAL_CACHE_DIR"] = str(folder / "cache")
        self.recipe = small_recipe(folder)
        started = time.monotonic()
        if in_child(partial(fit, self.recipe, folder / "whole")) != 0:
            raise RuntimeError("The undisturbed run failed; run it by itself: liminal train")
        self.seconds = time.monotonic() - started

    def number(self, whole: int) -> int:
        return max(2, round(whole * self.share))

    def ends_equal(self, run: Path) -> bool:
        """Resumes a run, and compares weights and metrics bit by bit."""
        if in_child(partial(fit, self.recipe, run)) != 0:
            return False
        first, second = (load_file(path / "model" / "model.safetensors") for path in (self.folder / "whole", run))
        one, other = (json.loads((path / "metrics.json").read_text()) for path in (self.folder / "whole", run))
        left = [path for path in run.rglob("*") if ".part" in path.name or path.name.startswith("checkpoint-")]
        same = all(torch.equal(value, second[name]) for name, value in first.items())
        return same and first.keys() == second.keys() and one["test"] == other["test"] and not left

    def kills(self) -> tuple[bool, str]:
        """kill -9 at random moments, in one run several times."""
        killed = equal = runs = 0
        while killed < self.number(KILLS):
            run = self.folder / f"killed-{runs}"
            for _ in range(self.chance.randint(1, 3)):
                killed += in_child(partial(fit, self.recipe, run), self.chance.uniform(0, self.seconds)) == -9
            equal += self.ends_equal(run)
            runs += 1
        return equal == runs, f"{killed} kills in {runs} runs; {equal} end with the bits of the undisturbed run"

    def disk(self) -> tuple[bool, str]:
        """No file may grow beyond a limit, as on a full disk; then there is space again."""
        stopped = equal = 0
        limits = [round(300 * 1.9**step) for step in range(self.number(LIMITS))]
        for limit in limits:
            run = self.folder / f"full-{limit}"

            def small(run: Path = run, limit: int = limit) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                fit(self.recipe, run)

            stopped += in_child(small) != 0 and not (run / "metrics.json").exists()
            equal += self.ends_equal(run)
        text = f"files limited to {limits[0]}..{limits[-1]:,} bytes: {stopped} of {len(limits)} runs stop"
        return stopped > 0 and equal == len(limits), f"{text}; {equal} end with the same bits when there is space"

    def damage(self) -> tuple[bool, str]:
        """A random bit of a random file of a killed run is flipped, or the file is cut short."""
        equal = 0
        rounds = self.number(DAMAGES)
        for number in range(rounds):
            run = self.folder / f"damaged-{number}"
            in_child(partial(fit, self.recipe, run), self.seconds * self.chance.uniform(0.4, 0.9))
            files = [path for path in run.glob("phases/**/*") if path.is_file() and path.stat().st_size]
            if files:
                victim = self.chance.choice(files)
                content = bytearray(victim.read_bytes())
                if self.chance.random() < 0.5:
                    content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
                else:
                    del content[self.chance.randrange(len(content)) :]
                victim.write_bytes(content)
            equal += self.ends_equal(run)
        return equal == rounds, f"{rounds} files damaged; {equal} runs end with the same bits"


# ---- use ----


def speaking_pipeline(folder: Path) -> Any:
    config = tiny_encoder(folder / "encoder")
    torch.manual_seed(1)
    model = LiminalForPADRegression(LiminalConfig(text_config=config, latent_size=16, num_outer_steps=2))
    model.save_pretrained(folder / "model")
    PreTrainedTokenizerFast.from_pretrained(folder / "encoder").save_pretrained(folder / "model")
    return pipeline("pad-regression", model=str(folder / "model"))


def megabytes() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def percentiles(seconds: list[float]) -> str:
    low, middle, high, most = np.percentile(seconds, [50, 95, 99, 100]) * 1e3
    return f"p50 {low:.1f}, p95 {middle:.1f}, p99 {high:.1f}, max {most:.1f} ms"


def soak(folder: Path, share: float) -> tuple[bool, str]:
    """Conversations that go on side by side in random order, each compared with a reading of it alone."""
    pad, chance = speaking_pipeline(folder), random.Random(2)
    number = max(20, round(CONVERSATIONS * share))
    talks = [
        [{"role": f"speaker {chance.randrange(SPEAKERS)}", "content": sentence(chance)} for _ in range(TURNS)]
        for _ in range(number)
    ]
    found: list[list[list[float]]] = [[] for _ in talks]
    states = [ConversationState() for _ in talks]
    # Whoever has something to say at the moment: up to 64 conversations, each with its next turn.
    latencies, memory, turns, active = [], [], 0, list(range(number))
    while active:
        some = chance.sample(active, min(64, len(active)))
        started = time.perf_counter()
        rows = pad([[talks[place][len(found[place])]] for place in some], memory=[states[place] for place in some])
        latencies.append((time.perf_counter() - started) / len(some))
        for place, (row,) in zip(some, rows, strict=True):
            states[place] = row["memory"]
            found[place].append([row[name] for name in DIMENSIONS])
        active = [place for place in active if len(found[place]) < TURNS]
        turns += len(some)
        if turns > 0.2 * number * TURNS and len(latencies) % 20 == 0:
            memory.append(megabytes())
    worst = 0.0
    for place, talk in enumerate(talks):
        alone = [[row[name] for name in DIMENSIONS] for row in pad(talk)]
        worst = max(worst, float(np.abs(np.array(alone) - np.array(found[place])).max()))
    growth = (memory[-1] - memory[0]) / memory[0] if memory else 0.0
    text = f"{turns:,} turns over {number:,} conversations: largest difference from reading each alone {worst:.1e}; "
    text += f"memory {growth:+.1%} after the first fifth; per turn {percentiles(latencies)}"
    return worst < 1e-5 and growth < 0.05, text


def page(folder: Path, share: float) -> tuple[bool, str]:
    """Several clients talk to `liminal demo` at once, each in a session of its own."""
    from gradio_client import Client

    pad, asked = speaking_pipeline(folder), max(20, round(ASKED * share))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder / "files")}
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-u", "-m", "liminal_hf.cli", "demo", "-m", str(folder / "model")]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        patience = time.monotonic() + 300
        while "The page is at " not in (said := (folder / "log").read_text()):
            if process.poll() is not None or time.monotonic() > patience:
                return False, f"the page did not start: {said[-300:]}"
            time.sleep(0.3)
        address = said.split("The page is at ")[1].split()[0]
        results: dict[int, tuple[list[float], list[float], list[str]]] = {}

        def visit(number: int) -> None:
            chance = random.Random(number)
            client, seconds, values, texts = Client(address, verbose=False), [], [], []
            for turn in range(asked):
                if turn and turn % MAX_TURNS == 0:
                    client.predict(api_name="/new")
                texts.append(sentence(chance))
                started = time.perf_counter()
                values.append(client.predict(texts[-1], "you", api_name="/say")["pleasure"])
                seconds.append(time.perf_counter() - started)
            results[number] = (seconds, values, texts)

        def size() -> float:
            statm = Path(f"/proc/{process.pid}/statm").read_text()
            return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

        visitors = [threading.Thread(target=visit, args=(number,)) for number in range(CLIENTS)]
        memory = []
        for visitor in visitors:
            visitor.start()
        while any(visitor.is_alive() for visitor in visitors):
            time.sleep(1)
            memory.append(size())
        mixed = 0
        for _, values, texts in results.values():
            for first in range(0, len(texts), MAX_TURNS):
                part = slice(first, first + MAX_TURNS)
                alone = pad([{"role": "user", "speaker": "you", "content": text} for text in texts[part]])
                mixed += sum(
                    abs(row["pleasure"] - value) > 1e-5 for row, value in zip(alone, values[part], strict=True)
                )
        if len(results) < CLIENTS:
            return False, f"{CLIENTS - len(results)} of {CLIENTS} clients broke off; see their errors above"
        early = max(memory[: max(1, len(memory) // 5)])
        growth = (memory[-1] - early) / early
        latencies = [second for seconds, _, _ in results.values() for second in seconds]
        text = (
            f"{len(latencies):,} requests from {len(results)} clients, {mixed} answers mixed up; memory {growth:+.1%} "
        )
        text += f"after the first fifth; {percentiles(latencies)}"
        return mixed == 0 and growth < 0.1, text
    finally:
        process.terminate()
        process.wait(30)


def packages() -> tuple[bool, str]:
    """Known faults (pip-audit, where it is installed and can ask) and licences of every pinned package."""
    names = [
        row.split("==")[0] for row in (ROOT / "scripts" / "constraints.txt").read_text().splitlines() if "==" in row
    ]
    licences: Counter[str] = Counter()
    for name in names:
        try:
            about: Any = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        classifiers = [row.split(" :: ")[-1] for row in about.get_all("Classifier") or [] if row.startswith("License")]
        told = about.get("License-Expression") or ", ".join(classifiers) or (about.get("License") or "not stated")
        licences[told.splitlines()[0][:40]] += 1
    copyleft = sorted(name for name in licences if "GPL" in name and "LGPL" not in name)
    text = f"{sum(licences.values())} packages: {', '.join(f'{n} {name}' for name, n in licences.most_common(6))}, ..."
    text += f"; strong copyleft: {', '.join(copyleft) or 'none'}"
    options = ["-r", "scripts/constraints.txt", "--no-deps", "--disable-pip", "--format", "json"]
    audit = subprocess.run([sys.executable, "-m", "pip_audit", *options], cwd=ROOT, capture_output=True, text=True)
    try:
        rows = json.loads(audit.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (audit.stderr.strip().splitlines() or ["no answer"])[-1]
        return True, f"{text}; pip-audit did not run ({reason[:80]})"
    found = [row["name"] for row in rows if row.get("vulns")]
    asked = sum("skip_reason" not in row for row in rows)
    return (
        not found,
        f"{text}; pip-audit: {asked} of {len(rows)} could be asked about, with known faults: {found or 'none'}",
    )


def markdown(table: dict[str, Any]) -> str:
    """The table for people."""
    lines = [line(["part", "result", "what was found", "s"]), line(["---"] * 4)]
    for part, row in table["parts"].items():
        lines.append(line([part, "passed" if row["passed"] else "FAILED", row["found"], str(row["seconds"])]))
    return "\n".join([*lines, "", f"`{table['command']}`; {table['machine']}; tiny random encoders."]) + "\n"


def main() -> None:
    """Runs the parts, prints and writes the table, anew after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="which (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="how much of each (default: all of it)")
    parser.add_argument("--results", type=Path, default=ROOT / "scripts" / "results", help="gets the table")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    wanted, training = arguments.parts.split(","), None
    # Parts that were run before, as much of each, keep their rows.
    command = "python scripts/faults.py" + ("" if arguments.share == 1 else f" --share {arguments.share:g}")
    kept = arguments.results / "faults.json"
    before = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    rows: dict[str, Any] = before["parts"] if before.get("command") == command else {}
    work = Path(tempfile.mkdtemp(prefix="liminal-faults-"))
    try:
        for part in wanted:
            started = time.monotonic()
            (work / part).mkdir()
            if part in ("kills", "disk", "damage"):
                training = training or Training(work / part, arguments.share)
                passed, text = getattr(training, part)()
            elif part == "packages":
                passed, text = packages()
            else:
                passed, text = {"soak": soak, "page": page}[part](work / part, arguments.share)
            rows[part] = {"passed": bool(passed), "found": text, "seconds": round(time.monotonic() - started)}
            print(f"{part}: {'passed' if passed else 'FAILED'}: {text}", flush=True)
            ordered = {name: rows[name] for name in PARTS if name in rows}
            table = {"command": command, "machine": hardware(), "parts": ordered}
            save(arguments.results, "faults", table, markdown(table))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(markdown(table))
    sys.exit(0 if all(rows[part]["passed"] for part in wanted) else 1)


if __name__ == "__main__":
    main()
