"""From a prediction and its uncertainty to statements that can be checked: intervals, probabilities, verdicts.

Requires nothing but the standard library. Probabilities are those of a normal distribution around the prediction, with
its calibrated uncertainty as standard deviation. Intervals are conformal: they follow the quantiles of the standardised
errors on the development split (`residual_quantiles` of the config).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from .emotions import emotion_shares
from .errors import LiminalError

# What the three classes of a target are called: below, inside and above its neutral zone.
VERDICTS: dict[str, tuple[str, str, str]] = {
    "pleasure": ("negative", "neutral", "positive"),
    "valence": ("negative", "neutral", "positive"),
    "arousal": ("calm", "neutral", "aroused"),
    "dominance": ("weak", "neutral", "strong"),
}
OTHER_VERDICTS = ("low", "neutral", "high")
NEUTRAL = "neutral"
EMOTIONS = "emotions"
UNCLEAR = "unclear"
# A class is named when it is more likely than not.
NAMED_ABOVE = 0.5
# Mehrabian (1996), Pleasure-arousal-dominance: A general framework, Current Psychology 14(4), table of octants.
OCTANTS = {
    (True, True, True): "exuberant",
    (True, True, False): "dependent",
    (True, False, True): "relaxed",
    (True, False, False): "docile",
    (False, True, True): "hostile",
    (False, True, False): "anxious",
    (False, False, True): "disdainful",
    (False, False, False): "bored",
}
_LEAST_DEVIATION = 1e-6  # of a model that has learned its labels by heart


def standard_quantile(share: float, quantiles: Sequence[float] | None = None) -> float:
    """The standardised error below which a share of the errors lies.

    Args:
        share: above 0 and below 1.
        quantiles: of the standardised errors at (i + .5) / n, ascending; None is the standard normal. Between them the
            share is linear, beyond them the normal's tail goes on.

    Example:
        >>> standard_quantile(0.5), round(standard_quantile(5 / 6, [-1.0, 0.0, 1.0]), 6)
        (0.0, 1.0)
    """
    if quantiles is None:
        return NormalDist().inv_cdf(share)
    last = len(quantiles) - 1
    position = share * (last + 1) - 0.5
    if position < 0:
        return quantiles[0] + NormalDist().inv_cdf(share * (last + 1))
    if position >= last:
        return quantiles[last] - NormalDist().inv_cdf((1 - share) * (last + 1))
    left = math.floor(position)
    return quantiles[left] + (position - left) * (quantiles[left + 1] - quantiles[left])


def interval(mean: float, deviation: float, level: float, quantiles: Sequence[float] | None = None) -> list[float]:
    """The central interval that holds the label with a probability of `level`.

    Args:
        mean, deviation: prediction and standard deviation, in label units.
        level: above 0 and below 1.
        quantiles: see `standard_quantile`.

    Raises:
        LiminalError: a level outside of 0..1.

    Example:
        >>> [round(end, 2) for end in interval(0.0, 0.1, 0.9)]
        [-0.16, 0.16]
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise LiminalError(f"level must be a number above 0 and below 1, such as 0.8; got {level!r}.")
    ends = (standard_quantile((1 - level) / 2, quantiles), standard_quantile((1 + level) / 2, quantiles))
    return [mean + deviation * z for z in ends]


def above(mean: float, deviation: float, point: float) -> float:
    """The probability that the label lies above a point, by the normal distribution.

    Example:
        >>> above(0.1, 0.1, 0.1), round(above(0.1, 0.1, 0.0), 2)
        (0.5, 0.84)
    """
    return NormalDist().cdf((mean - point) / deviation)


def classes(mean: float, deviation: float, zone: tuple[float, float]) -> tuple[float, float, float]:
    """The probabilities that the label lies below, inside and above the neutral zone; they sum to one.

    Args:
        mean, deviation: prediction and standard deviation, in label units.
        zone: its lowest and highest value.

    Example:
        >>> [round(share, 2) for share in classes(0.1, 0.1, (-0.1, 0.1))]
        [0.02, 0.48, 0.5]
    """
    low, high = 1 - above(mean, deviation, zone[0]), above(mean, deviation, zone[1])
    return low, max(1 - low - high, 0.0), high


def verdict_names(target: str) -> tuple[str, str, str]:
    """What the classes below, inside and above the neutral zone of a target are called.

    Example:
        >>> verdict_names("arousal"), verdict_names("warmth")
        (('calm', 'neutral', 'aroused'), ('low', 'neutral', 'high'))
    """
    return VERDICTS.get(target, OTHER_VERDICTS)


def verdict(target: str, probabilities: Sequence[float]) -> str:
    """The class that is more likely than not, by its name; "unclear" where none is.

    Example:
        >>> verdict("pleasure", (0.1, 0.7, 0.2)), verdict("pleasure", (0.4, 0.3, 0.3))
        ('neutral', 'unclear')
    """
    best = max(range(3), key=lambda index: probabilities[index])
    return verdict_names(target)[best] if probabilities[best] > NAMED_ABOVE else UNCLEAR


def label_shares(mean: Sequence[float], deviation: Sequence[float], config: Any, labels: str) -> dict[str, float]:
    """The probabilities of the three classes of a target, or of emotion words; they sum to one.

    Args:
        mean, deviation: `(T,)`, prediction and standard deviation in label units.
        config: a `LiminalConfig`.
        labels: the name of a target that was trained, or "emotions".

    Example:
        >>> from liminal_hf import LiminalConfig
        >>> config = LiminalConfig(pooled_size=8, label_std=[0.2] * 3)
        >>> shares = label_shares([0.4, 0.0, 0.0], [0.1] * 3, config, "pleasure")
        >>> {label: round(share, 2) for label, share in shares.items()}
        {'negative': 0.0, 'neutral': 0.07, 'positive': 0.93}
    """
    deviation = [max(value, _LEAST_DEVIATION) for value in deviation]
    if labels == EMOTIONS:
        indices = config.pad_indices
        return emotion_shares([mean[index] for index in indices], [deviation[index] for index in indices], config)
    index = config.targets.index(labels)
    return dict(
        zip(verdict_names(labels), classes(mean[index], deviation[index], config.neutral_zone[index]), strict=True)
    )


def outside(in_domain: float | None) -> bool:
    """Whether a text is more likely unlike the training texts than like them; False where the model can't tell."""
    return in_domain is not None and in_domain < 0.5


def octant(pad: tuple[float, float, float] | list[float], midpoint: float = 0.0) -> str:
    """Mehrabian's name for the octant of PAD space that a point lies in; the midpoint counts as high.

    Example:
        >>> octant((-0.4, 0.3, -0.2))
        'anxious'
    """
    return OCTANTS[(pad[0] >= midpoint, pad[1] >= midpoint, pad[2] >= midpoint)]


def likely_octant(probabilities: Sequence[float]) -> tuple[str, float]:
    """The octant that holds the labels most likely, and how likely.

    Args:
        probabilities: that pleasure, arousal and dominance are above their neutral points. The errors of the three
            count as independent.

    Example:
        >>> likely_octant([0.9, 0.9, 0.5])
        ('exuberant', 0.405)
    """
    share = math.prod(max(value, 1 - value) for value in probabilities)
    return OCTANTS[tuple(value >= 0.5 for value in probabilities)], share  # type: ignore[index]


def statements(
    mean: Sequence[float], deviation: Sequence[float], config: Any, level: float = 0.8, in_domain: float | None = None
) -> dict[str, Any]:
    """What can be said of one text, by target.

    Args:
        mean, deviation: `(T,)`, prediction and standard deviation in label units.
        config: a `LiminalConfig`.
        level: of the intervals.
        in_domain: of the text; below 0.5 every verdict is "unclear".

    Returns:
        `interval` (low and high end), `probability` (that the label is above the neutral point) and `verdict`, each a
        dict by target; with pleasure (or valence), arousal and dominance among the targets also `emotions` (see
        `emotion_shares`), `octant` and `octant_probability`. The octant is "neutral" where none is more likely than
        not, and where all three verdicts are neutral.

    Example:
        >>> from liminal_hf import LiminalConfig
        >>> said = statements([0.4, 0.0, 0.0], [0.1, 0.1, 0.1], LiminalConfig(pooled_size=8, label_std=[0.2] * 3))
        >>> said["verdict"]["pleasure"], round(said["probability"]["pleasure"], 3)
        ('positive', 1.0)
        >>> said["octant"], round(said["octant_probability"], 2)
        ('neutral', 0.25)
    """
    rows: dict[str, Any] = {"interval": {}, "probability": {}, "verdict": {}}
    targets, quantiles, indices = config.targets, config.residual_quantiles, config.pad_indices
    for index, (target, zone) in enumerate(zip(targets, config.neutral_zone, strict=True)):
        m, s = mean[index], max(deviation[index], _LEAST_DEVIATION)
        rows["interval"][target] = interval(m, s, level, None if quantiles is None else quantiles[index])
        rows["probability"][target] = above(m, s, sum(zone) / 2)
        rows["verdict"][target] = UNCLEAR if outside(in_domain) else verdict(target, classes(m, s, zone))
    if indices is not None:
        names = [targets[index] for index in indices]
        name, share = likely_octant([rows["probability"][target] for target in names])
        is_neutral = share <= NAMED_ABOVE or all(rows["verdict"][target] == NEUTRAL for target in names)
        rows["octant"], rows["octant_probability"] = NEUTRAL if is_neutral else name, share
        rows[EMOTIONS] = label_shares(mean, deviation, config, EMOTIONS)
    return rows
