"""What the fields of a `LiminalConfig` may hold; each message names the field and what is allowed.

Requires nothing but the standard library.
"""

import itertools
import math
from typing import Any

from .errors import LiminalError
from .targets import checked_names

_LAYERS = ("last", "mix", "all")
_LIMITS = {
    "latent_size": (1, 16_384),
    "num_outer_steps": (1, 256),
    "num_inner_steps": (1, 256),
    "depth_every": (1, 1_024),
    "memory_slots": (3, 65_536),
    "max_seq_length": (1, 1_000_000),
}
# The fields of a `PersonPrior`; the first may be any number, the last is a share, the others are variances.
PRIOR_FIELDS = (
    *("mean", "residual_within", "residual_between", "reading_within", "reading_between", "deviation", "persistence"),
)
# Several times the largest models of today. A file that asks for more is damaged, or wants to fill the memory.
_ENCODER_LIMITS = {
    "hidden_size": 131_072,
    "intermediate_size": 1_048_576,
    "num_hidden_layers": 1_024,
    "num_attention_heads": 4_096,
    "vocab_size": 16_777_216,
    "max_position_embeddings": 67_108_864,
}
_MOST_WEIGHTS = {"text_config": 10**13, "head": 2**31, "memory": 2**28}
_BOOLEANS = (
    *("project_pooled", "token_attention", "linear_skip", "history_attention", "self_affect", "rinse", "soul_kernel"),
    *("labels_measured", "domain_gauge"),
)
_TEXTS = ("head", "loss", "pooling", "encoder_name_or_path", "encoder_revision")
_OPTIONAL_TEXTS = ("pooling", "encoder_name_or_path", "encoder_revision")
# Lowest and highest value of the fields that hold one number.
_RANGES = {
    "head_dropout": (0.0, 1.0),
    "deep_supervision": (0.0, 1.0),
    "uncertainty_weight": (0.0, math.inf),
    "confidence_weight": (0.0, math.inf),
    "exit_weight": (0.0, math.inf),
    "pooled_scale": (1e-12, math.inf),
}


def check_fields(config: Any) -> None:
    """Raises a LiminalError for a field of a `LiminalConfig` that is out of its range.

    Example:
        >>> from liminal_hf import LiminalConfig
        >>> check_fields(LiminalConfig(pooled_size=8))
    """
    for name, (low, high) in _LIMITS.items():
        value = getattr(config, name)
        _require(config, _is_whole(value, low, high), name, f"a whole number in {low}..{high}")
    whole = config.pooled_size is None or _is_whole(config.pooled_size, 1, 10**6)
    _require(config, whole, "pooled_size", "a whole number in 1..1000000")
    _require(config, config.pooled_layers in _LAYERS, "pooled_layers", f"one of {_LAYERS}")
    _require(config, config.weights_format in ("full", "head_only"), "weights_format", "'full' or 'head_only'")
    for name in _BOOLEANS:
        _require(config, isinstance(getattr(config, name), bool), name, "True or False")
    for name in _TEXTS:
        value = getattr(config, name)
        _require(config, isinstance(value, str) or (value is None and name in _OPTIONAL_TEXTS), name, "a text")
    for name, (lowest, highest) in _RANGES.items():
        value = getattr(config, name)
        wanted = f"a finite number in {lowest:g}..{highest:g}" if highest < math.inf else "a finite number"
        wanted += "" if highest < math.inf else ", above 0" if lowest > 0 else ", 0 or above"
        _require(config, _is_number(value) and lowest <= value <= highest, name, wanted)
    layers = config.encoder_layers is None or _is_whole(config.encoder_layers, 1, _ENCODER_LIMITS["num_hidden_layers"])
    _require(config, layers, "encoder_layers", "a whole number from 1 on, or None for all")
    threshold = config.exit_threshold
    _require(config, threshold is None or _is_number(threshold), "exit_threshold", "a finite number, or None for never")
    if config.head == "v8":
        _check_depth(config)
    _check_targets(config)
    _check_sizes(config)


def _check_depth(config: Any) -> None:
    if config.text_config is None:
        return
    _require(config, config.pooled_layers == "all", "pooled_layers", "'all' for the head v8, which reads every layer")
    steps = len(config.depth_layers)
    wanted = (
        f"{steps} for the head v8, because the encoder has {config.num_hidden_layers} layers and depth_every is "
        f"{config.depth_every} (leave it out)"
    )
    _require(config, config.num_outer_steps == steps, "num_outer_steps", wanted)


def _require(config: Any, fulfilled: bool, name: str, wanted: str) -> None:
    if not fulfilled:
        raise LiminalError(f"LiminalConfig: {name} must be {wanted}, got {getattr(config, name)!r}.")


def _check_targets(config: Any) -> None:
    names = checked_names(config.targets)
    per_target = f"a list of finite numbers, one per target ({', '.join(names)})"
    for name in ("label_mean", "label_std", "uncertainty_scale"):
        value = getattr(config, name)
        fits = isinstance(value, list | tuple) and len(value) == len(names) and all(map(_is_number, value))
        _require(config, fits, name, per_target)
    for name in ("label_std", "uncertainty_scale"):
        _require(config, min(getattr(config, name)) > 0, name, "above 0 for every target")
    trained = config.trained_targets
    fits = isinstance(trained, list | tuple) and [type(value) for value in trained] == [bool] * len(names)
    _require(config, fits, "trained_targets", f"a list of True or False, one per target ({', '.join(names)})")
    limits = config.label_range
    fits = isinstance(limits, list | tuple) and len(limits) == 2 and all(map(_is_number, limits))
    _require(config, fits and limits[0] < limits[1], "label_range", "two numbers [low, high] with low < high")
    for name in ("prediction_quantiles", "residual_quantiles"):
        rows = getattr(config, name)
        if rows is not None:
            fits = isinstance(rows, list | tuple) and len(rows) == len(names) and all(map(_is_rising, rows))
            wanted = f"a list per target ({', '.join(names)}), each of 2 or more finite numbers that rise"
            _require(config, fits, name, wanted)
    for name in ("neutral_point", "neutral_width"):
        value = getattr(config, name)
        fits = value is None or (len(value) == len(names) and all(map(_is_number, value)))
        _require(config, fits, name, f"{per_target}, or None")
    prior = config.person_prior
    if prior is not None:
        fits = (
            isinstance(prior, dict)
            and set(prior) == set(PRIOR_FIELDS)
            and all(
                isinstance(values, list | tuple) and len(values) == len(names) and all(map(_is_number, values))
                for values in prior.values()
            )
        )
        _require(config, fits, "person_prior", f"None, or for each of {', '.join(PRIOR_FIELDS)} {per_target}")
        fits = min(min(prior[name]) for name in PRIOR_FIELDS[1:]) >= 0 and max(prior["persistence"]) <= 1
        _require(config, fits, "person_prior", "of variances from 0 on, and a persistence in 0..1")
    _require(config, min(config.neutral_width or [1]) > 0, "neutral_width", "above 0 for every target")


def _check_sizes(config: Any) -> None:
    """What would fill the memory is an error before anything is built."""
    for name, most in _ENCODER_LIMITS.items():
        value = getattr(config.text_config, name, None)
        lowest = -1 if name == "max_position_embeddings" else 0  # XLNet has -1 for "no limit"
        if isinstance(value, int) and not lowest <= value <= most:
            raise LiminalError(f"LiminalConfig: text_config.{name} must be in {lowest}..{most}, got {value}.")
    width, layers = config.hidden_size, config.num_hidden_layers
    pooled = width * (layers + 1 if config.pooled_layers == "all" else 1)
    weights = {
        "text_config": layers * 4 * width**2 + config.vocab_size * width,
        "head": pooled * config.latent_size,
        "memory": config.memory_slots * config.latent_size,
    }
    for name, count in weights.items():
        if count > _MOST_WEIGHTS[name]:
            raise LiminalError(
                f"LiminalConfig: the sizes of the {name} ask for {count:.1e} numbers, more than the "
                f"{_MOST_WEIGHTS[name]:.1e} that are taken. Lower hidden_size, latent_size or memory_slots."
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_rising(values: object) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) >= 2
        and all(map(_is_number, values))
        and all(low <= high for low, high in itertools.pairwise(values))
    )
