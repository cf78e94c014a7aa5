"""How good PAD predictions are: agreement, calibration, what the uncertainty is worth, and intervals for all of it.

Requires numpy and pandas. Arrays are `(N, 3)` (or any number of columns) in label units; a label of -100 is missing,
and its dimension of that row counts nowhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL

OUTPUTS = ("logits", "confidences", "uncertainty")
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with its bootstrap interval: `low` and `high` enclose 95% of the resampled figures."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The figure of a minus that of b, with the interval of the difference; one that excludes 0 is a real one."""

    difference: float
    low: float
    high: float


def pearson(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Pearson's correlation r per dimension, -1..1.

    It is 0, not NaN, where predictions or labels are constant (one row included): a constant explains nothing. A
    dimension without any label gives NaN.

    Args:
        predictions: `(N, 3)`, finite.
        labels: `(N, 3)`, -100 where missing.

    Returns:
        `(3,)`, float64.

    Raises:
        ValueError: shapes differ, no rows, or a value is NaN or infinite; the message says where.

    Example:
        >>> pearson([[0, 5, 1], [1, 5, 0], [2, 5, -1]], [[0, 1, 1], [2, 2, 0], [4, 3, -100]]).tolist()
        [1.0, 0.0, 1.0]
    """
    return _per_dimension(_correlation, predictions, labels)


def ccc(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Lin's concordance correlation per dimension: 2 cov / (var_p + var_l + (mean_p - mean_l)^2), with 1/N moments.

    Agreement in place, spread and order at once; 1 only for predictions that equal the labels, 0 for constant ones.
    Lin 1989, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45.
    Arguments, result and errors as in `pearson`.

    Example:
        >>> ccc([[1.0], [2.0], [3.0]], [[2.0], [3.0], [4.0]]).round(3).tolist()
        [0.571]
    """
    return _per_dimension(_concordance, predictions, labels)


def mae(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Mean absolute error per dimension. Arguments, result and errors as in `pearson`.

    Example:
        >>> mae([[0.0, 0.5], [0.0, 0.5]], [[1.0, 0.5], [-1.0, -100]]).tolist()
        [1.0, 0.0]
    """
    return _per_dimension(lambda p, y: np.abs(p - y).mean(), predictions, labels)


def rmse(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Root of the mean squared error per dimension. Arguments, result and errors as in `pearson`.

    Example:
        >>> rmse([[3.0], [0.0]], [[0.0], [4.0]]).round(4).tolist()
        [3.5355]
    """
    return _per_dimension(lambda p, y: np.sqrt(np.square(p - y).mean()), predictions, labels)


def sd_ratio(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Standard deviation of the predictions over that of the labels, per dimension: how much of the spread is dared.

    0 where the labels are constant. Arguments, result and errors as in `pearson`.

    Example:
        >>> sd_ratio([[0.0], [1.0]], [[-1.0], [1.0]]).tolist()
        [0.5]
    """
    return _per_dimension(lambda p, y: p.std() / y.std() if np.ptp(y) > 0 else 0.0, predictions, labels)


def hope(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Hope = 1 - MAE over all dimensions, with the MAE clipped to 0..1. Arguments and errors as in `pearson`.

    Example:
        >>> hope([[0.0, 0.0]], [[0.25, -0.25]])
        0.75
    """
    predictions, labels, present = _checked(predictions, labels)
    return float(1 - np.clip(np.abs(predictions - labels)[present].mean(), 0, 1))


def faith(confidences: ArrayLike) -> float:
    """Faith = the root of the mean confidence.

    Args:
        confidences: `(N,)` or `(N, K)`, in 0..1.

    Raises:
        ValueError: nothing given, or a value outside 0..1 (NaN included).

    Example:
        >>> faith([[0.25, 0.25]])
        0.5
    """
    values = np.asarray(confidences, dtype=np.float64)
    if values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("faith needs confidences in 0..1, as the model returns them; got none or values outside.")
    return float(np.sqrt(values.mean()))


def love(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Love = exp(-MSE) * (1 - the unbiased variance of all predictions, clipped to 0..1), in 0..1.

    The MSE is over all dimensions in label units; the variance is over all N x 3 predictions at once. Arguments and
    errors as in `pearson`.

    Example:
        >>> round(love([[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]), 4)
        0.3679
    """
    predictions, labels, present = _checked(predictions, labels)
    spread = predictions.var(ddof=1) if predictions.size > 1 else 0.0
    return float(np.exp(-np.square(predictions - labels)[present].mean()) * (1 - np.clip(spread, 0, 1)))


def absolute_errors(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """|prediction - label|, NaN where the label is missing. Arguments and errors as in `pearson`; returns `(N, 3)`.

    Example:
        >>> absolute_errors([[0.5, 0.5]], [[0.0, -100]]).tolist()
        [[0.5, nan]]
    """
    predictions, labels, present = _checked(predictions, labels)
    return np.where(present, np.abs(predictions - labels), np.nan)


def uncertainty_spearman(predictions: ArrayLike, labels: ArrayLike, uncertainty: ArrayLike) -> Array:
    """Spearman's rank correlation of the uncertainty with the absolute error, per dimension, ties averaged.

    Above 0 means that the model knows where it errs; a constant uncertainty gives 0.

    Args:
        predictions, labels: as in `pearson`.
        uncertainty: `(N, 3)`, finite and not negative; its scale does not matter.

    Returns:
        `(3,)`, float64.

    Example:
        >>> uncertainty_spearman([[0.0], [0.0], [0.0]], [[0.1], [0.2], [0.9]], [[1.0], [2.0], [3.0]]).tolist()
        [1.0]
    """
    errors = absolute_errors(predictions, labels)
    uncertainty = _checked_uncertainty(uncertainty, errors.shape)
    values = []
    for error, sigma in zip(errors.T, uncertainty.T, strict=True):
        present = ~np.isnan(error)
        ranks = pd.DataFrame({"error": error[present], "sigma": sigma[present]}).rank().to_numpy()
        values.append(_correlation(ranks[:, 0], ranks[:, 1]) if present.any() else np.nan)
    return np.array(values)


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
    return np.array([[NormalDist().inv_cdf((1 + level) / 2)] * dimensions for level in _checked_levels(levels)])


def conformal_factors(
    residual_abs: ArrayLike, uncertainty: ArrayLike, levels: Sequence[float] = (0.5, 0.8, 0.9)
) -> Array:
    """Split-conformal factors: prediction ± factor * uncertainty holds a new label with at least this probability.

    Per dimension, the ceil((n + 1) * level)-th smallest residual / uncertainty of a calibration set that the model was
    neither trained nor selected on (Papadopoulos et al. 2008; Lei et al. 2018, "Distribution-free predictive inference
    for regression"). Infinite where n is too small for the level.

    Args:
        residual_abs: `(N, 3)` absolute errors on the calibration set, NaN where the label is missing.
        uncertainty: `(N, 3)`, positive.
        levels: shares in 0..1, each excluded.

    Returns:
        `(levels, 3)`, float64.

    Raises:
        ValueError: shapes differ, or an uncertainty is not positive and finite.

    Example:
        >>> residuals = np.linspace(0.01, 0.99, 99)[:, None]
        >>> conformal_factors(residuals, np.ones((99, 1)), levels=(0.5, 0.9)).round(2).tolist()
        [[0.5], [0.9]]
    """
    residuals, uncertainty = _checked_residuals(residual_abs, uncertainty)
    if not (uncertainty > 0).all():
        raise ValueError("conformal_factors divides by the uncertainty, so every value must be above 0.")
    factors = np.full((len(levels), residuals.shape[1]), np.inf)
    for dimension, scores in enumerate((residuals / uncertainty).T):
        scores = np.sort(scores[~np.isnan(scores)])
        for row, level in enumerate(_checked_levels(levels)):
            # Rounded, because 100 * 0.9 may come out a hair above 90 and ceil would then go one too far.
            rank = int(np.ceil(round((len(scores) + 1) * level, 9)))
            if rank <= len(scores):
                factors[row, dimension] = scores[rank - 1]
    return factors


def interval_coverage(residual_abs: ArrayLike, uncertainty: ArrayLike, factors: ArrayLike) -> Array:
    """Share of labels inside prediction ± factor * uncertainty, per level and dimension.

    Args:
        residual_abs: `(N, 3)` absolute errors, NaN where the label is missing.
        uncertainty: `(N, 3)`, not negative.
        factors: `(levels, 3)`, from `conformal_factors` or `gaussian_factors`.

    Returns:
        `(levels, 3)` in 0..1; NaN for a dimension without labels.

    Example:
        >>> interval_coverage([[0.1], [0.2], [0.4], [0.8]], np.full((4, 1), 0.2), [[1.0], [2.0]]).tolist()
        [[0.5], [0.75]]
    """
    residuals, uncertainty = _checked_residuals(residual_abs, uncertainty)
    factors = np.asarray(factors, dtype=np.float64)
    if factors.ndim != 2 or factors.shape[1] != residuals.shape[1]:
        raise ValueError(f"factors must have shape (levels, {residuals.shape[1]}), got {factors.shape}.")
    present = ~np.isnan(residuals)
    covered = (residuals[None] <= factors[:, None] * uncertainty[None]) & present
    with np.errstate(invalid="ignore"):
        return covered.sum(1) / present.sum(0)


def affine_calibration(predictions: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Slope and intercept per dimension that maximise CCC here: mean and standard deviation become those of the labels.

    For a fixed correlation r >= 0, CCC is largest (= r) when both moments agree; least squares would instead shrink the
    spread by r and punish a model whose spread is right. Where predictions or labels are constant, the slope is 0.

    Args:
        predictions, labels: as in `pearson`; the development set, never the test set.

    Returns:
        slope `(3,)` and intercept `(3,)`.

    Example:
        >>> slope, intercept = affine_calibration([[0.0], [1.0]], [[1.0], [5.0]])
        >>> slope.tolist(), intercept.tolist()
        ([4.0], [1.0])
    """
    slope = _per_dimension(
        lambda p, y: y.std() / p.std() * np.sign(_correlation(p, y)) if np.ptp(p) > 0 else 0.0, predictions, labels
    )
    mean_p = _per_dimension(lambda p, y: p.mean(), predictions, labels)
    mean_y = _per_dimension(lambda p, y: y.mean(), predictions, labels)
    return slope, mean_y - slope * mean_p


def affine_calibrated_ccc(
    dev_predictions: ArrayLike, dev_labels: ArrayLike, predictions: ArrayLike, labels: ArrayLike
) -> Array:
    """CCC on one set after `affine_calibration` on another: agreement with the scale taken out of the comparison.

    Args:
        dev_predictions, dev_labels: what the scale is fitted on.
        predictions, labels: what is measured.

    Returns:
        `(3,)`, float64.

    Example:
        >>> dev, test = np.array([[0.0], [1.0], [2.0]]), np.array([[0.5], [1.5]])
        >>> affine_calibrated_ccc(dev / 10, dev, test / 10, test).round(6).tolist()
        [1.0]
    """
    slope, intercept = affine_calibration(dev_predictions, dev_labels)
    return ccc(np.asarray(predictions, dtype=np.float64) * slope + intercept, labels)


def mean_pearson(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean of `pearson` over the dimensions that have labels: the usual figure to select and compare by.

    Example:
        >>> mean_pearson([[0, 0], [1, 0]], [[0, 0], [1, 1]])
        0.5
    """
    return _mean(pearson(predictions, labels))


def bootstrap_interval(
    predictions: ArrayLike,
    labels: ArrayLike,
    statistic: Callable[[Array, Array], float] = mean_pearson,
    n: int = 2000,
    seed: int = 0,
) -> Interval:
    """95% percentile bootstrap of a figure over rows (Efron & Tibshirani 1993); it holds no seed variance.

    Args:
        predictions, labels: as in `pearson`.
        statistic: takes predictions and labels, returns a number.
        n: number of resamples.
        seed: of the resampling.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = generator.normal(size=(200, 3))
        >>> found = bootstrap_interval(labels + generator.normal(size=(200, 3)), labels, n=200)
        >>> found.low < found.estimate < found.high
        True
    """
    predictions, labels, present = _checked(predictions, labels)
    figures = [statistic(predictions[rows], labels[rows]) for rows in _resamples(present, n, seed)]
    low, high = np.nanpercentile(figures, [2.5, 97.5])
    return Interval(float(statistic(predictions, labels)), float(low), float(high))


def bootstrap_intervals(
    predictions: ArrayLike, labels: ArrayLike, n: int = 1000, seed: int = 0
) -> dict[str, list[float]]:
    """95% percentile bootstraps over rows of the figures that a model card shows, all on the same resamples.

    A resample is a weight per row, and each figure a quotient of weighted sums, so that 1,000 resamples of 1,000 rows
    take a fraction of a second. Like `bootstrap_interval`, it holds no seed variance.

    Args:
        predictions, labels: as in `pearson`, with three columns.
        n: number of resamples.
        seed: of the resampling.

    Returns:
        `[low, high]` by the names of `compute_metrics`: `pearson_*`, `ccc_*`, `mae_*`, `rmse_*` with the dimensions
        and `mean`. A dimension without labels has none.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = generator.normal(size=(200, 3))
        >>> low, high = bootstrap_intervals(labels + generator.normal(size=(200, 3)), labels)["pearson_mean"]
        >>> 0.6 < low < high < 0.8
        True
    """
    predictions, labels, present = _checked(predictions, labels)
    # One shift for both keeps their differences, and the squares exact. What is missing becomes 0 and weighs nothing.
    shift = np.where(present, labels, 0).sum(0) / present.sum(0).clip(1)
    p, y = (np.where(present, values - shift, 0.0) for values in (predictions, labels))
    per_row = np.concatenate([present, p, y, p * p, y * y, p * y, np.abs(p - y)], axis=1).astype(np.float64)
    drawn = np.stack([np.bincount(rows, minlength=len(y)) @ per_row for rows in _resamples(present, n, seed)])
    count, *sums = np.split(drawn, 7, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_p, mean_y, pp, yy, py, error = (values / count for values in sums)
        var_p, var_y, covariance = pp - mean_p**2, yy - mean_y**2, py - mean_p * mean_y
        varies = (var_p > 1e-12 * pp) & (var_y > 1e-12 * yy)
        figures = {
            "pearson": np.where(varies, covariance / np.sqrt(var_p * var_y), np.where(count > 0, 0.0, np.nan)),
            "ccc": np.where(varies, 2 * covariance / (var_p + var_y + (mean_p - mean_y) ** 2), 0.0 * mean_p),
            "mae": error,
            "rmse": np.sqrt((pp - 2 * py + yy).clip(0)),
        }
    intervals = {}
    for name, values in figures.items():
        known = present.any(axis=0)
        columns = dict(zip(DIMENSIONS, values.T, strict=True)) | {"mean": np.nanmean(values[:, known], axis=1)}
        for column, resampled in columns.items():
            if not np.isnan(resampled).all():
                intervals[f"{name}_{column}"] = [float(end) for end in np.nanpercentile(resampled, [2.5, 97.5])]
    return intervals


def paired_bootstrap(
    pred_a: ArrayLike,
    pred_b: ArrayLike,
    labels: ArrayLike,
    statistic: Callable[[Array, Array], float] = mean_pearson,
    n: int = 2000,
    seed: int = 0,
) -> Difference:
    """95% percentile bootstrap of statistic(a) - statistic(b) on the same resampled rows.

    Args:
        pred_a, pred_b: `(N, 3)` predictions of two systems for the same rows.
        labels, statistic, n, seed: as in `bootstrap_interval`.

    Raises:
        ValueError: as in `pearson`.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = generator.normal(size=(200, 3))
        >>> good, bad = (labels + size * generator.normal(size=(200, 3)) for size in (0.5, 2.0))
        >>> found = paired_bootstrap(good, bad, labels, n=200)
        >>> 0 < found.low < found.difference < found.high
        True
    """
    pred_a, labels, _ = _checked(pred_a, labels)
    pred_b, labels, present = _checked(pred_b, labels)
    figures = [
        statistic(pred_a[rows], labels[rows]) - statistic(pred_b[rows], labels[rows])
        for rows in _resamples(present, n, seed)
    ]
    low, high = np.nanpercentile(figures, [2.5, 97.5])
    return Difference(float(statistic(pred_a, labels) - statistic(pred_b, labels)), float(low), float(high))


def make_compute_metrics(outputs: Sequence[str] = OUTPUTS) -> Callable[[Any], dict[str, float]]:
    """The `compute_metrics` of a `Trainer` for a model whose outputs are these, in this order.

    Give `outputs` for a model that lacks one in the middle (uncertainty without confidences, say); missing ones at the
    end need no word.

    Args:
        outputs: what `EvalPrediction.predictions` holds: "logits" first, then any of "confidences", "uncertainty".

    Returns:
        A function from `EvalPrediction` to a dict of floats: `pearson_*`, `ccc_*`, `mae_*`, `rmse_*`, `sd_ratio_*` with
        `pleasure`, `arousal`, `dominance`, `mean`; `hope`, `love`; `faith` where there are confidences;
        `uncertainty_spearman_*` where there is uncertainty.

    Raises:
        ValueError: a name that is not known, or logits are not first.

    Example:
        >>> from transformers import EvalPrediction
        >>> labels = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
        >>> metrics = make_compute_metrics(["logits", "uncertainty"])
        >>> result = metrics(EvalPrediction(predictions=(labels, np.ones((2, 3))), label_ids=labels))
        >>> result["pearson_mean"], result["uncertainty_spearman_mean"], "faith" in result
        (1.0, 0.0, False)
    """
    outputs = tuple(outputs)
    if not outputs or outputs[0] != "logits" or not set(outputs) <= set(OUTPUTS) or len(set(outputs)) < len(outputs):
        raise ValueError(f"outputs must be 'logits' first, then any of {OUTPUTS[1:]}, each once; got {outputs}.")

    def compute(evaluation: Any) -> dict[str, float]:
        given = evaluation.predictions
        given = given if isinstance(given, tuple | list) else (given,)
        if len(given) > len(outputs):
            raise ValueError(
                f"The model returned {len(given)} arrays and {len(outputs)} are expected {outputs}. List what else it "
                "returns in config.keys_to_ignore_at_inference."
            )
        return _all_metrics(dict(zip(outputs, given, strict=False)), evaluation.label_ids)

    return compute


def compute_metrics(evaluation: Any) -> dict[str, float]:
    """`make_compute_metrics()` for a model that returns logits, then confidences, then uncertainty, as ours do.

    Args:
        evaluation: `EvalPrediction` with `predictions` an array or a tuple, and `label_ids` `(N, 3)`.

    Example:
        >>> from transformers import EvalPrediction
        >>> labels = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
        >>> result = compute_metrics(EvalPrediction(predictions=(labels / 2, np.full((2, 5), 0.64)), label_ids=labels))
        >>> round(result["pearson_mean"], 6), round(result["sd_ratio_mean"], 6), round(result["faith"], 6)
        (1.0, 0.5, 0.8)
    """
    return _DEFAULT(evaluation)


_DEFAULT = make_compute_metrics()


def _all_metrics(given: Mapping[str, ArrayLike], labels: ArrayLike) -> dict[str, float]:
    logits = given["logits"]
    figures = {metric.__name__: metric(logits, labels) for metric in (pearson, ccc, mae, rmse, sd_ratio)}
    if "uncertainty" in given:
        figures["uncertainty_spearman"] = uncertainty_spearman(logits, labels, given["uncertainty"])
    result: dict[str, float] = {}
    for name, values in figures.items():
        if len(values) != len(DIMENSIONS):
            raise ValueError(f"compute_metrics needs three columns {DIMENSIONS}, got {len(values)}.")
        result |= {f"{name}_{dimension}": float(value) for dimension, value in zip(DIMENSIONS, values, strict=True)}
        result[f"{name}_mean"] = _mean(values)
    result["hope"] = hope(logits, labels)
    if "confidences" in given:
        result["faith"] = faith(given["confidences"])
    result["love"] = love(logits, labels)
    return result


def _correlation(a: Array, b: Array) -> float:
    # Not by the standard deviation: rounding gives a constant column one of 1e-17.
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    # Scaled first, so that squares of tiny numbers don't vanish.
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


def _concordance(a: Array, b: Array) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    return float(2 * covariance / (a.var() + b.var() + (a.mean() - b.mean()) ** 2))


def _mean(values: Array) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def _per_dimension(figure: Callable[[Array, Array], Any], predictions: ArrayLike, labels: ArrayLike) -> Array:
    predictions, labels, present = _checked(predictions, labels)
    columns = zip(predictions.T, labels.T, present.T, strict=True)
    return np.array([figure(p[here], y[here]) if here.any() else np.nan for p, y, here in columns], dtype=np.float64)


def _checked(predictions: ArrayLike, labels: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_]]:
    predictions, labels = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if predictions.shape != labels.shape or predictions.ndim != 2 or not predictions.size:
        raise ValueError(
            f"Predictions and labels must both have shape (N, 3), N at least 1; got {predictions.shape} and "
            f"{labels.shape}."
        )
    for name, values, hint in (
        ("predictions", predictions, "Has the training diverged? Lower the learning rate."),
        ("labels", labels, f"Mark a missing label with {MISSING_LABEL:g}."),
    ):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = (int(place) for place in bad[0])
            raise ValueError(
                f"The {name} hold {values[row, column]} in row {row}, column {column} ({len(bad)} such values). {hint}"
            )
    present = labels != MISSING_LABEL
    if not present.any():
        raise ValueError(f"Every label is {MISSING_LABEL:g} (missing), so there is nothing to measure against.")
    return predictions, labels, present


def _checked_uncertainty(uncertainty: ArrayLike, shape: tuple[int, ...]) -> Array:
    values = np.asarray(uncertainty, dtype=np.float64)
    if values.shape != shape:
        raise ValueError(f"The uncertainty must have the shape of the predictions, {shape}; got {values.shape}.")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError("The uncertainty is a standard deviation: every value must be finite and not negative.")
    return values


def _checked_residuals(residual_abs: ArrayLike, uncertainty: ArrayLike) -> tuple[Array, Array]:
    residuals = np.asarray(residual_abs, dtype=np.float64)
    if residuals.ndim != 2 or (residuals < 0).any():
        raise ValueError(f"residual_abs must be absolute errors of shape (N, 3); got shape {residuals.shape}.")
    return residuals, _checked_uncertainty(uncertainty, residuals.shape)


def _checked_levels(levels: Sequence[float]) -> Sequence[float]:
    if not all(0 < level < 1 for level in levels):
        raise ValueError(f"Levels are shares between 0 and 1, such as 0.9; got {tuple(levels)}.")
    return levels


def _resamples(present: NDArray[np.bool_], n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of each resample; one without any label says nothing and is left out."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(len(present), size=len(present)) for _ in range(n))
    return (rows for rows in drawn if present[rows].any())
