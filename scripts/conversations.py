"""What a memory is worth in conversations: MELD, with and without context, and forecasts of a turn not yet read.

Requires liminal_hf with its benchmark extra (scikit-learn) and MELD (`LIMINAL_DATA_DIR`). MELD is for evaluation: what
is trained here is thrown away.

    python scripts/conversations.py

The encoder is frozen and runs once (`--work` keeps its states and the predictions of each system and seed, so that the
command goes on where it was stopped; after a change of the code, delete that folder). Everything is chosen on the
development split, the test split is read once per trained model. Writes conversations.json and the table of
conversations.md into `--results`.
"""

import argparse
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from research.context import ConversationTraining, Turns, read_turns, train_conversations
from research.meld import EMOTION_PAD, load_meld
from research.metrics import paired_bootstrap
from research.report import add_folders, interval, line, number, save, with_sd
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from transformers import AutoTokenizer

from liminal_hf.data import pooled_dataset
from liminal_hf.metrics import Array, ccc, mae, mean_pearson, pearson
from liminal_hf.modeling.configuration_liminal import MISSING_LABEL, LiminalConfig
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression, LiminalModel

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
SPLITS = ("train", "validation", "test")
ALPHAS = (100.0, 300.0, 1000.0, 3000.0, 10000.0)
RESAMPLES = 1000
OVER_TURNS = "ours minus this, 95% over turns"


@dataclass
class System:
    """A model to train: what it reads, whose turns share a memory, and its head."""

    name: str
    reads: str = "turn"
    shared_by: str = "nothing"
    config: dict[str, Any] = field(default_factory=dict)

    def training(self, epochs: int, seed: int) -> ConversationTraining:
        """128 turns an update for all; without context they are 128 conversations of one turn."""
        lanes, window = (128, 1) if self.shared_by == "nothing" else (64, 2)
        return ConversationTraining(
            epochs=epochs,
            learning_rate=2e-3,
            lanes=lanes,
            window=window,
            forget=0.0 if window == 1 else 0.05,
            seed=seed,
        )


# Two steps instead of five: on states of a frozen encoder they are as good and train in less than half the time.
OURS = {"head": "v7", "num_outer_steps": 2}
PUBLISHED = {"head": "v6", "num_outer_steps": 5}
NO_MEMORY = System("no memory", config={"soul_kernel": False})
SYSTEMS = [
    NO_MEMORY,
    System("previous turn's text in front, one input", reads="joined", config={"soul_kernel": False}),
    System("previous turn's states beside the turn's", reads="both", config={"soul_kernel": False}),
    System("SoulKernel as published (v6), one memory a dialogue", shared_by="dialogue", config=PUBLISHED),
    System("SoulKernel as ours (v7), one memory a speaker", shared_by="speaker"),
    System("SoulKernel as ours (v7), one memory a dialogue", shared_by="dialogue"),
]
SHRINK = {"speaker": "shrink to the speaker's mean so far", "dialogue": "shrink to the dialogue's mean so far"}


def previous_rows(split: Dataset) -> list[int | None]:
    """The row of the turn before, None where a dialogue begins."""
    dialogues = split["dialogue_id"][:]
    return [row - 1 if row and dialogues[row - 1] == dialogue else None for row, dialogue in enumerate(dialogues)]


def pooled_states(data: DatasetDict, cache: Path) -> dict[str, dict[str, torch.Tensor]]:
    """States of MiniLM, the means of all 7 layers, by what is read ("turn", "joined", "both") and split."""
    source, revision = resolve_encoder(ENCODER)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    encoder = LiminalModel.from_encoder_pretrained(ENCODER, head="linear", pooled_layers="all")
    found: dict[str, dict[str, torch.Tensor]] = {"turn": {}, "joined": {}, "both": {}}
    for name, split in data.items():
        texts, before = split["text"][:], previous_rows(split)
        joined = [text if row is None else f"{texts[row]} {text}" for row, text in zip(before, texts, strict=True)]
        for reads, some in (("turn", texts), ("joined", joined)):
            rows = pooled_dataset(
                encoder, tokenizer, Dataset.from_dict({"text": some}), max_length=128, cache_dir=cache
            )
            found[reads][str(name)] = torch.as_tensor(rows.with_format("numpy")["pooled_embeds"][:])
        states = found["turn"][str(name)]
        past = torch.stack([torch.zeros_like(states[0]) if row is None else states[row] for row in before])
        found["both"][str(name)] = torch.cat([states, past], dim=1)
    return found


def shared(split: Dataset, by: str) -> list[Hashable]:
    """What each turn shares its memory with."""
    if by == "nothing":
        return list(range(len(split)))
    dialogues = split["dialogue_id"][:]
    return list(zip(dialogues, split["speaker"][:], strict=True)) if by == "speaker" else list(dialogues)


def run(
    system: System, seed: int, epochs: int, states: dict[str, torch.Tensor], data: DatasetDict, labels: dict[str, Array]
) -> dict[str, Array]:
    """Trains one system; predictions on validation and test, and the memory before each turn on all splits."""
    turns = {
        name: Turns.grouped(
            states[name], torch.tensor(labels[name], dtype=torch.float32), shared(data[name], system.shared_by)
        )
        for name in SPLITS
    }
    train = turns["train"]
    torch.manual_seed(seed)
    known = train.labels[train.labels.ne(MISSING_LABEL).all(1)]
    config = LiminalConfig(
        pooled_size=train.pooled.shape[1],
        pooled_scale=float(train.pooled.square().mean().rsqrt()),
        label_mean=known.mean(0).tolist(),
        label_std=known.std(0).tolist(),
        **{"head_dropout": 0.5, **OURS, **system.config},
    )
    model = LiminalForPADRegression(config)
    start = time.process_time()
    history = train_conversations(model, train, turns["validation"], system.training(epochs, seed))
    kept = {
        "seconds": np.array([time.process_time() - start]),
        "dev": np.array([entry["pearson_mean"] for entry in history]),
        "parameters": np.array([model.num_parameters()]),
    }
    for name, part in turns.items():
        reading = read_turns(model, part)
        back = torch.argsort(part.rows)
        kept[f"logits.{name}"] = reading.logits[back].double().numpy()
        if reading.before is not None:
            kept[f"before.{name}"] = reading.before[back].numpy()
    return kept


def mean_so_far(values: Array, keys: Sequence[Hashable]) -> tuple[Array, Array]:
    """Mean of the earlier values with the same key, and how many there are; zeros where there are none."""
    means, counts = np.zeros_like(values), np.zeros(len(values))
    totals: dict[Hashable, Array] = {}
    numbers: dict[Hashable, int] = {}
    for row, key in enumerate(keys):
        if numbers.get(key):
            means[row], counts[row] = totals[key] / numbers[key], numbers[key]
        totals[key] = totals.get(key, 0) + values[row]
        numbers[key] = numbers.get(key, 0) + 1
    return means, counts


def shrink(logits: dict[str, Array], labels: dict[str, Array], data: DatasetDict, by: str) -> Array:
    """Test predictions moved towards the mean of the earlier ones; how far is fitted on validation, per dimension."""
    features = {}
    for name in ("validation", "test"):
        means, counts = mean_so_far(logits[name], shared(data[name], by))
        known = (counts / (counts + 1))[:, None]
        features[name] = (logits[name], known * (means - logits[name]))
    moved = np.empty_like(logits["test"])
    for dimension in range(3):
        columns = [np.stack([part[:, dimension] for part in features[name]], axis=1) for name in ("validation", "test")]
        design, test = (np.column_stack([np.ones(len(part)), part]) for part in columns)
        gold = labels["validation"][:, dimension]
        known = gold != MISSING_LABEL
        weights = np.linalg.lstsq(design[known], gold[known], rcond=None)[0]
        moved[:, dimension] = test @ weights
    return moved


def ridge(features: dict[str, Array], labels: dict[str, Array], rows: dict[str, Array]) -> Array:
    """Test predictions of a ridge regression on some rows; alpha is chosen on validation."""
    best, found = -np.inf, np.empty(0)
    for alpha in ALPHAS:
        model = Ridge(alpha=alpha).fit(features["train"][rows["train"]], labels["train"][rows["train"]])
        dev = model.predict(features["validation"][rows["validation"]])
        score = mean_pearson(dev, labels["validation"][rows["validation"]])
        if score > best:
            best, found = score, model.predict(features["test"][rows["test"]])
    return found


def difference(ours: list[Array], other: list[Array], labels: Array, dialogues: Array) -> dict[str, list[float]]:
    """Mean r of `ours` minus that of `other` (one array per seed), with intervals over turns and over dialogues."""
    number = max(len(ours), len(other))
    left = np.hstack(ours * (number // len(ours)))
    right = np.hstack(other * (number // len(other)))
    gold = np.tile(labels, number)
    turns = paired_bootstrap(left, right, gold, n=RESAMPLES)
    groups = [np.flatnonzero(dialogues == dialogue) for dialogue in np.unique(dialogues)]
    generator = np.random.default_rng(0)
    figures = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([groups[index] for index in generator.integers(len(groups), size=len(groups))])
        figures.append(mean_pearson(left[rows], gold[rows]) - mean_pearson(right[rows], gold[rows]))
    low, high = np.percentile(figures, [2.5, 97.5])
    return {"turns": [turns.estimate, turns.low, turns.high], "dialogues": [turns.estimate, low, high]}


def per_emotion(predictions: list[Array], labels: Array, emotions: Array) -> dict[str, dict[str, float]]:
    """Per emotion, mean of the seeds: the mean absolute error, and how well nearness to its point tells it (AUC)."""
    found = {}
    for emotion, point in EMOTION_PAD.items():
        here = emotions == emotion
        errors = [np.abs(seed[here] - labels[here]).mean() for seed in predictions]
        areas = [roc_auc_score(here, -np.linalg.norm(seed - np.array(point), axis=1)) for seed in predictions]
        found[emotion] = {
            "turns": int(here.sum()), "mae": float(np.mean(errors)), "auc": float(np.mean(areas))
        }  # fmt: skip
    figures = list(found.values())
    found["macro"] = {key: float(np.mean([entry[key] for entry in figures])) for key in ("mae", "auc")}
    return found


def summary(predictions: list[Array], labels: Array, emotions: Array | None = None) -> dict[str, Any]:
    """The figures of one system over its seeds."""
    scores = [mean_pearson(seed, labels) for seed in predictions]
    found: dict[str, Any] = {
        "r": np.mean([pearson(seed, labels) for seed in predictions], axis=0).tolist(),
        "r_mean": float(np.mean(scores)),
        "r_sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
    }
    if emotions is not None:
        found["ccc_mean"] = float(np.mean([ccc(seed, labels) for seed in predictions]))
        found["mae_mean"] = float(np.mean([mae(seed, labels) for seed in predictions]))
        found["emotions"] = per_emotion(predictions, labels, emotions)
    return found


def forecasts(
    results: dict[str, list[dict[str, Array]]],
    states: dict[str, torch.Tensor],
    data: DatasetDict,
    labels: dict[str, Array],
) -> tuple[dict[str, list[Array]], dict[str, Array]]:
    """Test predictions of each turn from those before it, and the rows that have one before."""
    before = {name: previous_rows(data[name]) for name in SPLITS}
    rows = {name: np.array([row for row, past in enumerate(before[name]) if past is not None]) for name in SPLITS}
    found: dict[str, list[Array]] = {}
    for by in ("dialogue", "speaker"):
        found[f"mean of the {by}'s predictions so far"] = [
            mean_so_far(result["logits.test"], shared(data["test"], by))[0][rows["test"]]
            for result in results[NO_MEMORY.name]
        ]
    found["the previous turn's prediction"] = [
        result["logits.test"][rows["test"] - 1] for result in results[NO_MEMORY.name]
    ]
    past = {name: states[name].numpy()[np.maximum(np.arange(len(states[name])) - 1, 0)] for name in SPLITS}
    found["ridge on the previous turn's states"] = [ridge(past, labels, rows)]
    running = {name: mean_so_far(states[name].double().numpy(), shared(data[name], "dialogue"))[0] for name in SPLITS}
    found["ridge on the previous turn's states and the dialogue's mean"] = [
        ridge({name: np.hstack([past[name], running[name]]) for name in SPLITS}, labels, rows)
    ]
    for system in SYSTEMS:
        if system.shared_by != "nothing":
            found[f"ridge on the memory: {system.name}"] = [
                ridge({name: result[f"before.{name}"] for name in SPLITS}, labels, rows)
                for result in results[system.name]
            ]
    return found, rows


def compared(entry: dict[str, Any]) -> list[str]:
    """How far ours is ahead of a system: the cells of the two intervals, empty for ours itself."""
    gaps = entry.get("difference")
    if gaps is None:
        return ["", ""]
    return [interval(dict(zip(("mean", "low", "high"), gaps[over], strict=True))) for over in ("turns", "dialogues")]


def figures(entry: dict[str, Any]) -> list[str]:
    """The cells of r by dimension and of their mean."""
    by_seed = {"mean": entry["r_mean"], "sd": entry["r_sd"]}
    return [" / ".join(map(number, entry["r"])), with_sd(by_seed)]


def head(*names: str) -> list[str]:
    """The first two lines of a table."""
    return [line(names), line(["---"] * len(names))]


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"MELD, its own splits (test: {report['turns']} turns in {report['dialogues']} dialogues); emotions as points "
        f"in PAD space (Russell & Mehrabian 1977, `scripts/research/meld.py`). Frozen MiniLM, 7 layers, "
        f"{report['seeds']} seeds, {report['epochs']} epochs, everything chosen on the development split. r is "
        "Pearson's, mean of the three dimensions and of the seeds ± their standard deviation. Made by "
        f"`{report['command']}`.",
        "",
        "## Reading a turn",
        "",
        *head("system", "r P / A / D", "mean r", "CCC", "MAE", "macro MAE", "macro AUC", OVER_TURNS, "over dialogues"),
    ]
    for name, entry in report["reading"].items():
        macro = entry["emotions"]["macro"]
        values = (entry["ccc_mean"], entry["mae_mean"], macro["mae"], macro["auc"])
        lines.append(line([name, *figures(entry), *map(number, values), *compared(entry)]))
    lines += [
        "",
        f"Ours: {report['ours']}. Macro: mean over the seven emotions, whatever their number of turns. AUC: how well "
        "nearness to an emotion's point tells its turns from all others.",
        "",
        "## By emotion",
        "",
        f"MAE and AUC, {NO_MEMORY.name} → ours.",
        "",
        *head("emotion", "turns", "MAE", "AUC"),
    ]
    plain, ours = (report["reading"][name]["emotions"] for name in (NO_MEMORY.name, report["ours"]))
    for emotion in [*EMOTION_PAD, "macro"]:
        one, other = plain[emotion], ours[emotion]
        both = (f"{number(one[name])} → {number(other[name])}" for name in ("mae", "auc"))
        lines.append(line([emotion, str(one.get("turns", "")), *both]))
    lines += [
        "",
        "## Forecasting a turn before it is read",
        "",
        f"The {report['forecast_turns']} test turns that have one before them.",
        "",
        *head("from", "r P / A / D", "mean r", OVER_TURNS, "over dialogues"),
    ]
    lines += [line([name, *figures(entry), *compared(entry)]) for name, entry in report["forecasting"].items()]
    return "\n".join(lines) + "\n"


def arguments_of(what: str, arguments: list[str] | None) -> argparse.Namespace:
    """The command line of this script and of `documents.py`."""
    parser = argparse.ArgumentParser(description=f"What a memory is worth in {what}.")
    parser.add_argument("--data-dir", help="folder of the corpora (LIMINAL_DATA_DIR)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    add_folders(parser, f"runs/{what}")
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    return given


def run_all(
    systems: list[System],
    states: dict[str, dict[str, torch.Tensor]],
    data: DatasetDict,
    labels: dict[str, Array],
    given: argparse.Namespace,
) -> dict[str, list[dict[str, Array]]]:
    """What `run` gives for each seed, by system; what is kept in `given.work` is not trained again."""
    results: dict[str, list[dict[str, Array]]] = {}
    for seed in range(given.seeds):
        for index, system in enumerate(systems):
            path = given.work / f"{index}-{given.epochs}-{seed}.safetensors"
            if not path.exists():
                print(f"{system.name}, seed {seed}", flush=True)
                save_file(run(system, seed, given.epochs, states[system.reads], data, labels), path)
            results.setdefault(system.name, []).append(load_file(path))
            print(f"  dev {results[system.name][-1]['dev'].round(4).tolist()}", flush=True)
    return results


def main(arguments: list[str] | None = None) -> None:
    """Runs what is missing and writes the tables."""
    given = arguments_of("conversations", arguments)
    data = load_meld(given.data_dir)
    labels = {name: np.array(data[name]["labels"][:], dtype=np.float64) for name in SPLITS}
    states = pooled_states(data, given.work)
    results = run_all(SYSTEMS, states, data, labels, given)
    ours = SYSTEMS[-1].name
    emotions, dialogues = np.array(data["test"]["emotion"][:]), np.array(data["test"]["dialogue_id"][:])
    predictions = {name: [result["logits.test"] for result in parts] for name, parts in results.items()}
    for by, title in SHRINK.items():
        predictions[title] = [
            shrink({name: result[f"logits.{name}"] for name in ("validation", "test")}, labels, data, by)
            for result in results[NO_MEMORY.name]
        ]
    order = [NO_MEMORY.name, *SHRINK.values(), *[system.name for system in SYSTEMS[1:]]]
    reading = {}
    for name in order:
        reading[name] = summary(predictions[name], labels["test"], emotions)
        if name in results:
            reading[name]["dev"] = [float(result["dev"].max()) for result in results[name]]
            reading[name]["train_seconds"] = [float(result["seconds"][0]) for result in results[name]]
            reading[name]["parameters"] = int(results[name][0]["parameters"][0])
        if name != ours:
            reading[name]["difference"] = difference(predictions[ours], predictions[name], labels["test"], dialogues)
    guesses, rows = forecasts(results, states["turn"], data, labels)
    later, best = labels["test"][rows["test"]], f"ridge on the memory: {ours}"
    forecasting = {}
    for name, parts in guesses.items():
        forecasting[name] = summary(parts, later)
        if name != best:
            forecasting[name]["difference"] = difference(guesses[best], parts, later, dialogues[rows["test"]])
    report = {
        "command": "python scripts/conversations.py",
        "turns": len(dialogues),
        "dialogues": len(np.unique(dialogues)),
        "forecast_turns": len(later),
        "seeds": given.seeds,
        "epochs": given.epochs,
        "ours": ours,
        "reading": reading,
        "forecasting": forecasting,
    }
    save(given.results, "conversations", report, markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
