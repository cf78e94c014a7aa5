"""Reading a text only as deep as it needs: what early exits gain and cost, on EmoBank.

Requires liminal_hf with the extras `benchmark`, `onnx` and `plot`, EmoBank (`LIMINAL_DATA_DIR`), and finished runs:

    liminal train hub_configs/minilm-emobank-depth.yaml -o runs/minilm-emobank-depth-0
    liminal train hub_configs/mpnet-emobank-depth.yaml -o runs/mpnet-emobank-depth-0
    liminal train hub_configs/minilm3-emobank-finetuned.yaml -o runs/minilm3-emobank-finetuned-0
    liminal train hub_configs/minilm3-emobank-distilled.yaml -o runs/minilm3-emobank-distilled-0
    python scripts/exits.py

Rules and thresholds come from the development split; the test split is read once. Systems take turns, and times are
processor time of one thread. Only their ratios count: the machine had other work.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from research import exits
from research.report import (
    add_folders,
    interval,
    line,
    mean_r,
    number,
    resample_counts,
    rounded,
    save,
    weighted_figures,
)
from research.timing import take_turns
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from liminal_hf.data import load_emobank
from liminal_hf.metrics import ccc, pearson
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.scoring import Scorer
from liminal_hf.scoring.scorer import load
from liminal_hf.training.run_folder import hardware

MODELS = {"MiniLM": "minilm-emobank-depth-0", "mpnet": "mpnet-emobank-depth-0"}
SPLITS = {"development": "validation", "test": "test"}
SHARES = (0.5, 0.6, 0.7, 0.8, 0.9)  # of the layers, at the five thresholds
CLOSE, FASTER = 0.005, 1.5  # the target
SINGLE, BULK = 24, 128  # texts that are timed
ROUNDS = 3
SMALL = "3 layers of MiniLM"
STUDENTS = {SMALL: "minilm3-emobank-finetuned-0", f"{SMALL}, distilled": "minilm3-emobank-distilled-0"}
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
PLAIN = "stock pipeline"
IN_8_BITS = ", int8"
LINES = (
    ("fixed", "", "o-", "fixed depth"),
    ("exits", "", "s--", "RINSE stops"),
    ("exits", IN_8_BITS, "D:", "RINSE stops, in 8 bits"),
)
Others = dict[str, tuple[Path, Scorer]]


def agreement(predictions: exits.Array, labels: exits.Array) -> dict[str, Any]:
    """Pearson r and CCC."""
    r = pearson(predictions, labels)
    return {"r": r.tolist(), "mean r": float(r.mean()), "mean CCC": float(ccc(predictions, labels).mean())}


def systems_of(dev: exits.Reading, test: exits.Reading) -> dict[str, Any]:
    """Depths on both splits of each system: fixed ones, and RINSE's at five thresholds of the development split."""
    found: dict[str, Any] = {}
    for step, layer in enumerate(dev.layers, start=1):
        last = step == len(dev.layers)
        name = "full depth" if last else f"fixed: {layer:.0f} layers"
        found[name] = {"steps": step, "dev": np.full(len(dev.labels), step), "test": np.full(len(test.labels), step)}
    for share in SHARES:
        threshold = exits.threshold_at(dev, dev.gains, share * dev.layers[-1])
        depths = {"dev": exits.stops(dev.gains, threshold), "test": exits.stops(test.gains, threshold)}
        found[f"exits: {share:.0%} of the layers"] = {"threshold": threshold, **depths}
    return found


def measured(reading: exits.Reading, systems: dict[str, Any], split: str, resamples: int) -> dict[str, Any]:
    """Agreement of each system, and its difference from full depth."""
    weights = resample_counts(len(reading.labels), resamples)

    def draws(depths: exits.Depths) -> exits.Array:
        return weighted_figures(reading.at(depths), reading.labels, weights)["r"].mean(axis=1)

    full = systems["full depth"][split]
    base, whole = draws(full), mean_r(reading.at(full), reading.labels)
    found = {}
    for name, system in systems.items():
        depths = system[split]
        low, high = np.percentile(draws(depths) - base, [2.5, 97.5])
        values = agreement(reading.at(depths), reading.labels)
        gap = {"mean": values["mean r"] - whole, "low": float(low), "high": float(high)}
        found[name] = {**values, "layers": reading.cost(depths), "to full": gap}
    return found


def plain_pipeline() -> Any:
    """transformers' own pipeline, with a linear head on MiniLM."""
    encoder = resolve_encoder(MINILM)[0]
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3).eval()
    options = {"top_k": None, "function_to_apply": "none", "truncation": True, "max_length": 128}
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    return pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu", **options)


def score_one(scorer: Scorer, text: str) -> None:
    """Reads one text."""
    scorer.score([text])


class StagedScorer(Scorer):
    """A scorer in 8 bits that reads no deeper than a threshold of its own asks for; `depths` has those of its texts."""

    def __init__(self, like: Scorer, threshold: float) -> None:
        """With the stages of a scorer whose model stops early."""
        self.__dict__.update(like.__dict__)
        self.depths: list[exits.Depths] = []
        stages: Any = like._run

        def run(inputs: Any) -> Any:
            output = stages.__self__.stages.run(inputs, threshold)
            self.depths.append(output["depth"])
            return output

        self._run = run


def time_systems(
    model: Any, tokenizer: Any, systems: dict[str, Any], texts: list[str], rounds: int, more: Others
) -> dict[str, Any]:
    """Texts per second of each system, one at a time (the pipeline) and many (`Scorer`), all in turns."""
    pad = pipeline("pad-regression", model=model, tokenizer=tokenizer, device="cpu")
    scorer = Scorer(model, tokenizer=tokenizer, threads=1)
    forward = model.forward

    def under(system: dict[str, Any], run: Callable[[], Any]) -> None:
        steps = system.get("steps")
        model.config.exit_threshold = system.get("threshold")
        if steps is not None and steps < model.config.num_outer_steps:
            model.forward = partial(forward, num_outer_steps=steps)
        try:
            run()
        finally:
            model.forward, model.config.exit_threshold = forward, None

    def one_by_one(read: Callable[[str], Any]) -> None:
        for text in texts[:SINGLE]:
            read(text)

    many = texts[:BULK]
    single: dict[str, Callable[[], Any]] = {
        name: partial(under, system, partial(one_by_one, pad)) for name, system in systems.items()
    }
    bulk: dict[str, Callable[[], Any]] = {
        name: partial(under, system, partial(scorer.score, many)) for name, system in systems.items()
    }
    for name, (folder, other) in more.items():
        is_torch = other.backend == "torch"
        again = pipeline("pad-regression", model=str(folder), device="cpu") if is_torch else partial(score_one, other)
        single[name] = partial(one_by_one, again)
        bulk[name] = partial(other.score, many)
    if model.config.encoder_name_or_path == MINILM:
        single[PLAIN] = partial(one_by_one, plain_pipeline())
    found: dict[str, Any] = {}
    for kind, runs, count in (("single", single, SINGLE), ("bulk", bulk, BULK)):
        seconds = take_turns(runs, rounds)
        for name, values in seconds.items():
            found.setdefault(name, {})[kind] = {
                "texts per second": count / float(np.median(values)),
                "times faster": float(np.median(np.divide(seconds["full depth"], values))),
            }
    return found


def systems_table(name: str, found: dict[str, Any]) -> list[str]:
    """Agreement and speed of each system on test."""
    heads = [name, "layers", "r V / A / D", "mean r", "CCC", "minus full depth", "dev mean r", "dev minus full depth",
             "one text at a time, times faster", "many texts, times faster", "texts per second, one at a time",
             "texts per second, many"]  # fmt: skip
    lines = [line(heads), line(["---"] * len(heads))]
    for system, test in found["test"].items():
        dev, times = found["development"].get(system), found["times"].get(system)
        threes = " / ".join(number(value) for value in test["r"])
        gap = "" if system == "full depth" else interval(test["to full"])
        cells = [system, f"{test['layers']:.2f}", threes, number(test["mean r"]), number(test["mean CCC"]), gap]
        cells += ["", ""] if dev is None else [number(dev["mean r"]), interval(dev["to full"])]
        for what, places in (("times faster", 2), ("texts per second", 0)):
            cells += [f"{times[kind][what]:.{places}f}" if times else "" for kind in ("single", "bulk")]
        lines.append(line(cells))
    return lines


def verdict(name: str, found: dict[str, Any], kind: str, what: str) -> str:
    """Whether the target is met: the system is chosen on the development split."""
    times = {
        system: each
        for system, each in found["times"].items()
        if system.startswith(("exits", "fixed")) and not system.endswith(IN_8_BITS)
    }
    fast = [system for system, each in times.items() if each[kind]["times faster"] >= FASTER]
    said = f"{name}, {what}: target (at least {FASTER:g} times as fast, with mean r within {number(CLOSE)}): "
    if not fast:
        return said + "**missed**; nothing is so fast."
    best = max(fast, key=lambda system: found["development"][system]["mean r"])
    gaps = {split: found[split][best]["to full"] for split in SPLITS}
    met = [split for split, gap in gaps.items() if gap["mean"] >= -CLOSE]
    result = "met" if len(met) == len(gaps) else f"met on {met[0]}, missed on the other split" if met else "missed"
    return (
        f"{said}**{result}** by the best of those on the development split, {best}: "
        f"{times[best][kind]['times faster']:.2f} times as fast, {interval(gaps['development'])} there and "
        f"{interval(gaps['test'])} on test."
    )


def in_8_bits(found: dict[str, Any]) -> str:
    """What exits are worth beside the whole model where both compute in 8 bits."""
    base = f"full depth{IN_8_BITS}"
    said = []
    for system in (name for name in found["times"] if name.startswith("exits") and name.endswith(IN_8_BITS)):
        ratios = [
            found["times"][system][kind]["texts per second"] / found["times"][base][kind]["texts per second"]
            for kind in ("single", "bulk")
        ]
        gap = found["test"][system]["mean r"] - found["test"][base]["mean r"]
        said.append(
            f"{system.removesuffix(IN_8_BITS)} {ratios[0]:.2f} and {ratios[1]:.2f} ({number(gap, sign=True)} in r)"
        )
    return f"In 8 bits, times as fast as full depth in 8 bits, one text at a time and many: {', '.join(said)}."


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines: list[str] = []
    for name, found in report["models"].items():
        lines += [*systems_table(name, found), ""]
        shares = [f"{share:.0%} of the layers" for share in SHARES]
        heads = [f"when to stop, {name} (development split, mean r)", *shares]
        lines += [line(heads), line(["---"] * len(heads))]
        for rule in found["rules"][0]:
            chosen = " (best of those that know no label)" if rule == found["rule"] else ""
            lines.append(line([rule + chosen, *(number(values[rule]) for values in found["rules"])]))
        kinds = {"single": "one text at a time", "bulk": "many texts"}
        lines += ["", *(verdict(name, found, kind, what) + "\n" for kind, what in kinds.items())]
        if PLAIN in found["times"]:
            base = found["times"][PLAIN]["single"]["texts per second"]
            faster = {
                system: times["single"]["texts per second"] / base
                for system, times in found["times"].items()
                if system.startswith(("full depth", "exits"))
            }
            said = ", ".join(f"{system} {value:.2f}" for system, value in faster.items())
            lines += [f"One text at a time, times as fast as the stock pipeline with a linear head: {said}.", ""]
        if f"full depth{IN_8_BITS}" in found["times"]:
            lines += ["", in_8_bits(found), ""]
    rounds = report["rounds"]
    lines.append(
        f"`{report['command']}`; {report['machine']}, other work beside it; {SINGLE} texts one at a time through the "
        f"pipeline and {BULK} through `Scorer`, of the development split, {rounds} rounds in which all systems of a "
        "model take turns, processor time of one thread. Exits of a share of the layers: the threshold at which that "
        "share is read on the development split. Intervals: 95%, bootstrap over sentences. One seed."
    )
    return "\n".join(lines) + "\n"


def draw(report: dict[str, Any], path: Path) -> None:
    """Mean r on test against the time of a text, with many texts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(report["models"]), squeeze=False)[0]
    for axes, (name, found) in zip(panels, report["models"].items(), strict=True):
        for start, end, style, what in LINES:
            rows = [
                system
                for system in found["test"]
                if system.startswith((start, "full depth")) and system.endswith(IN_8_BITS) == bool(end)
            ]
            if len(rows) < 3:
                continue
            points = sorted(
                (1e3 / found["times"][system]["bulk"]["texts per second"], found["test"][system]["mean r"])
                for system in rows
            )
            axes.plot(*zip(*points, strict=True), style, label=what, markersize=4)
        others = [system for system in found["test"] if not system.startswith(("fixed", "exits", "full depth"))]
        for marker, system in zip("^v<>", others, strict=False):
            point = 1e3 / found["times"][system]["bulk"]["texts per second"], found["test"][system]["mean r"]
            axes.plot(*point, marker, label=system, linestyle="none")
        axes.set(title=name, xlabel="milliseconds per text, many texts", ylabel="mean r on EmoBank's test split")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def measure(name: str, folder: Path, more: Others, rounds: int, resamples: int) -> dict[str, Any]:
    """All that is reported of one model."""
    corpus = load_emobank()
    model, tokenizer = load(folder)
    texts = {split: list(corpus[key]["text"]) for split, key in SPLITS.items()}
    labels = {split: np.array(corpus[key]["labels"][:]) for split, key in SPLITS.items()}
    readings = {split: exits.read(model, tokenizer, texts[split], labels[split]) for split in SPLITS}
    dev = readings["development"]
    rules = [exits.compare(dev, share * dev.layers[-1]) for share in SHARES]
    ours = [rule for rule in rules[0] if not rule.startswith("oracle")]
    rule = max(ours, key=lambda each: sum(values[each] for values in rules))
    systems = systems_of(dev, readings["test"])
    if more:
        model.config.exit_threshold = 0.0  # any: the stages are the same
        in_stages = Scorer(model, "int8", tokenizer=tokenizer, threads=1)
        model.config.exit_threshold = None
        for key in [key for key in systems if key.startswith("exits")]:
            more[f"{key}{IN_8_BITS}"] = folder, StagedScorer(in_stages, systems[key]["threshold"])
    found: dict[str, Any] = {
        "rules": rules,
        "rule": rule,
        "thresholds": {key: system["threshold"] for key, system in systems.items() if "threshold" in system},
        "development": measured(dev, systems, "dev", resamples),
        "test": measured(readings["test"], systems, "test", resamples),
    }
    for other, (_, scorer) in more.items():
        tables = {split: scorer.score(texts[split]) for split in SPLITS}
        for split, table in tables.items():
            predictions = np.column_stack([table[target].to_numpy() for target in model.config.targets])
            full = readings[split].at(systems["full depth"]["dev" if split == "development" else "test"])
            weights = resample_counts(len(predictions), resamples)
            draws = [weighted_figures(each, labels[split], weights)["r"].mean(axis=1) for each in (predictions, full)]
            low, high = np.percentile(draws[0] - draws[1], [2.5, 97.5])
            values = agreement(predictions, labels[split])
            gap = {"mean": values["mean r"] - mean_r(full, labels[split]), "low": float(low), "high": float(high)}
            depths = np.concatenate(scorer.depths[-len(predictions) :]) if isinstance(scorer, StagedScorer) else None
            layers = scorer.config.num_hidden_layers if depths is None else readings[split].cost(depths)
            found[split][other] = {**values, "layers": layers, "to full": gap}
    found["times"] = time_systems(model, tokenizer, systems, texts["development"], rounds, more)
    print(name, "measured", flush=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure early exits of the runs of head v8.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (%(default)s)")
    parser.add_argument("--only", help=f"one of {', '.join(MODELS)}; the other stays as it was measured")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="in which the systems take turns (%(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (%(default)s)")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    models: dict[str, Any] = {}
    kept = given.results / "exits.json"
    if given.only and kept.is_file():
        models = json.loads(kept.read_text(encoding="utf-8"))["models"]
    for name, run in MODELS.items():
        folder = given.runs / run / "model"
        if not folder.is_dir() or given.only not in (None, name):
            continue
        more: Others = {}
        if name == "MiniLM":
            more[f"full depth{IN_8_BITS}"] = folder, Scorer(folder, "int8", threads=1)
            for title, trained in STUDENTS.items():
                student = given.runs / trained / "model"
                if student.is_dir():
                    more[title] = student, Scorer(student, threads=1)
                    more[f"{title}{IN_8_BITS}"] = student, Scorer(student, "int8", threads=1)
        models[name] = measure(name, folder, more, given.rounds, given.resamples)
    if not models:
        parser.error(
            f"no run of {', '.join(MODELS.values())} is in {given.runs}; the head of this file says how to train"
        )
    report = rounded(
        {"command": "python scripts/exits.py", "machine": hardware(), "rounds": given.rounds, "models": models}
    )
    save(given.results, "exits", report, markdown(report))
    draw(report, given.results / "exits.png")
    print(markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
