"""Pairs of sentences from templates: what a reader should do when a sentence is changed on purpose.

Requires numpy. In the manner of CheckList (Ribeiro et al. 2020, "Beyond Accuracy", ACL). A case is a pair of sentences
and an expectation of one dimension: it rises, it falls, it stays. The unit is the standard deviation of a reader's own
predictions over all base sentences, so that readers of different scales can be compared: "rises" and "falls" mean by
more than 0.1 of it, "stays" by less than 0.25. Nothing is chosen or trained on these sentences.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..metrics import Array

MOVES, STAYS = 0.1, 0.25
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
    return [*_negation(), *_intensity(), *_surface(), *_emoji(), *_typos(), *people()]


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


def people() -> Iterable[Case]:
    """The cases about who it is said of: names of men and women, of other origins, pronouns."""
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


def judge(every: list[Case], predictions: dict[str, Array]) -> list[bool | None]:
    """Whether each case is as expected; None for a dimension that the system does not have.

    Args:
        every: the cases.
        predictions: by sentence, `(3,)`, NaN where there is none, or `(1,)` for a system of pleasure alone.

    Example:
        >>> judge([Case("a", "x", "y", "up")], {"x": np.zeros(3), "y": np.ones(3)})
        [True]
    """
    said = np.array([predictions[text] for text in dict.fromkeys(case.base for case in every)])
    has_some = ~np.isnan(said).all(axis=0)
    spread = np.where(has_some, np.nanstd(np.where(has_some, said, 0.0), axis=0), np.nan)
    found: list[bool | None] = []
    for case in every:
        if case.dimension >= len(spread) or np.isnan(spread[case.dimension]):
            found.append(None)
            continue
        step = predictions[case.changed][case.dimension] - predictions[case.base][case.dimension]
        step /= spread[case.dimension] or 1.0
        verdicts = {"up": step > MOVES, "down": step < -MOVES, "stays": abs(step) < STAYS}
        found.append(bool(verdicts[case.expected]))
    return found


def pass_rates(every: list[Case], verdicts: list[bool | None]) -> dict[str, float | None]:
    """The share of cases that are as expected, by kind; None where the reader does not have the dimension."""
    found: dict[str, float | None] = {}
    for kind in dict.fromkeys(case.kind for case in every):
        each = [verdict for case, verdict in zip(every, verdicts, strict=True) if case.kind == kind]
        found[kind] = None if each[0] is None else sum(map(bool, each)) / len(each)
    return found
