"""What are the emotion words in an answer worth? Their accuracy on GoEmotions and MELD beside simpler ways.

Requires liminal_hf with its extra benchmark, and the corpora (`LIMINAL_DATA_DIR`).

    python scripts/emotion_words.py [CHECKPOINT]

Prints also how texts with an emotion are read (OFFSET, SLOPE, SPREAD of `liminal_hf.modeling.emotions`), fitted on
GoEmotions' training texts, and how `emotion_pad` reads the words that have published positions.
"""

import argparse
import logging
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from research import checkpoint as checkpoints
from research.meld import load_meld
from research.report import Array, add_folders, line, number, rounded, save
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import liminal_hf
from liminal_hf.data.goemotions import GOEMOTIONS_LABELS, load_goemotions
from liminal_hf.emotion_words import CARRIER
from liminal_hf.export.checkpoint import open_checkpoint
from liminal_hf.inference import read
from liminal_hf.modeling.emotions import NEUTRAL, POSITIONS, WORDS, emotion_shares
from liminal_hf.training.run_folder import hardware

CARRIERS = ["{}", "I feel {}.", "I am {}.", "There was {}.", CARRIER]
MOST = 6000  # training texts of each corpus
NAMES = [*WORDS, NEUTRAL]
Texts = tuple[list[str], list[str]]  # texts and the word of each


def goemotions(split: str) -> Texts:
    """The comments with one emotion, and its name."""
    rows = load_goemotions()[split]
    found = [
        (text, GOEMOTIONS_LABELS[int(np.argmax(labels))])
        for text, labels in zip(rows["text"][:], rows["labels"][:], strict=True)
        if sum(labels) == 1
    ]
    return [text for text, _ in found], [name for _, name in found]


def meld(split: str) -> Texts:
    """The turns of dialogues, and the emotion of each."""
    rows = load_meld()[split]
    return rows["text"][:], rows["emotion"][:]


def chosen(corpus: Texts, names: set[str], most: int | None = None) -> Texts:
    """The texts whose emotion is among the names, as many as asked for."""
    rows = [row for row in zip(*corpus, strict=True) if row[1] in names and row[0].strip()]
    if most is not None and len(rows) > most:
        rows = [rows[index] for index in np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))]
    return [text for text, _ in rows], [name for _, name in rows]


def accuracy(scores: Array, gold: NDArray[np.int64]) -> dict[str, float]:
    """Top 1 and top 3, in all and averaged over the classes."""
    order = np.argsort(-scores, axis=1, kind="stable")
    found: dict[str, float] = {}
    for count in (1, 3):
        hit = (order[:, :count] == gold[:, None]).any(axis=1)
        found[f"top {count}"] = float(hit.mean())
        found[f"top {count}, by class"] = float(np.mean([hit[gold == one].mean() for one in np.unique(gold)]))
    return found


def measure(source: Any, train: Texts, test: Texts) -> dict[str, Any]:
    """Accuracy on a corpus: ours, and simpler ways; what is trained is trained on its training texts."""
    names = sorted({*train[1], *test[1]})
    gold_train, gold = (np.array([names.index(name) for name in labels]) for labels in (train[1], test[1]))
    answer = read(source.model, source.tokenizer, test[0])
    config = source.model.config
    units = np.array(config.label_std)
    shares = [emotion_shares(*pair, config) for pair in zip(answer["logits"], answer["uncertainty"], strict=True)]
    ours = np.array([[share[name] for name in names] for share in shares])
    certain = [emotion_shares(mean, [1e-6] * 3, config) for mean in answer["logits"]]
    norms = np.array([POSITIONS.get(name, (0.0, 0.0, 0.0)) for name in names])
    # Both in standard deviations: of the labels, and of the published positions.
    spread = np.array(list(POSITIONS.values())).std(axis=0)
    nearest = -(((answer["logits"] / units)[:, None] - norms / spread) ** 2).sum(axis=-1)
    frequency = np.bincount(gold_train, minlength=len(names))
    states = {name: liminal_hf.encode(texts, pooled_layers="all").numpy() for name, texts in
              (("train", train[0]), ("test", test[0]))}  # fmt: skip
    scale = StandardScaler().fit(states["train"])
    regression = LogisticRegression(max_iter=300, C=0.003).fit(scale.transform(states["train"]), gold_train)
    three = LogisticRegression(max_iter=300).fit(
        read(source.model, source.tokenizer, train[0])["logits"] / units, gold_train
    )
    found = {
        "the words of an answer": ours,
        "the same, without the uncertainty": np.array([[share[name] for name in names] for share in certain]),
        "the same, weighted by how frequent each class is": ours * frequency,
        "most frequent classes": np.tile(frequency.astype(float), (len(gold), 1)),
        "nearest position, without uncertainty": nearest,
        "logistic regression on the three numbers": three.predict_proba(answer["logits"] / units),
        "logistic regression on the encoder's states": regression.predict_proba(scale.transform(states["test"])),
    }
    return {
        "classes": names,
        "texts": len(gold),
        "accuracy": {name: accuracy(scores, gold) for name, scores in found.items()},
    }


def fitted(source: Any, train: Texts) -> dict[str, list[float]]:
    """How texts with an emotion are read: a line through the mean of each emotion, and the spread around it."""
    config = source.model.config
    answer = read(source.model, source.tokenizer, train[0])["logits"]
    middle = np.array([sum(zone) / 2 for zone in config.neutral_zone])
    shifts, labels = (answer - middle) / np.array(config.label_std), np.array(train[1])
    names = sorted(set(train[1]) - {NEUTRAL})
    counts = np.array([(labels == name).sum() for name in names])
    means = np.array([shifts[labels == name].mean(axis=0) for name in names])
    positions = np.array([POSITIONS[name] for name in names])
    lines = [np.polyfit(positions[:, part], means[:, part], 1, w=np.sqrt(counts)) for part in range(3)]
    spread = [np.concatenate([shifts[labels == name] for name in names])[:, part] for part in range(3)]
    expected = [np.concatenate([np.full(count, np.polyval(one, positions[index, part]))
                for index, count in enumerate(counts)]) for part, one in enumerate(lines)]  # fmt: skip
    return {
        "offset": [float(one[1]) for one in lines],
        "slope": [float(one[0]) for one in lines],
        "spread": [float(np.std(a - b)) for a, b in zip(spread, expected, strict=True)],
        "r": [float(np.corrcoef(positions[:, part], means[:, part])[0, 1]) for part in range(3)],
    }


def carriers(source: Any) -> dict[str, Any]:
    """How the published words are read in each phrase: r per target, and the line back to their positions."""
    config = source.model.config
    middle, units = np.array([sum(zone) / 2 for zone in config.neutral_zone]), np.array(config.label_std)
    wanted = np.array(list(POSITIONS.values()))
    found = {}
    for carrier in CARRIERS:
        shifts = (
            read(source.model, source.tokenizer, [carrier.format(word) for word in POSITIONS])["logits"] - middle
        ) / units
        lines = [np.polyfit(shifts[:, part], wanted[:, part], 1) for part in range(3)]
        left_out = np.empty_like(wanted)
        for row in range(len(wanted)):
            rest = np.arange(len(wanted)) != row
            for part in range(3):
                left_out[row, part] = np.polyval(
                    np.polyfit(shifts[rest, part], wanted[rest, part], 1), shifts[row, part]
                )
        found[carrier] = {
            "r": [float(np.corrcoef(left_out[:, part], wanted[:, part])[0, 1]) for part in range(3)],
            "error": [float(np.abs(left_out - wanted)[:, part].mean()) for part in range(3)],
            "offset": [float(one[1]) for one in lines],
            "slope": [float(one[0]) for one in lines],
        }
    return found


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = []
    for corpus, found in report["corpora"].items():
        heads = [
            f"{corpus}: {found['texts']:,} texts, {len(found['classes'])} classes",
            *found["accuracy"]["most frequent classes"],
        ]
        lines += [line(heads), line(["---"] * len(heads))]
        for name, cells in found["accuracy"].items():
            lines.append(line([name, *(f"{value:.1%}" for value in cells.values())]))
        lines.append("")
    heads = ["a word is read in", "r", "mean error"]
    lines += [line(heads), line(["---"] * len(heads))]
    for carrier, found in report["carriers"].items():
        cells = (" / ".join(number(value, 2) for value in found[name]) for name in ("r", "error"))
        lines.append(line([f'"{carrier}"', *cells]))
    lines += ["", f"`{report['command']}`; {report['machine']}."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure the emotion words of a checkpoint's answers.")
    checkpoints.add_checkpoint(parser)
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    source = open_checkpoint(
        liminal_hf.DEFAULT_CHECKPOINT if given.checkpoint == checkpoints.DEFAULT else given.checkpoint
    )
    comments, named = goemotions("train"), {*POSITIONS, NEUTRAL}
    report = rounded(
        {
            "command": checkpoints.command("emotion_words", given.checkpoint),
            "machine": hardware(),
            "reading": fitted(source, chosen(comments, named - {NEUTRAL}, MOST)),
            "carriers": carriers(source),
            "corpora": {
                "GoEmotions, test": measure(
                    source, chosen(comments, set(NAMES), MOST), chosen(goemotions("test"), set(NAMES))
                ),
                "MELD, test": measure(
                    source, chosen(meld("train"), set(NAMES), MOST), chosen(meld("test"), set(NAMES))
                ),
            },
        }
    )
    save(given.results, "emotion_words", report, markdown(report))
    print({name: report["reading"][name] for name in report["reading"]})
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
