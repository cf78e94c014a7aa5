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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from research.checkpoint import add_checkpoint, command, named, read
from research.peers import ALPHAS, compound
from research.report import Array, add_folders, line, number, save
from transformers import AutoTokenizer

from liminal_hf import metrics
from liminal_hf.data import load_emobank, pooled_dataset
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.modeling.modeling_liminal import LiminalModel
from liminal_hf.training.run_folder import hardware

MOVES, STAYS = 0.1, 0.25
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
PLEASURE, AROUSAL = 0, 1

GLAD = ["happy", "proud", "delighted", "grateful", "hopeful", "cheerful"]
SORRY = ["sad", "ashamed", "furious", "bitter", "hopeless", "miserable"]
STIRRED = ["thrilled", "terrified", "furious", "excited", "shocked", "panicking"]
SUBJECTS = ["I am", "She is", "We are"]
STATEMENTS = [
    "I love this song.", "They ruined my birthday.", "The soup tastes wonderful.", "He shouted at the children.",
    "We lost the final again.", "My sister passed her exam.", "The nurse was very kind to us.", "I hate waiting here.",
    "The storm destroyed our house.", "What a beautiful garden you have.", "Nobody answered my letters.",
    "She laughed until she cried.", "The dentist was rude.", "I finally found my keys.",
    "They are firing half the team.",
]  # fmt: skip
PLAIN = [
    "I am on my way home.", "He sent me the photos.", "The meeting is at ten.", "We talked on the phone.",
    "She has moved to Leeds.", "I saw your message.", "They are coming on Sunday.", "It is about the contract.",
]  # fmt: skip
LIKED = {
    "I like this place.": "I don't like this place.",
    "They trust their doctor.": "They don't trust their doctor.",
    "The film was worth the money.": "The film was not worth the money.",
    "He enjoyed the evening.": "He did not enjoy the evening.",
    "You can rely on her.": "You can't rely on her.",
    "We will win this match.": "We will never win this match.",
    "Everybody thanked the driver.": "Nobody thanked the driver.",
    "The room was clean and warm.": "The room was neither clean nor warm.",
}
EMOJI = {"\U0001f60a": "up", "\u2764\ufe0f": "up", "\U0001f389": "up"} | {
    "\U0001f621": "down", "\U0001f622": "down", "\U0001f494": "down",
}  # fmt: skip
# Said of a person who is not asked what they feel: nothing in it should depend on who it is.
SCENES = [
    "{} waited for the bus in the rain.", "{} got the job after the second interview.", "{} was late for work again.",
    "{} argued with the neighbour about the fence.", "{} cooked dinner for the whole family.",
    "The teacher asked {} to stay after class.", "The police stopped {} on the way home.", "I sat next to {} at lunch.",
]  # fmt: skip
GENDERED = [
    ("James", "Emily"), ("Peter", "Susan"), ("Ahmed", "Fatima"), ("Wei", "Mei"), ("Carlos", "Maria"),
    ("Jamal", "Keisha"),
]  # fmt: skip
FOREIGN = {
    "Arabic": ("Ahmed", "Fatima"), "Chinese": ("Wei", "Mei"), "Nigerian": ("Chinedu", "Ngozi"),
    "Polish": ("Wojciech", "Agnieszka"), "Turkish": ("Mehmet", "Ay\u015fe"), "African American": ("Jamal", "Keisha"),
}  # fmt: skip
ENGLISH = ("James", "Emily")


@dataclass(frozen=True)
class Case:
    """A pair of sentences and what should happen from the first to the second.

    Args:
        kind: row of the table.
        base, changed: the sentences.
        expected: of the dimension's prediction: "up", "down" or "stays".
        dimension: 0 pleasure, 1 arousal.
    """

    kind: str
    base: str
    changed: str
    expected: str
    dimension: int = PLEASURE


def cases() -> list[Case]:
    """All cases, always the same ones in the same order."""
    return [*_negation(), *_intensity(), *_surface(), *_emoji(), *_typos(), *_people()]


def _negation() -> Iterable[Case]:
    for subject, word in itertools.product(SUBJECTS, GLAD):
        yield Case("negation of what is good: pleasure falls", f"{subject} {word}.", f"{subject} not {word}.", "down")
    for base, changed in LIKED.items():
        yield Case("negation of what is good: pleasure falls", base, changed, "down")
    for subject, word in itertools.product(SUBJECTS, SORRY):
        yield Case("negation of what is bad: pleasure rises", f"{subject} {word}.", f"{subject} not {word}.", "up")


def _intensity() -> Iterable[Case]:
    for subject, word in itertools.product(SUBJECTS[:2], GLAD + SORRY):
        more, less = ("up", "down") if word in GLAD else ("down", "up")
        base = f"{subject} {word}."
        yield Case("\u201cextremely\u201d: pleasure away from the middle", base, f"{subject} extremely {word}.", more)
        yield Case("\u201ca little\u201d: pleasure towards the middle", base, f"{subject} a little {word}.", less)
    for subject, word in itertools.product(SUBJECTS[:2], STIRRED):
        kind = "\u201cabsolutely\u201d: arousal rises"
        yield Case(kind, f"{subject} {word}.", f"{subject} absolutely {word}.", "up", AROUSAL)


def _surface() -> Iterable[Case]:
    for text in STATEMENTS:
        yield Case("no full stop: pleasure stays", text, text.rstrip("."), "stays")
        yield Case("lower case: pleasure stays", text, text.lower(), "stays")
        yield Case("\u201c!!!\u201d: arousal rises", text, text.rstrip(".") + "!!!", "up", AROUSAL)
        yield Case("CAPITALS: arousal rises", text, text.upper(), "up", AROUSAL)


def _emoji() -> Iterable[Case]:
    for text, (sign, way) in itertools.product(PLAIN, EMOJI.items()):
        happens = "rises" if way == "up" else "falls"
        yield Case(f"emoji {'glad' if way == 'up' else 'sorry'}: pleasure {happens}", text, f"{text} {sign}", way)


def _typos() -> Iterable[Case]:
    for text in STATEMENTS:
        word = max(text.rstrip(".").split(), key=len)
        middle = len(word) // 2
        swapped = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
        yield Case("two letters swapped: pleasure stays", text, text.replace(word, swapped), "stays")
        yield Case(
            "a letter left out: pleasure stays", text, text.replace(word, word[:middle] + word[middle + 1 :]), "stays"
        )


def _people() -> Iterable[Case]:
    for scene, (his, hers) in itertools.product(SCENES, GENDERED):
        yield Case("a woman's name for a man's: pleasure stays", scene.format(his), scene.format(hers), "stays")
    for scene, names in itertools.product(SCENES, FOREIGN.values()):
        for name, english in zip(names, ENGLISH, strict=True):
            yield Case(
                "another origin's name for an English one: pleasure stays",
                scene.format(english),
                scene.format(name),
                "stays",
            )
    for scene in SCENES:
        subject = scene.startswith("{}")
        his, hers = ("He", "She") if subject else ("him", "her")
        yield Case("\u201cshe\u201d for \u201che\u201d: pleasure stays", scene.format(his), scene.format(hers), "stays")


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


def judge(every: list[Case], predictions: dict[str, Array]) -> list[bool | None]:
    """Whether each case is as expected; None for a dimension that the system does not have.

    Args:
        every: the cases.
        predictions: by sentence, `(3,)`, or `(1,)` for a system of pleasure alone.

    Example:
        >>> judge([Case("a", "x", "y", "up")], {"x": np.zeros(3), "y": np.ones(3)})
        [True]
    """
    spread = np.std([predictions[text] for text in dict.fromkeys(case.base for case in every)], axis=0)
    found: list[bool | None] = []
    for case in every:
        if case.dimension >= len(spread):
            found.append(None)
            continue
        step = predictions[case.changed][case.dimension] - predictions[case.base][case.dimension]
        step /= spread[case.dimension] or 1.0
        verdicts = {"up": step > MOVES, "down": step < -MOVES, "stays": abs(step) < STAYS}
        found.append(bool(verdicts[case.expected]))
    return found


def paired_differences(predictions: dict[str, Array], seed: int = 0) -> dict[str, dict[str, Any]]:
    """By group, `pairs` and `differences`: `[mean, low, high]` per dimension, 95% bootstrap over the pairs."""
    groups: dict[str, list[tuple[str, str]]] = {
        "women's names \u2212 men's": [],
        "\u201cshe\u201d \u2212 \u201che\u201d": [],
    }
    for case in _people():
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
    rows: dict[str, Any] = {}
    for kind in dict.fromkeys(case.kind for case in every):
        places = [place for place, case in enumerate(every) if case.kind == kind]
        rates = {name: [found[place] for place in places] for name, found in verdicts.items()}
        rows[kind] = {"cases": len(places)} | {
            name: None if rate[0] is None else sum(map(bool, rate)) / len(rate) for name, rate in rates.items()
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
