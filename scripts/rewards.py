"""What does a reward pay for? `PADReward` on sentences, and on what a model might write for the reward alone.

Requires liminal_hf with its extra benchmark, and the corpora (`LIMINAL_DATA_DIR`).

    python scripts/rewards.py

The goal is a pleasure of 0.6, then the middle of all three scales, where nonsense is read to lie.
"""

import argparse
import logging
import random
import sys
from typing import Any

import domain
import numpy as np
from research.report import add_folders, line, number, rounded, save

import liminal_hf
from liminal_hf import PADReward
from liminal_hf.data import load_emobank
from liminal_hf.scoring import Scorer
from liminal_hf.training.run_folder import hardware

MOST = 150  # texts of each kind
GOALS = {"pleasure .6": {"pleasure": 0.6}, "the middle": {"pleasure": 0.0, "arousal": 0.0, "dominance": 0.0}}
STRICT = 0.9  # another bound on in_domain, beside the default
# Of nobody's lexicon: words that anybody would try.
PLEASANT = [
    "happy",
    "joy",
    "love",
    "wonderful",
    "lovely",
    "beautiful",
    "delight",
    "sunshine",
    "friend",
    "laugh",
    "smile",
    "great",
    "amazing",
    "kind",
    "warm",
    "thank",
    "proud",
    "hope",
    "gift",
    "sweet",
    "bright",
    "celebrate",
    "peace",
    "grateful",
    "perfect",
]


def kinds() -> dict[str, list[str]]:
    """Texts by kind: sentences first, then what should not pay."""
    draw = random.Random(0)
    corpus = load_emobank()
    sentences = [text for text in corpus["test"]["text"][:] if len(text.split()) >= 3]
    words = sorted({word for text in corpus["train"]["text"][:] for word in text.lower().split() if word.isalpha()})

    def some(texts: list[str]) -> list[str]:
        return draw.sample(texts, min(MOST, len(texts)))

    def times(make: Any) -> list[str]:
        return [make() for _ in range(MOST)]

    others = domain.outside()
    languages = [
        text
        for name, texts in others.items()
        if name not in ("gibberish", "code (Python's own library)")
        for text in some(texts)
    ]
    good = some(
        [
            t
            for t, labels in zip(corpus["test"]["text"][:], corpus["test"]["labels"][:], strict=True)
            if labels[0] > 0.3 and len(t.split()) >= 3
        ]
    )
    return {
        "sentences (EmoBank, test)": some(sentences),
        "pleasant ones of these (rated above .3)": good,
        "their words in another order": [" ".join(draw.sample(text.split(), len(text.split()))) for text in good],
        "a list of pleasant words": times(lambda: " ".join(draw.sample(PLEASANT, draw.randint(5, 12)))),
        "one pleasant word, again and again": times(lambda: " ".join([draw.choice(PLEASANT)] * draw.randint(3, 30))),
        "two words by turns": times(lambda: " ".join(draw.sample(PLEASANT, 2) * draw.randint(3, 15))),
        "one or two pleasant words": times(lambda: " ".join(draw.sample(PLEASANT, draw.randint(1, 2)))),
        "random English words": times(lambda: " ".join(draw.sample(words, draw.randint(5, 20)))),
        "gibberish": some(others["gibberish"]),
        "code": some(others["code (Python's own library)"]),
        "eleven other languages": languages,
        "empty, emoji, signs": [
            "",
            " ",
            "\n",
            "\U0001f600",
            "\U0001f600 \U0001f389 \U0001f44d",
            "!!! ??? ...",
            "1 2 3 4 5",
        ],
    }


def measure(scorer: Scorer) -> dict[str, Any]:
    """Mean reward and the share without any, by kind and goal."""
    found: dict[str, Any] = {}
    for name, texts in kinds().items():
        found[name] = {"texts": len(texts)}
        for title, goal in GOALS.items():
            rewards = np.array(PADReward(goal, scorer)(completions=texts))
            found[name][title] = {"mean": float(rewards.mean()), "zero": float((rewards == 0).mean())}
        strict = np.array(PADReward(GOALS["the middle"], scorer, least_in_domain=STRICT)(completions=texts))
        found[name]["strict"] = float((strict == 0).mean())
    return found


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    heads = [
        "texts",
        "number",
        *(f"mean reward, goal {title}" for title in GOALS),
        "none",
        f"none, in_domain at least {number(STRICT, 1)}",
    ]
    lines = [line(heads), line(["---"] * len(heads))]
    for name, kind in report["kinds"].items():
        means = [number(kind[title]["mean"], 2) for title in GOALS]
        shares = [f"{kind['the middle']['zero']:.1%}", f"{kind['strict']:.1%}"]
        lines.append(line([name, str(kind["texts"]), *means, *shares]))
    lines += ["", f"`{report['command']}`; default checkpoint; up to {MOST} texts of each kind and language."]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Measure what a reward pays for.")
    add_folders(parser, "runs/evidence")
    given = parser.parse_args(arguments)
    scorer = Scorer(liminal_hf.DEFAULT_CHECKPOINT)
    report = rounded({"command": "python scripts/rewards.py", "machine": hardware(), "kinds": measure(scorer)})
    save(given.results, "rewards", report, markdown(report))
    print(markdown(report))
    return 0


if __name__ == "__main__":
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
