"""From an emotion word to pleasure, arousal and dominance.

Requires transformers.
"""

import re
from functools import lru_cache
from typing import Any

from . import DEFAULT_CHECKPOINT
from .modeling.answers import outside
from .modeling.configuration_liminal import DIMENSIONS
from .modeling.emotions import POSITIONS
from .modeling.errors import LiminalError

# Of five carriers tried by scripts/emotion_words.py the one whose readings rank the published words best.
CARRIER = "a feeling of {}"
# From a reading, in standard deviations of the labels from the neutral point, to the published positions.
_OFFSET = (0.112, -0.270, 0.142)
_SLOPE = (0.299, 0.340, 0.263)
_NAME = re.compile(r"[^\W\d_]+(?:[ '-][^\W\d_]+){0,2}")
PUBLISHED = "Glasgow Norms (Scott et al. 2019)"
READ = "read by the default checkpoint"


def emotion_pad(word: str) -> dict[str, Any]:
    """Where an emotion word lies, each number in -1..1, where 0 is the middle of the raters' scale.

    105 terms have the published means of some 33 raters each. Any other word is read by the default checkpoint in the
    phrase "a feeling of ...", on the scale of the published ones: an estimate, and `source` says so.
    `scripts/results/emotion_words.md` says how good it is.

    Args:
        word: one word or a short name of an emotion, in English; capitals don't matter.

    Returns:
        `pleasure`, `arousal`, `dominance` and `source`.

    Raises:
        LiminalError: no word, several sentences, or nothing that the checkpoint takes for English.

    Example:
        >>> emotion_pad("joy")
        {'pleasure': 0.77, 'arousal': 0.49, 'dominance': 0.4, 'source': 'Glasgow Norms (Scott et al. 2019)'}
        >>> emotion_pad("nostalgic")["source"]
        'read by the default checkpoint'
    """
    name = " ".join(word.casefold().split()) if isinstance(word, str) else ""
    if not _NAME.fullmatch(name):
        raise LiminalError(f'emotion_pad takes the name of an emotion, such as "joy", got {word!r}.')
    if name in POSITIONS:
        return {**dict(zip(DIMENSIONS, POSITIONS[name], strict=True)), "source": PUBLISHED}
    # A typo would be read as something else; a word that the tokenizer knows whole is none.
    if len(_reader().tokenizer.tokenize(name)) > 1 and (close := _one_edit(name) & POSITIONS.keys()):
        raise LiminalError(f"{word!r} has no published position. Did you mean {min(close)}?")
    row = _reader()([CARRIER.format(name)])[0]
    if row["error"] or outside(row["in_domain"]):
        raise LiminalError(f"{word!r} is no English word that the model knows. Published ones: joy, fear, bored, ...")
    config = _reader().model.config
    found = {}
    for part, target in enumerate(DIMENSIONS):
        index = config.targets.index(target)
        shift = (row[target] - sum(config.neutral_zone[index]) / 2) / config.label_std[index]
        found[target] = round(min(max(_OFFSET[part] + _SLOPE[part] * shift, -1.0), 1.0), 2)
    return {**found, "source": READ}


def _one_edit(word: str) -> set[str]:
    """What a word becomes by one letter left out, put in, changed, or exchanged with the next (Damerau 1964)."""
    parts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    left_out = {a + b[1:] for a, b in parts if b}
    exchanged = {a + b[1] + b[0] + b[2:] for a, b in parts if len(b) > 1}
    letters = "abcdefghijklmnopqrstuvwxyz"
    changed = {a + letter + b[1:] for a, b in parts if b for letter in letters}
    return left_out | exchanged | changed | {a + letter + b for a, b in parts for letter in letters}


@lru_cache(maxsize=1)
def _reader() -> Any:
    from transformers import pipeline

    return pipeline("pad-regression", model=DEFAULT_CHECKPOINT)
