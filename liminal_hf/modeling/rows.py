"""One row of an answer from one row of the model's numbers, in words that people can use.

Requires transformers.
"""

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .answers import NEUTRAL, UNCLEAR, octant, outside, statements
from .answers import OCTANTS as OCTANTS
from .configuration_liminal import LiminalConfig
from .texts import NOT_FINITE

_STATEMENTS = ("interval", "probability", "verdict")


def percentile(value: float, quantiles: list[float]) -> float:
    """Where a value lies among evenly spaced quantiles, 0..100, linear in between.

    Example:
        >>> percentile(0.25, [0.0, 0.5, 1.0])
        25.0
    """
    last = len(quantiles) - 1
    right = bisect.bisect_left(quantiles, value)
    if right == 0:
        return 0.0
    if right > last:
        return 100.0
    low, high = quantiles[right - 1], quantiles[right]
    return 100.0 * (right - 1 + (value - low) / (high - low)) / last


def overall_confidence(uncertainty: Sequence[float], config: LiminalConfig) -> float:
    """One number in 0..1 that falls as the expected error grows: exp(-mean of uncertainty / spread of the labels).

    A model that knows no more than the mean of its labels has 0.37. Targets that were not trained do not count.

    Example:
        >>> round(overall_confidence([0.0, 0.0, 0.0], LiminalConfig(pooled_size=8)), 3)
        1.0
    """
    rows = zip(uncertainty, config.label_std, config.trained_targets, strict=True)
    relative = [value / spread for value, spread, is_trained in rows if is_trained]
    return math.exp(-sum(relative) / len(relative))


def describe(
    logits: Sequence[float] | None,
    uncertainty: Sequence[float] | None,
    config: LiminalConfig,
    *,
    in_domain: float | None = None,
    windows: Iterable[Mapping[str, Any]] | None = None,
    truncated: bool = False,
    error: str | None = None,
) -> dict[str, Any]:
    """One row of the task's result from one row of the model's.

    Args:
        logits: a number per target in label units; clamped to the config's `label_range`. None with an `error`.
        uncertainty: standard deviation per target, or None.
        config: the model's config.
        in_domain: how likely the text is one like the training texts, or None.
        windows: what is said of each window of a text that was read in several.
        truncated: whether the end of the text was left out.
        error: why there are no numbers.

    Returns:
        See `PADRegressionPipeline`. A target that was not trained is None; so is everything where there is an `error`.

    Example:
        >>> row = describe([0.2, 2.0, -0.1], None, LiminalConfig(pooled_size=8))
        >>> row["arousal"], row["octant"]
        (1.0, 'dependent')
        >>> describe([float("nan"), 0.0, 0.0], None, LiminalConfig(pooled_size=8))["error"]
        'the model gave a number that is not finite'
    """
    targets, trained = config.targets, config.trained_targets
    low, high = config.label_range
    numbers = [
        *((value for value, is_trained in zip(logits or (), trained, strict=False) if is_trained)),
        *((value for value, is_trained in zip(uncertainty or (), trained, strict=False) if is_trained)),
    ]
    if error is None and not all(map(math.isfinite, numbers)):
        error = NOT_FINITE
    if error is not None or logits is None or not any(trained):
        names = (*targets, "confidence", "octant", "octant_probability", "emotions", "uncertainty", "percentile")
        empty = dict.fromkeys([*names, *_STATEMENTS, "in_domain"])
        return {**empty, "windows": None, "truncated": truncated, "error": error}

    def per_target(values: Iterable[Any]) -> dict[str, Any]:
        rows = zip(targets, values, trained, strict=True)
        return {name: value if is_trained else None for name, value, is_trained in rows}

    clamped = [min(max(value, low), high) for value in logits]
    quantiles = config.prediction_quantiles
    indices = config.pad_indices
    said = None if uncertainty is None else statements(logits, uncertainty, config, in_domain=in_domain)
    has_octant = indices is not None and all(trained[index] for index in indices)
    name = None
    if indices is not None and has_octant:
        name = said["octant"] if said else octant([clamped[index] for index in indices], (low + high) / 2)
    return {
        **per_target(clamped),
        "confidence": None if uncertainty is None else overall_confidence(uncertainty, config),
        "octant": name,
        "octant_probability": said["octant_probability"] if said and has_octant else None,
        "emotions": said["emotions"] if said and has_octant and not outside(in_domain) else None,
        "uncertainty": None if uncertainty is None else per_target(uncertainty),
        "percentile": None if quantiles is None else per_target(map(percentile, clamped, quantiles)),
        **{name: None if said is None else per_target(said[name].values()) for name in _STATEMENTS},
        "in_domain": in_domain,
        "windows": None if windows is None else list(windows),
        "truncated": truncated,
        "error": None,
    }


def in_words(row: Mapping[str, Any]) -> str:
    """The verdicts of a row that say something, its octant, and whether the text is unlike the training texts.

    Example:
        >>> config = LiminalConfig(pooled_size=8, label_std=[0.2] * 3)
        >>> in_words(describe([0.5, 0.4, 0.0], [0.1, 0.1, 0.1], config))
        'positive, aroused'
        >>> in_words(describe([0.0, 0.0, 0.0], [0.1, 0.1, 0.1], config, in_domain=0.1))
        'unclear; unlike the training texts'
    """
    verdicts = [word for word in (row["verdict"] or {}).values() if word is not None]
    telling = [word for word in verdicts if word not in (NEUTRAL, UNCLEAR)]
    parts = [", ".join(telling or sorted(set(verdicts)))]
    if row["octant"] is not None and row["octant"] != NEUTRAL:
        share = row["octant_probability"]
        parts.append(row["octant"] if share is None else f"{row['octant']} ({share:.0%})")
    if outside(row["in_domain"]):
        parts.append("unlike the training texts")
    return "; ".join(part for part in parts if part)
