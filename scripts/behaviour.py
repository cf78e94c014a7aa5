"""What a checkpoint does when a sentence is changed on purpose: negated, intensified, misspelt, said of somebody else.

    python scripts/behaviour.py [CHECKPOINT]

Requires liminal_hf with its benchmark extra (vaderSentiment), EmoBank (`LIMINAL_DATA_DIR`) and the ridge's encoder.
Templates of our own, in the manner of CheckList (Ribeiro et al. 2020, "Beyond Accuracy", ACL). Each case is a pair of
sentences and an expectation of one dimension: it rises, it falls, it stays. The unit is the standard deviation of a
system's own predictions over all base sentences, so that systems of different scales can be compared: "rises" and
"falls" mean by more than 0.1 of it, "stays" by less than 0.25. Nothing is chosen or trained on these sentences.
"""

import argparse
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from research.checkpoint import add_checkpoint, command, named, read
from research.peers import ALPHAS, compound
from research.report import Array, add_folders, line, number, save
from transformers import AutoTokenizer

from liminal_hf import metrics
from liminal_hf.benchmark.behaviour import ENGLISH, FOREIGN, MOVES, SCENES, STAYS, cases, judge, pass_rates, people
from liminal_hf.data import load_emobank, pooled_dataset
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.modeling.modeling_liminal import LiminalModel
from liminal_hf.training.run_folder import hardware

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


# ---- systems ----


def ridge(texts: list[str]) -> Array:
    """`(len(texts), 3)`: a ridge on the mean-pooled states of all layers, trained on EmoBank, alpha chosen on dev."""
    corpus = load_emobank()
    model = LiminalModel.from_encoder_pretrained(ENCODER, head="linear", pooled_layers="all").eval()
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder(ENCODER)[0])
    parts = {split: corpus[split].select_columns(["text", "labels"]) for split in ("train", "validation")}
    parts["cases"] = corpus["test"].from_dict({"text": texts})
    states = {
        name: np.asarray(
            pooled_dataset(model, tokenizer, rows, max_length=128).with_format("numpy")["pooled_embeds"][:]
        )
        for name, rows in parts.items()
    }
    scale = 1 / np.sqrt(np.square(states["train"], dtype=np.float64).mean())
    labels = {name: np.asarray(parts[name]["labels"][:]) for name in ("train", "validation")}
    middle, mean = states["train"].mean(0), labels["train"].mean(0)
    x = (states["train"] - middle).astype(np.float64) * scale
    gram, right = x.T @ x, x.T @ (labels["train"] - mean)
    best, chosen = -1.0, mean[None]
    for alpha in ALPHAS:
        weights = np.linalg.solve(gram + alpha * np.eye(len(gram)), right) * scale
        r = metrics.mean_pearson((states["validation"] - middle) @ weights + mean, labels["validation"])
        if r > best:
            best, chosen = r, (states["cases"] - middle) @ weights + mean
    return chosen


# ---- the table ----


def paired_differences(predictions: dict[str, Array], seed: int = 0) -> dict[str, dict[str, Any]]:
    """By group, `pairs` and `differences`: `[mean, low, high]` per dimension, 95% bootstrap over the pairs."""
    groups: dict[str, list[tuple[str, str]]] = {
        "women's names \u2212 men's": [],
        "\u201cshe\u201d \u2212 \u201che\u201d": [],
    }
    for case in people():
        if case.kind.startswith("a woman"):
            groups["women's names \u2212 men's"].append((case.base, case.changed))
        elif case.kind.startswith("\u201cshe"):
            groups["\u201cshe\u201d \u2212 \u201che\u201d"].append((case.base, case.changed))
    for origin, names in FOREIGN.items():
        both = itertools.product(SCENES, zip(names, ENGLISH, strict=True))
        groups[f"{origin} \u2212 English names"] = [(scene.format(e), scene.format(n)) for scene, (n, e) in both]
    result = {}
    for group, pairs in groups.items():
        steps = np.array([predictions[changed] - predictions[base] for base, changed in pairs])
        drawn = np.random.default_rng(seed).integers(len(steps), size=(2000, len(steps)))
        low, high = np.percentile(steps[drawn].mean(1), [2.5, 97.5], axis=0)
        result[group] = {"pairs": len(pairs), "differences": np.stack([steps.mean(0), low, high], axis=1).tolist()}
    return result


def measure(checkpoint: str, work: Path) -> dict[str, Any]:
    """Pass rates of the checkpoint, the ridge and VADER, and the checkpoint's paired differences."""
    every = cases()
    texts = list(dict.fromkeys(text for case in every for text in (case.base, case.changed)))
    systems = {"ours": read(checkpoint, texts, work).pad, "ridge": ridge(texts), "VADER": compound(texts)[:, None]}
    by_text = {name: dict(zip(texts, values, strict=True)) for name, values in systems.items()}
    verdicts = {name: judge(every, values) for name, values in by_text.items()}
    rates = {name: pass_rates(every, found) for name, found in verdicts.items()}
    numbers = Counter(case.kind for case in every)
    rows = {
        kind: {"cases": cases_} | {name: rate[kind] for name, rate in rates.items()} for kind, cases_ in numbers.items()
    }
    wrong = [vars(case) for case, right in zip(every, verdicts["ours"], strict=True) if not right]
    return {
        "checkpoint": named(checkpoint), "command": command("behaviour", checkpoint), "machine": hardware(),
        "cases": len(every), "kinds": rows, "people": paired_differences(by_text["ours"]), "failed": wrong,
    }  # fmt: skip


def markdown(table: dict[str, Any]) -> str:
    """The table for people."""
    heads = ["case", "pairs", "ours", "ridge", "VADER"]
    lines = [line(heads), line(["---"] * len(heads))]
    for kind, row in table["kinds"].items():
        rates = ["-" if row[name] is None else f"{row[name]:.0%}" for name in heads[2:]]
        lines.append(line([kind, str(row["cases"]), *rates]))
    heads = ["who it is about, difference [95%]", "pairs", *DIMENSIONS]
    lines += ["", line(heads), line(["---"] * len(heads))]
    for group, row in table["people"].items():
        cells = [
            f"{number(mean, 3, True)} [{number(low, 3, True)}, {number(high, 3, True)}]"
            for mean, low, high in row["differences"]
        ]
        lines.append(line([group, str(row["pairs"]), *cells]))
    note = (
        f"`{table['command']}`; {table['cases']} pairs of sentences from templates; ours: the {table['checkpoint']}; "
        f"ridge: on all layers of MiniLM. Rises and falls: by more than {MOVES:g} standard deviations of a system's "
        f"own predictions on these sentences; stays: within {STAYS:g}. Differences in label units, 2,000 bootstrap "
        "resamples of the pairs."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main() -> None:
    """Reads, prints the table, writes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_checkpoint(parser)
    add_folders(parser, "runs/behaviour")
    arguments = parser.parse_args()
    table = measure(arguments.checkpoint, arguments.work)
    text = markdown(table)
    save(arguments.results, "behaviour", table, text)
    print(text)
    print(json.dumps({"written": "behaviour.md, behaviour.json"}))


if __name__ == "__main__":
    main()
