"""From an emotion word to pleasure, arousal and dominance.

Requires transformers.
"""

import difflib
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
    if not isinstance(word, str) or not word.strip() or len(word) > 60:
        raise LiminalError(f'emotion_pad takes the name of an emotion, such as "joy", got {word!r}.')
    name = " ".join(word.casefold().split())
    if name in POSITIONS:
        return {**dict(zip(DIMENSIONS, POSITIONS[name], strict=True)), "source": PUBLISHED}
    if close := difflib.get_close_matches(name, POSITIONS, n=1, cutoff=0.9):  # a typo would be read as something else
        raise LiminalError(f"{word!r} has no published position. Did you mean {close[0]}?")
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


@lru_cache(maxsize=1)
def _reader() -> Any:
    from transformers import pipeline

    return pipeline("pad-regression", model=DEFAULT_CHECKPOINT)
