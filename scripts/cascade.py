"""A small model reads all, a large one what the small one is unsure of: what that gains for how much time, on EmoBank.

Requires liminal_hf with its extra benchmark, mpnet (`scripts/encoders.py` where there is no Hub), and EmoBank
(`LIMINAL_DATA_DIR`).

    python scripts/cascade.py
    python scripts/cascade.py --fit    first measures anew what a budget comes to, and writes it into the package

What decides, and the thresholds of the budgets, come from the development split; the test split is read once. Systems
take turns, and times are processor time of one thread. Only their ratios count: the machine had other work.
"""

import argparse
import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from research.report import Array, add_folders, interval, line, number, resample_counts, rounded, save, weighted_figures
from research.timing import take_turns

import liminal_hf
from liminal_hf.data import load_emobank
from liminal_hf.io import file_sha256, write_text
from liminal_hf.metrics import ccc, pearson
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.scoring.cascade import MEASURED, Cascade, doubt_quantiles, doubts, lengths_of, threshold_for
from liminal_hf.training.run_folder import hardware

PAIR = ("minilm", "mpnet")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
BUDGETS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
SPLITS = {"development": "validation", "test": "test"}
CLOSE = 0.005  # the target: so near to mpnet's r, in at most half of its time
TIMED = 200  # texts
ROUNDS = 3
BACKENDS = ("torch", "onnx")  # in 8 bits mpnet is not faithful enough to be exported
DRAWS = 20  # of a random choice
CHOSEN = "mean uncertainty / length"


class Split:
    """A split with what both models say of it."""

    def __init__(self, tables: list[pa.Table], texts: list[str], labels: Array, cascade: Cascade) -> None:
        self.small_share = cascade.small_share
        self.labels, self.lengths = labels, lengths_of(texts).astype(np.float64)
        self.small, self.large = (columns(table, "") for table in tables)
        spread = np.array(cascade.config.label_std)
        self.relative = columns(tables[0], "uncertainty_") / spread
        self.extreme = np.abs(self.small) / spread
        self.in_domain = tables[0]["in_domain"].to_numpy().astype(np.float64)
        self.doubts = doubts(tables[0], texts, cascade.config)
        errors = [(self.mixed(np.full(len(texts), again)) - labels) ** 2 for again in (False, True)]
        self.gain = ((errors[0] - errors[1]) / spread**2).sum(axis=1)

    def deciders(self) -> dict[str, Array]:
        """`(rows,)` for each idea of what to read again first: the largest."""
        features = np.column_stack([self.relative, self.extreme, self.in_domain, np.log(self.lengths)])
        return {
            "mean uncertainty": self.relative.mean(axis=1),
            "uncertainty of pleasure": self.relative[:, 0],
            "largest uncertainty": self.relative.max(axis=1),
            "unlike the training texts (1 - in_domain)": 1 - self.in_domain,
            "far from neutral": self.extreme.mean(axis=1),
            "ridge on all of these, for the true gain (10-fold)": out_of_fold(features, self.gain),
            CHOSEN: self.doubts,
            "mean uncertainty / square root of the length": self.relative.mean(axis=1) / np.sqrt(self.lengths),
            "the shortest first": -self.lengths,
        }

    def first(self, order: Array, share: float) -> np.ndarray:
        """The rows that hold this share of all characters, the largest `order` first."""
        rows = np.argsort(-order, kind="stable")
        within = np.cumsum(self.lengths[rows]) <= share * self.lengths.sum()
        chosen: np.ndarray = np.zeros(len(rows), dtype=bool)
        chosen[rows[within]] = True
        return chosen

    def mixed(self, again: np.ndarray, small_share: float | None = None) -> Array:
        """The predictions where some rows are read again, and the small model counts by a share in them."""
        share = self.small_share if small_share is None else small_share
        return np.where(again[:, None], share * self.small + (1 - share) * self.large, self.small)

    def at(self, thresholds: dict[float, float], small_share: float) -> list[Array]:
        """The predictions at each threshold."""
        return [self.mixed(self.doubts > threshold, small_share) for threshold in thresholds.values()]


def columns(table: pa.Table, prefix: str) -> Array:
    """`(rows, 3)` of a scored table."""
    return np.column_stack([table[f"{prefix}{name}"].to_numpy().astype(np.float64) for name in DIMENSIONS])


def out_of_fold(features: Array, wanted: Array, folds: int = 10, penalty: float = 50.0) -> Array:
    """Each row predicted by a ridge on the rows of the other folds."""
    scaled = np.column_stack([(features - features.mean(axis=0)) / features.std(axis=0), np.ones(len(wanted))])
    fold = np.random.default_rng(0).permutation(len(wanted)) % folds
    found = np.zeros(len(wanted))
    for number_of in range(folds):
        train = scaled[fold != number_of]
        inverse = np.linalg.inv(train.T @ train + penalty * np.eye(train.shape[1]))
        found[fold == number_of] = scaled[fold == number_of] @ (inverse @ (train.T @ wanted[fold != number_of]))
    return found


def mean_r(predictions: Array, labels: Array) -> float:
    """Mean Pearson r of the three dimensions."""
    return float(pearson(predictions, labels).mean())


def read(cascade: Cascade, texts: list[str], work: Path, split: str) -> list[pa.Table]:
    """What both models say of all texts; kept in the work folder."""
    tables = []
    for scorer in (cascade.small, cascade.large):
        kept = work / f"cascade-{split}-{scorer.identity[:16]}.parquet"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(scorer.score(texts), kept)
        tables.append(pq.read_table(kept))
    return tables


def fit(texts: list[str], table: pa.Table, rounds: int) -> dict[str, Any]:
    """What a budget comes to: the ratio of the models' times for each back end, and the quantiles of the doubt."""
    ratios = {}
    for backend in BACKENDS:
        cascade = Cascade(PAIR, 0.0, backend=backend, threads=1)
        systems = {"small": cascade.small, "large": cascade.large}
        seconds = take_turns({name: partial(it.score, texts[:TIMED]) for name, it in systems.items()}, rounds)
        ratios[backend] = round(float(np.median(np.divide(seconds["large"], seconds["small"]))), 2)
    quantiles = doubt_quantiles(doubts(table, texts, cascade.config), lengths_of(texts))
    weights = [file_sha256(Path(liminal_hf.checkpoints[name]) / "model.safetensors") for name in PAIR]
    return {"pair": PAIR, "weights": weights, "ratio": ratios, "quantiles": [round(value, 4) for value in quantiles]}


def timed(cascade: Cascade, texts: list[str], thresholds: dict[float, float], rounds: int) -> dict[str, Any]:
    """Texts per second and time in times of the small model's, all systems in turns."""

    def at(threshold: float) -> None:
        cascade.threshold = threshold
        cascade.score(texts)

    systems = {"small": partial(cascade.small.score, texts), "large": partial(cascade.large.score, texts)}
    cascades = {str(budget): partial(at, threshold) for budget, threshold in thresholds.items()}
    seconds = take_turns({**systems, **cascades}, rounds)
    return {
        name: {
            "texts per second": len(texts) / float(np.median(values)),
            "time": float(np.median(np.divide(values, seconds["small"]))),
        }
        for name, values in seconds.items()
    }


def measured(split: Split, thresholds: dict[float, float], resamples: int) -> dict[str, Any]:
    """Agreement of both models, of the cascade, and of what it is compared with, by budget."""
    weights = resample_counts(len(split.labels), resamples)
    drawn: dict[str, Array] = {}

    def figures(predictions: Array) -> dict[str, Any]:
        r, agreement = pearson(predictions, split.labels), ccc(predictions, split.labels)
        return {"r": r.tolist(), "mean r": float(r.mean()), "mean CCC": float(agreement.mean())}

    def resampled(predictions: Array) -> Array:
        return weighted_figures(predictions, split.labels, weights)["r"].mean(axis=1)

    def gap(here: float, there: float, draws: Array) -> dict[str, float]:
        low, high = np.percentile(draws, [2.5, 97.5])
        return {"mean": here - there, "low": float(low), "high": float(high)}

    found: dict[str, Any] = {"rows": len(split.labels)}
    for name, predictions in zip(PAIR, (split.small, split.large), strict=True):
        found[name] = figures(predictions)
        drawn[name] = resampled(predictions)
    generator = np.random.default_rng(0)
    found["budgets"] = {}
    for budget, threshold in thresholds.items():
        again = split.doubts > threshold
        share = float(split.lengths[again].sum() / split.lengths.sum())
        cascade = figures(split.mixed(again))
        randoms = [split.mixed(split.first(generator.random(len(again)), share)) for _ in range(DRAWS)]
        random_r = float(np.mean([mean_r(predictions, split.labels) for predictions in randoms]))
        of_cascade = resampled(split.mixed(again))
        of_random = np.mean([resampled(predictions) for predictions in randoms], axis=0)
        found["budgets"][str(budget)] = {
            **cascade,
            "without a mean": mean_r(split.mixed(again, 0.0), split.labels),
            "rows read again": float(again.mean()),
            "characters read again": share,
            "random": random_r,
            "shortest": mean_r(split.mixed(split.first(-split.lengths, share)), split.labels),
            "oracle": mean_r(split.mixed(split.first(split.gain / split.lengths, share)), split.labels),
            "to mpnet": gap(cascade["mean r"], found["mpnet"]["mean r"], of_cascade - drawn["mpnet"]),
            "to random": gap(cascade["mean r"], random_r, of_cascade - of_random),
        }
    return found


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    times, ratio = report["times"], report["times"]["large"]["time"]
    heads = ["test split", "r V / A / D", "mean r", "CCC", "mpnet's row alone", "random choice", "shortest first",
             "oracle", "minus mpnet", "minus random", "read again", "time", "texts per second"]  # fmt: skip
    lines = [line(heads), line(["---"] * len(heads))]

    def row(name: str, found: dict[str, Any], time: dict[str, float], *more: str) -> str:
        threes = " / ".join(number(value) for value in found["r"])
        ends = [f"{time['time']:.2f}", f"{time['texts per second']:.0f}"]
        return line([name, threes, number(found["mean r"]), number(found["mean CCC"]), *more, *ends])

    test = report["test"]
    for name, system in zip(PAIR, ("small", "large"), strict=True):
        lines.append(row(f"{name} alone", test[name], times[system], *[""] * 7))
    for budget, found in test["budgets"].items():
        baselines = [number(found[name]) for name in ("without a mean", "random", "shortest", "oracle")]
        gaps = [interval(found[name]) for name in ("to mpnet", "to random")]
        cells = [*baselines, *gaps, f"{found['rows read again']:.0%}"]
        lines.append(row(f"budget {float(budget):g}", found, times[budget], *cells))
    heads = ["what is read again first (development split, mean r)", *(f"budget {budget:g}" for budget in BUDGETS)]
    lines += ["", line(heads), line(["---"] * len(heads))]
    for name, values in report["deciders"].items():
        lines.append(line([name + (" (chosen)" if name == CHOSEN else ""), *map(number, values)]))
    heads = [
        "share of minilm in what both read (development split, mean r, CCC)",
        *(f"budget {budget:g}" for budget in BUDGETS),
    ]
    more = ["", line(heads), line(["---"] * len(heads))]
    for name, found in report["shares"].items():
        chosen = " (chosen)" if float(name) == report["share"] else ""
        pairs = zip(found["r"], found["ccc"], strict=True)
        more.append(line([f"{float(name):g}{chosen}", *(f"{number(r)}, {number(c)}" for r, c in pairs)]))
    dev = report["development"]
    rest = {"a random choice": "random", "oracle: the largest true gain / length": "oracle"}
    for name, key in rest.items():
        lines.append(line([name, *(number(found[key]) for found in dev["budgets"].values())]))
    lines += more
    half = [name for name in dev["budgets"] if times[name]["time"] <= ratio / 2]
    verdict = "No budget keeps to half of mpnet's time."
    if half:
        gaps = [interval(part["budgets"][half[-1]]["to mpnet"]) for part in (dev, test)]
        met = test["budgets"][half[-1]]["to mpnet"]["mean"] >= -CLOSE
        at = times[half[-1]]["time"]
        verdict = (
            f"Target (mean r within {number(CLOSE)} of mpnet's, in at most half of its time): "
            f"**{'met' if met else 'missed'}**. With budget {float(half[-1]):g} it takes "
            f"{at / ratio:.0%} of mpnet's time, and differs from it by {gaps[0]} on the development "
            f"split and {gaps[1]} on test."
        )
    small, large = (number(dev[name]["mean r"]) for name in PAIR)
    ratios = ", ".join(f"{name} {value:g}" for name, value in report["ratio"].items())
    lines += [
        "",
        verdict,
        "",
        f"minilm alone on the development split: {small}, mpnet {large}. mpnet takes so many times as long as minilm: "
        f"{ratios} (stored in the package).",
        "",
        f"`{report['command']}`; {report['machine']}, other work beside it; {TIMED} texts of the development split, "
        f"{report['rounds']} rounds in which all systems take turns, processor time of one thread. Intervals: 95%, "
        "bootstrap over sentences.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure the cascade of the shipped checkpoints.")
    parser.add_argument("--fit", action="store_true", help="measure what a budget comes to, for the package")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="in which the systems take turns (%(default)s)")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (%(default)s)")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    corpus = load_emobank()
    cascade = Cascade(PAIR, 0.0, threads=1)
    texts = {name: list(corpus[split]["text"]) for name, split in SPLITS.items()}
    tables = {name: read(cascade, texts[name], given.work, name) for name in SPLITS}
    if given.fit:
        write_text(MEASURED, json.dumps(fit(texts["development"], tables["development"][0], given.rounds)) + "\n")
    package = json.loads(MEASURED.read_text(encoding="utf-8"))
    ratio = package["ratio"]["torch"]
    thresholds = {budget: threshold_for(budget, ratio, package["quantiles"]) for budget in BUDGETS}
    splits = {
        name: Split(tables[name], texts[name], np.array(corpus[split]["labels"]), cascade)
        for name, split in SPLITS.items()
    }
    dev = splits["development"]
    report = rounded(
        {
            "command": "python scripts/cascade.py",
            "machine": hardware(),
            "rounds": given.rounds,
            "ratio": package["ratio"],
            "share": cascade.small_share,
            "deciders": {
                name: [mean_r(dev.mixed(dev.first(order, (budget - 1) / ratio)), dev.labels) for budget in BUDGETS]
                for name, order in dev.deciders().items()
            },
            "shares": {
                str(share): {
                    "r": [mean_r(predictions, dev.labels) for predictions in dev.at(thresholds, share)],
                    "ccc": [float(ccc(predictions, dev.labels).mean()) for predictions in dev.at(thresholds, share)],
                }
                for share in SHARES
            },
            **{name: measured(split, thresholds, given.resamples) for name, split in splits.items()},
            "times": timed(cascade, texts["development"][:TIMED], thresholds, given.rounds),
        }
    )
    save(given.results, "cascade", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
