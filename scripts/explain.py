"""Do the words that `explain` names matter to the model? Deletion curves on EmoBank's test sentences.

Requires liminal_hf and EmoBank (`LIMINAL_DATA_DIR`, else it is fetched).

    python scripts/explain.py

From each sentence words are removed in some order, and how far pleasure moves is measured after one, two and three of
them (comprehensiveness, DeYoung et al. 2020, "ERASER"). The orders: by the absolute effect that `explain` gives; by the
absolute gradient x input, summed over the embeddings of a word's tokens; at random. After one word `explain` can't
lose, since it has tried every word; two and three words together it has not.
"""

import argparse
import logging
import random
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from research.report import RESAMPLES, RESULTS, Array, interval, line, resample_counts, rounded, save
from scipy.stats import spearmanr

import liminal_hf
from liminal_hf.data import load_emobank
from liminal_hf.explaining import explain
from liminal_hf.explaining.words import Span, without, word_spans
from liminal_hf.scoring.scorer import Scorer, load
from liminal_hf.training.run_folder import hardware

SENTENCES, RANDOM_ORDERS = 200, 20
STEPS = (1, 2, 3)
LENGTH = range(6, 41)  # words
TARGET = "pleasure"
OURS, GRADIENT, RANDOM = "explain", "gradient x input", "random"


def sentences(number: int, seed: int = 0) -> list[str]:
    """Test sentences with enough words to remove some."""
    fitting = [text for text in load_emobank()["test"]["text"][:] if len(word_spans(text)) in LENGTH]
    return random.Random(seed).sample(fitting, min(number, len(fitting)))


def gradient_times_input(model: Any, tokenizer: Any, text: str, words: list[Span], column: int) -> Array:
    """`(words,)`: gradient x input of an answer, summed over the embeddings of each word's tokens."""
    encoded = tokenizer(text, truncation=True, max_length=128, return_offsets_mapping=True, return_tensors="pt")
    places = encoded.pop("offset_mapping")[0].tolist()
    embeds = model.get_input_embeddings()(encoded.pop("input_ids")).detach().requires_grad_()
    # Training keeps the head's own last answer out of the gradient; the answer depends on it all the same.
    with mock.patch.object(torch.Tensor, "detach", lambda tensor: tensor):
        logits = model(inputs_embeds=embeds, **encoded).logits
    (gradient,) = torch.autograd.grad(logits[0, column], embeds)
    shares = (gradient * embeds)[0].sum(-1).tolist()
    return np.array(
        [
            sum(share for share, (left, right) in zip(shares, places, strict=True) if start < right and left < end)
            for start, end in words
        ]
    )


def measure(number: int = SENTENCES) -> dict[str, Any]:
    """The report: how far the answer moves by order and step, and the differences, with intervals over sentences."""
    model, tokenizer = load(liminal_hf.DEFAULT_CHECKPOINT)
    scorer = Scorer(model, tokenizer=tokenizer)
    column = list(model.config.targets).index(TARGET)
    draw = random.Random(1)
    texts = sentences(number)
    moved: dict[str, list[list[float]]] = {OURS: [], GRADIENT: [], RANDOM: []}
    agreement = []
    for text in texts:
        found = explain(text, scorer)
        words = [(entry.start, entry.end) for entry in found.words]
        effects = np.array([entry.effects[TARGET] for entry in found.words], dtype=np.float64)
        gradients = gradient_times_input(model, tokenizer, text, words, column)
        agreement.append(float(spearmanr(np.abs(effects), np.abs(gradients)).statistic))
        orders = [np.argsort(-np.abs(effects), kind="stable"), np.argsort(-np.abs(gradients), kind="stable")]
        orders += [np.array(draw.sample(range(len(words)), len(words))) for _ in range(RANDOM_ORDERS)]
        removed = [without(text, [words[row] for row in order[:step]]) for order in orders for step in STEPS]
        answers = np.array(scorer.score(removed)[TARGET].to_pylist(), dtype=np.float64)
        changes = np.abs(answers - (found.answer[TARGET] or 0.0)).reshape(len(orders), len(STEPS))
        for name, values in ((OURS, changes[0]), (GRADIENT, changes[1]), (RANDOM, changes[2:].mean(axis=0))):
            moved[name].append(values.tolist())
    curves = {name: np.array(values) for name, values in moved.items()}
    counts = resample_counts(len(texts), RESAMPLES)
    return {
        "sentences": len(texts),
        "random orders": RANDOM_ORDERS,
        "label spread": float(model.config.label_std[column]),
        "moved": {name: with_interval(values, counts) for name, values in curves.items()},
        "minus": {name: with_interval(curves[OURS] - curves[name], counts) for name in (GRADIENT, RANDOM)},
        "agreement": with_interval(np.array(agreement)[:, None], counts)[0],
    }


def with_interval(values: Array, counts: Array) -> list[dict[str, float]]:
    """Per column the mean, and its 95% interval over resampled rows."""
    drawn = counts @ values / len(values)
    ends = np.quantile(drawn, [0.025, 0.975], axis=0)
    rows = zip(values.mean(axis=0), *ends, strict=True)
    return [{"mean": float(mean), "low": float(low), "high": float(high)} for mean, low, high in rows]


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = ["words removed by", *(f"after {step}" for step in STEPS)]
    lines = [line(heads), line(["---"] * len(heads))]
    for name, cells in report["moved"].items():
        lines.append(line([name, *(interval(cell, sign=False) for cell in cells)]))
    for name, cells in report["minus"].items():
        lines.append(line([f"{OURS} minus {name}", *map(interval, cells)]))
    return "\n".join(
        [
            *lines,
            "",
            f"How far {TARGET} moves, mean over {report['sentences']} of EmoBank's test sentences of {LENGTH.start} to "
            f"{LENGTH.stop - 1} words, with 95% bootstrap intervals over sentences; {report['random orders']} random "
            f"orders each. The labels' standard deviation is {report['label spread']:.2f}. Within a sentence the ranks "
            f"of the two orders agree by a Spearman correlation of {interval(report['agreement'], 2)}.",
            "",
            f"`{report['command']}`; {report['machine']}",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure how faithful the effects of words are.")
    parser.add_argument("--sentences", type=int, default=SENTENCES, help="how many sentences (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets the table (%(default)s)")
    given = parser.parse_args(arguments)
    command = "python scripts/explain.py"
    report = rounded({"command": command, "machine": hardware(), **measure(given.sentences)})
    save(given.results, "explain", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
