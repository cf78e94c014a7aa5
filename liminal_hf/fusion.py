"""Late fusion: several readings of one moment (text, voice, face) as one, each weighted by the inverse of its variance.

Requires numpy. No real speech or images were at hand, nor the weights of any audio model: the formula is tested on
simulated readings with a known answer, and what it gains on people is not measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .modeling.errors import LiminalError
from .modeling.targets import DIMENSIONS

Floats = NDArray[np.float64]

SCALES = ("pad", "audeering")
# audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim gives arousal, dominance, valence, each in about 0..1
# (Wagner et al. 2023, "Dawn of the transformer era in speech emotion recognition").
_AUDEERING = ("arousal", "dominance", "valence")


def fuse(
    readings: Sequence[Any] | Mapping[str, Any],
    uncertainty: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    scale: str | Sequence[str] | Mapping[str, str] = "pad",
    rho: float = 0.0,
) -> dict[str, Any]:
    """One reading from several, per dimension the mean with weights by inverse variance.

    With errors of variances v_i that are independent, the weights are proportional to 1 / v_i and the variance of the
    mean is 1 / sum(1 / v_i). Errors of readings of one person correlate; `rho` is the correlation between any two of
    them. Then, with s_i = sqrt(v_i) and the k readings of a dimension, the best weights and the variance follow from
    the covariance S = s_i s_j (rho + (1 - rho) [i = j]), whose inverse is known in closed form: w = S^-1 1 / (1' S^-1
    1), variance 1 / (1' S^-1 1). A weight may then be negative: where one reading is far worse than another and repeats
    its error, that error is taken out.

    Args:
        readings: two or more (or one), by name or in a list, each of
            a row of `pipeline("pad-regression")`, or any dict with `pleasure` (or `valence`), `arousal` and `dominance`
            and perhaps `uncertainty`, a standard deviation for each; what is None or absent is missing;
            an output of the model, with `logits` and `uncertainty`, `(batch, 3)` or `(3,)`;
            an array `(3,)` or `(batch, 3)` in the order of the scale, NaN where one is missing;
            None, for a modality that is not there.
        uncertainty: standard deviations, in the units of the reading, for readings that bring none (they go before its
            own): for each reading None, a number, or 3 numbers in the order of the scale; a mapping by name may leave
            names out.
        scale: of all readings, or of each: "pad" (pleasure, arousal, dominance in -1..1), or "audeering" (arousal,
            dominance, valence in 0..1, as audeering's dimensional wav2vec2 gives them; x becomes 2 x - 1, and a
            standard deviation doubles).
        rho: correlation between the errors of any two readings, 0 <= rho < 1.

    Returns:
        `pleasure`, `arousal`, `dominance` (-1..1, clamped), `uncertainty` (a standard deviation per dimension) and
        `weights` (per dimension the weight of each reading, by its name or number; they sum to 1, and a missing reading
        has 0). A dimension that no reading has is None. With a batch, arrays `(batch,)` instead of numbers, NaN where
        nothing is known.

    Raises:
        LiminalError: no reading, a reading without uncertainty, shapes that do not fit, an unknown scale, a rho outside
            of 0..1.

    Example:
        >>> text = {"pleasure": 0.5, "arousal": 0.0, "uncertainty": {"pleasure": 0.1, "arousal": 0.2}}
        >>> voice = [0.8, 0.6, 0.5]  # arousal, dominance, valence
        >>> both = fuse({"text": text, "voice": voice}, {"voice": 0.1}, scale={"voice": "audeering"})
        >>> round(both["pleasure"], 3), round(both["arousal"], 3), round(both["dominance"], 3)
        (0.4, 0.3, 0.2)
        >>> {name: round(weight, 3) for name, weight in both["weights"]["pleasure"].items()}
        {'text': 0.8, 'voice': 0.2}
        >>> round(both["uncertainty"]["pleasure"], 4)  # (1 / .1^2 + 1 / .2^2) ** -.5
        0.0894
    """
    if not isinstance(rho, int | float) or not 0 <= rho < 1:
        raise LiminalError(
            f"rho, the correlation between the errors of two readings, must be in 0..1 (below 1): {rho!r}."
        )
    names, given = _by_name(readings)
    scales = dict.fromkeys(names, scale) if isinstance(scale, str) else _each(scale, names, "pad", "scale")
    doubts = _each(uncertainty, names, None, "uncertainty")
    read = {name: _read(name, one, doubts[name], str(scales[name])) for name, one in zip(names, given, strict=True)}
    present = {name: one for name, one in read.items() if one is not None}
    if not present:
        raise LiminalError("There is no reading to fuse: all are None.")
    try:
        values, deviations = (np.stack(np.broadcast_arrays(*part)) for part in zip(*present.values(), strict=True))
    except ValueError as error:
        shapes = ", ".join(f"{name}: {one[0].shape}" for name, one in present.items())
        raise LiminalError(f"The readings have different numbers of rows ({shapes}).") from error
    mean, deviation, shares = _fused(values, deviations, float(rho))
    weights = {name: np.zeros(mean.shape) for name in names} | dict(zip(present, shares, strict=True))

    def plain(numbers: Floats) -> Any:
        return numbers if numbers.ndim else None if np.isnan(numbers) else float(numbers)

    columns = dict(enumerate(DIMENSIONS))
    return {
        **{name: plain(np.clip(mean[..., index], -1, 1)) for index, name in columns.items()},
        "uncertainty": {name: plain(deviation[..., index]) for index, name in columns.items()},
        "weights": {
            name: {one: plain(share[..., index]) for one, share in weights.items()} for index, name in columns.items()
        },
    }


def _fused(values: Floats, deviations: Floats, rho: float) -> tuple[Floats, Floats, Floats]:
    """Mean, standard deviation and weights over the first axis; NaN is missing."""
    known = ~np.isnan(values)
    count = known.sum(0)
    inverse = np.where(known, 1 / np.where(known, deviations, 1.0), 0.0)  # 1 / s_i
    # S^-1 1 = (u_i - rho / (1 + (k - 1) rho) * sum(u)) u_i / (1 - rho), with u_i = 1 / s_i (Sherman and Morrison 1950).
    common = rho / (1 + np.maximum(count - 1, 0) * rho) * inverse.sum(0)
    raw = inverse * (inverse - common) / (1 - rho)
    total = raw.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(count > 0, raw / total, 0.0)
        deviation = np.where(count > 0, total**-0.5, np.nan)
    mean = np.where(count > 0, (weights * np.where(known, values, 0.0)).sum(0), np.nan)
    return mean, deviation, weights


def _by_name(readings: Any) -> tuple[list[Any], list[Any]]:
    is_one = isinstance(readings, Mapping) and any(name in readings for name in (*DIMENSIONS, "valence", "logits"))
    if is_one or not isinstance(readings, Mapping | list | tuple) or not readings:
        raise LiminalError("fuse takes several readings: fuse([text, voice]) or fuse({'text': row, 'voice': row}).")
    return (list(readings), list(readings.values())) if isinstance(readings, Mapping) else (
        list(range(len(readings))), list(readings)
    )  # fmt: skip


def _each(values: Any, names: list[Any], default: Any, what: str) -> dict[Any, Any]:
    """A value for each reading, given by name or in a list."""
    if values is None:
        return dict.fromkeys(names, default)
    if isinstance(values, Mapping):
        if unknown := [name for name in values if name not in names]:
            raise LiminalError(f"{what} names {unknown[0]!r}, and the readings are {names}.")
        return {name: values.get(name, default) for name in names}
    if isinstance(values, str) or not hasattr(values, "__len__") or len(values) != len(names):
        raise LiminalError(f"{what} must be given for each of the {len(names)} readings, got {values!r}.")
    return dict(zip(names, values, strict=True))


def _read(name: Any, reading: Any, doubt: Any, scale: str) -> tuple[Floats, Floats] | None:
    """Values and standard deviations `(..., 3)`, as pleasure, arousal and dominance in -1..1; NaN is missing."""
    if reading is None:
        return None
    if scale not in SCALES:
        raise LiminalError(f"Reading {name!r}: scale must be one of {', '.join(SCALES)}, got {scale!r}.")
    order = DIMENSIONS if scale == "pad" else _AUDEERING
    given, own = reading, None
    if isinstance(reading, Mapping) and reading.get("logits") is None:
        given, own = _of_row(reading, order), reading.get("uncertainty")
        own = _of_row(own, order) if isinstance(own, Mapping) else own
    elif isinstance(reading, Mapping):
        given, own = reading["logits"], reading.get("uncertainty")
    values = _numbers(given, f"Reading {name!r}")
    doubt = own if doubt is None else doubt
    if doubt is None:
        raise LiminalError(
            f"Reading {name!r} has no uncertainty, so that its weight is not known. Give a standard deviation in its "
            f"own units, for example its error on a development set: uncertainty={{{name!r}: 0.2}}"
        )
    deviations = np.broadcast_to(_numbers(doubt, f"The uncertainty of {name!r}", of_three=False), values.shape)
    known = ~np.isnan(values)
    if not (np.isfinite(deviations[known]).all() and (deviations[known] > 0).all()):
        raise LiminalError(f"The uncertainty of {name!r} must be above 0 wherever there is a value, got {doubt!r}.")
    if scale == "audeering":
        values, deviations = 2 * values[..., [2, 0, 1]] - 1, 2 * deviations[..., [2, 0, 1]]
    return values, np.where(known if scale == "pad" else known[..., [2, 0, 1]], deviations, np.nan)


def _of_row(row: Mapping[str, Any], order: Sequence[str]) -> list[Any]:
    same = {"pleasure": "valence", "valence": "pleasure"}
    found = [row.get(name) if row.get(name) is not None else row.get(same.get(name, name)) for name in order]
    return [np.nan if value is None else value for value in found]


def _numbers(values: Any, what: str, of_three: bool = True) -> Floats:
    try:
        if hasattr(values, "detach"):
            values = values.detach().float().cpu().numpy()
        array: ArrayLike = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise LiminalError(f"{what} must hold numbers, got {values!r}.") from error
    numbers = np.asarray(array)
    if np.isinf(numbers).any() or (of_three and (numbers.ndim not in (1, 2) or numbers.shape[-1] != 3)):
        raise LiminalError(
            f"{what} must be 3 finite numbers (pleasure, arousal, dominance), or (batch, 3): {values!r}."
        )
    return numbers
