"""Figures that only the studies need: calibrated scale and spread, conformal intervals, bootstraps of any statistic.

Requires numpy. Arrays as in `liminal_hf.metrics`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from liminal_hf.metrics import Array, ccc, checked, checked_uncertainty, mean_pearson, pearson, resamples
from liminal_hf.modeling.errors import LiminalError


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval: `low` and `high` enclose 95% of the resampled figures."""

    estimate: float
    low: float
    high: float


def absolute_errors(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """|prediction - label|, NaN where the label is missing. Arguments and errors as in `pearson`; returns `(N, T)`.

    Example:
        >>> absolute_errors([[0.5, 0.5]], [[0.0, -100]]).tolist()
        [[0.5, nan]]
    """
    predictions, labels, present = checked(predictions, labels)
    return np.where(present, np.abs(predictions - labels), np.nan)


def gaussian_factors(levels: Sequence[float] = (0.5, 0.8, 0.9), dimensions: int = 3) -> Array:
    """Factors that make intervals of these levels from a standard deviation if errors were Gaussian.

    Args:
        levels: shares in 0..1, each excluded.
        dimensions: number of columns.

    Returns:
        `(levels, dimensions)`.

    Example:
        >>> gaussian_factors([0.9]).round(3).tolist()
        [[1.645, 1.645, 1.645]]
    """
    return np.array([[NormalDist().inv_cdf((1 + level) / 2)] * dimensions for level in _levels(levels)])


def conformal_factors(
    residual_abs: ArrayLike, uncertainty: ArrayLike, levels: Sequence[float] = (0.5, 0.8, 0.9)
) -> Array:
    """Split-conformal factors: prediction ± factor * uncertainty holds a new label with at least this probability.

    Per dimension, the ceil((n + 1) * level)-th smallest residual / uncertainty of a calibration set that the model was
    neither trained nor selected on (Papadopoulos et al. 2008; Lei et al. 2018, "Distribution-free predictive inference
    for regression"). Infinite where n is too small for the level.

    Args:
        residual_abs: `(N, T)` absolute errors on the calibration set, NaN where the label is missing.
        uncertainty: `(N, T)`, positive.
        levels: shares in 0..1, each excluded.

    Returns:
        `(levels, T)`, float64.

    Raises:
        LiminalError: shapes differ, or an uncertainty is not positive and finite.

    Example:
        >>> residuals = np.linspace(0.01, 0.99, 99)[:, None]
        >>> conformal_factors(residuals, np.ones((99, 1)), levels=(0.5, 0.9)).round(2).tolist()
        [[0.5], [0.9]]
    """
    residuals, uncertainty = _residuals(residual_abs, uncertainty)
    if not (uncertainty > 0).all():
        raise LiminalError("conformal_factors divides by the uncertainty, so every value must be above 0.")
    factors = np.full((len(levels), residuals.shape[1]), np.inf)
    for dimension, scores in enumerate((residuals / uncertainty).T):
        scores = np.sort(scores[~np.isnan(scores)])
        for row, level in enumerate(_levels(levels)):
            # Rounded, because 100 * 0.9 may come out a hair above 90 and ceil would then go one too far.
            rank = int(np.ceil(round((len(scores) + 1) * level, 9)))
            if rank <= len(scores):
                factors[row, dimension] = scores[rank - 1]
    return factors


def interval_coverage(residual_abs: ArrayLike, uncertainty: ArrayLike, factors: ArrayLike) -> Array:
    """Share of labels inside prediction ± factor * uncertainty, per level and dimension.

    Args:
        residual_abs: `(N, T)` absolute errors, NaN where the label is missing.
        uncertainty: `(N, T)`, not negative.
        factors: `(levels, T)`, from `conformal_factors` or `gaussian_factors`.

    Returns:
        `(levels, T)` in 0..1; NaN for a dimension without labels.

    Example:
        >>> interval_coverage([[0.1], [0.2], [0.4], [0.8]], np.full((4, 1), 0.2), [[1.0], [2.0]]).tolist()
        [[0.5], [0.75]]
    """
    residuals, uncertainty = _residuals(residual_abs, uncertainty)
    factors = np.asarray(factors, dtype=np.float64)
    if factors.ndim != 2 or factors.shape[1] != residuals.shape[1]:
        raise LiminalError(f"factors must have shape (levels, {residuals.shape[1]}), got {factors.shape}.")
    present = ~np.isnan(residuals)
    covered = (residuals[None] <= factors[:, None] * uncertainty[None]) & present
    with np.errstate(invalid="ignore"):
        return covered.sum(1) / present.sum(0)


def affine_calibration(predictions: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Slope and intercept per target that maximise CCC here: mean and standard deviation become those of the labels.

    For a fixed correlation r >= 0, CCC is largest (= r) when both moments agree; least squares would instead shrink the
    spread by r and punish a model whose spread is right. Where predictions or labels are constant, the slope is 0.

    Args:
        predictions, labels: as in `pearson`; the development set, never the test set.

    Returns:
        slope `(T,)` and intercept `(T,)`.

    Example:
        >>> slope, intercept = affine_calibration([[0.0], [1.0]], [[1.0], [5.0]])
        >>> slope.tolist(), intercept.tolist()
        ([4.0], [1.0])
    """
    predictions, labels, present = checked(predictions, labels)
    p, y = (np.ma.array(values, mask=~present) for values in (predictions, labels))
    sign = np.nan_to_num(np.sign(pearson(predictions, labels)))
    spread = np.where(sign == 0, 1.0, p.std(0).filled(1.0))
    slope = np.where(np.isnan(sign), 0.0, y.std(0).filled(0.0) / spread * sign)
    return slope, y.mean(0).filled(np.nan) - slope * p.mean(0).filled(np.nan)


def affine_calibrated_ccc(
    dev_predictions: ArrayLike, dev_labels: ArrayLike, predictions: ArrayLike, labels: ArrayLike
) -> Array:
    """CCC on one set after `affine_calibration` on another: agreement with the scale taken out of the comparison.

    Args:
        dev_predictions, dev_labels: what the scale is fitted on.
        predictions, labels: what is measured.

    Returns:
        `(T,)`, float64.

    Example:
        >>> dev, test = np.array([[0.0], [1.0], [2.0]]), np.array([[0.5], [1.5]])
        >>> affine_calibrated_ccc(dev / 10, dev, test / 10, test).round(6).tolist()
        [1.0]
    """
    slope, intercept = affine_calibration(dev_predictions, dev_labels)
    return ccc(np.asarray(predictions, dtype=np.float64) * slope + intercept, labels)


def bootstrap(statistic: Callable[..., float], *arrays: ArrayLike, n: int = 2000, seed: int = 0) -> Interval:
    """95% percentile bootstrap of a figure over rows (Efron & Tibshirani 1993); it holds no seed variance.

    Args:
        statistic: takes the resampled arrays, returns a number.
        arrays: `(N, T)` each, the labels last; a resample without any label is left out.
        n: number of resamples.
        seed: of the resampling.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = generator.normal(size=(200, 3))
        >>> found = bootstrap(mean_pearson, labels + generator.normal(size=(200, 3)), labels, n=200)
        >>> found.low < found.estimate < found.high
        True
    """
    values = [*(checked(one, arrays[-1])[0] for one in arrays[:-1]), checked(arrays[-1], arrays[-1])[1]]
    present = checked(arrays[-1], arrays[-1])[2]
    figures = [statistic(*(one[rows] for one in values)) for rows in resamples(present, n, seed)]
    low, high = np.nanpercentile(figures, [2.5, 97.5])
    return Interval(float(statistic(*values)), float(low), float(high))


def paired_bootstrap(
    pred_a: ArrayLike,
    pred_b: ArrayLike,
    labels: ArrayLike,
    statistic: Callable[[Array, Array], float] = mean_pearson,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """`bootstrap` of statistic(a) - statistic(b) on the same resampled rows; an interval without 0 is a difference.

    Args:
        pred_a, pred_b: `(N, T)` predictions of two systems for the same rows.
        labels, statistic, n, seed: as in `bootstrap`.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = generator.normal(size=(200, 3))
        >>> good, bad = (labels + size * generator.normal(size=(200, 3)) for size in (0.5, 2.0))
        >>> found = paired_bootstrap(good, bad, labels, n=200)
        >>> 0 < found.low < found.estimate < found.high
        True
    """
    return bootstrap(lambda a, b, y: statistic(a, y) - statistic(b, y), pred_a, pred_b, labels, n=n, seed=seed)


def _residuals(residual_abs: ArrayLike, uncertainty: ArrayLike) -> tuple[Array, Array]:
    residuals = np.asarray(residual_abs, dtype=np.float64)
    if residuals.ndim != 2 or (residuals < 0).any():
        raise LiminalError(f"residual_abs must be absolute errors of shape (N, T); got shape {residuals.shape}.")
    return residuals, checked_uncertainty(uncertainty, residuals.shape)


def _levels(levels: Sequence[float]) -> Sequence[float]:
    if not all(0 < level < 1 for level in levels):
        raise LiminalError(f"Levels are shares between 0 and 1, such as 0.9; got {tuple(levels)}.")
    return levels
