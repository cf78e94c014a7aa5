"""How good predictions are: agreement with the labels, what the uncertainty is worth, and intervals for it.

Requires numpy and pandas. Arrays are `(N, T)`, a column for each target, in label units; a label of -100 is missing,
and that target of that row counts nowhere. A figure that does not exist (a correlation with a constant, a target
without labels) is NaN, and no mean counts it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL
from .modeling.errors import LiminalError

OUTPUTS = ("logits", "confidences", "uncertainty")
Array = NDArray[np.float64]


def pearson(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Pearson's correlation r per target, -1..1; NaN where predictions or labels are constant (one row included).

    Args:
        predictions: `(N, T)`, finite.
        labels: `(N, T)`, -100 where missing.

    Returns:
        `(T,)`, float64.

    Raises:
        LiminalError: shapes differ, no rows, or a value is NaN or infinite; the message says where.

    Example:
        >>> pearson([[0, 5, 1], [1, 5, 0], [2, 5, -1]], [[0, 1, 1], [2, 2, 0], [4, 3, -100]]).tolist()
        [1.0, nan, 1.0]
    """
    return _per_target(correlation, predictions, labels)


def ccc(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Lin's concordance correlation per target: 2 cov / (var_p + var_l + (mean_p - mean_l)^2), with 1/N moments.

    Agreement in position, spread and order at once; 1 only for predictions that equal the labels, 0 for constant ones.
    Lin 1989, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45.
    Arguments, result and errors as in `pearson`.

    Example:
        >>> ccc([[1.0], [2.0], [3.0]], [[2.0], [3.0], [4.0]]).round(3).tolist()
        [0.571]
    """
    return _per_target(_concordance, predictions, labels)


def mae(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Mean absolute error per target. Arguments, result and errors as in `pearson`.

    Example:
        >>> mae([[0.0, 0.5], [0.0, 0.5]], [[1.0, 0.5], [-1.0, -100]]).tolist()
        [1.0, 0.0]
    """
    return _per_target(lambda p, y: np.abs(p - y).mean(), predictions, labels)


def rmse(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Root of the mean squared error per target. Arguments, result and errors as in `pearson`.

    Example:
        >>> rmse([[3.0], [0.0]], [[0.0], [4.0]]).round(4).tolist()
        [3.5355]
    """
    return _per_target(lambda p, y: np.sqrt(np.square(p - y).mean()), predictions, labels)


def sd_ratio(predictions: ArrayLike, labels: ArrayLike) -> Array:
    """Standard deviation of the predictions over that of the labels, per target; NaN where the labels are constant.

    Arguments, result and errors as in `pearson`.

    Example:
        >>> sd_ratio([[0.0], [1.0]], [[-1.0], [1.0]]).tolist()
        [0.5]
    """
    return _per_target(lambda p, y: p.std() / y.std() if np.ptp(y) > 0 else np.nan, predictions, labels)


def hope(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Hope = 1 - MAE over all targets, with the MAE clipped to 0..1. Arguments and errors as in `pearson`.

    Example:
        >>> hope([[0.0, 0.0]], [[0.25, -0.25]])
        0.75
    """
    predictions, labels, present = checked(predictions, labels)
    return float(1 - np.clip(np.abs(predictions - labels)[present].mean(), 0, 1))


def faith(confidences: ArrayLike) -> float:
    """Faith = the root of the mean confidence.

    Args:
        confidences: `(N,)` or `(N, K)`, in 0..1.

    Raises:
        LiminalError: nothing given, or a value outside 0..1 (NaN included).

    Example:
        >>> faith([[0.25, 0.25]])
        0.5
    """
    return float(np.sqrt(checked_confidences(confidences).mean()))


def love(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Love = exp(-MSE) * (1 - the unbiased variance of the predictions, clipped to 0..1), in 0..1.

    The MSE is over all targets in label units; the variance is over all predictions at once that have a label.
    Arguments and errors as in `pearson`.

    Example:
        >>> round(love([[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]), 4)
        0.3679
    """
    predictions, labels, present = checked(predictions, labels)
    values = predictions[present]
    spread = values.var(ddof=1) if values.size > 1 else 0.0
    return float(np.exp(-np.square(values - labels[present]).mean()) * (1 - np.clip(spread, 0, 1)))


def faith_plus(predictions: ArrayLike, labels: ArrayLike, confidences: ArrayLike) -> float:
    """Faith+ = Spearman's rank correlation of a row's confidence with minus its error, in -1..1.

    Faith is high for a model that is always sure. Faith+ is high only where the sure rows are the right ones: 0 is no
    better than chance, NaN says that all confidences are equal.

    Args:
        predictions, labels: as in `pearson`; a row's error is the mean absolute error over its present labels.
        confidences: `(N,)` or `(N, K)`, in 0..1; a row's confidence is the mean over the steps.

    Raises:
        LiminalError: as in `pearson` and `faith`, or the rows are not those of the predictions.

    Example:
        >>> faith_plus([[0.0], [0.0], [0.0]], [[0.1], [0.2], [0.9]], [0.9, 0.5, 0.1])
        1.0
    """
    predictions, labels, present = checked(predictions, labels)
    values = checked_confidences(confidences)
    if len(values) != len(labels):
        raise LiminalError(f"faith_plus needs a row of confidences per prediction, {len(labels)}; got {len(values)}.")
    rows = present.any(axis=1)
    errors = np.ma.masked_array(np.abs(predictions - labels), ~present).mean(axis=1)
    ranks = pd.DataFrame({"confidence": values.reshape(len(values), -1).mean(axis=1), "error": errors})[rows].rank()
    return -correlation(ranks["confidence"].to_numpy(), ranks["error"].to_numpy())


def love_plus(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Love+ = 1 - MSE / MSE of the best constant (the labels' own mean), mean over the targets.

    Love of a constant beats a model's, because it rewards predictions without variance. Love+ of the best constant is
    0, of a perfect model 1; below 0 a constant would be better. It is the coefficient of determination.

    Arguments and errors as in `pearson`; NaN where no target's labels vary.

    Example:
        >>> love_plus([[0.0], [1.0]], [[0.0], [1.0]]), love_plus([[0.5], [0.5]], [[0.0], [1.0]])
        (1.0, 0.0)
    """

    def skill(p: Array, y: Array) -> float:
        return float(1 - np.square(p - y).mean() / y.var()) if np.ptp(y) else float("nan")

    return _mean(_per_target(skill, predictions, labels))


def uncertainty_spearman(predictions: ArrayLike, labels: ArrayLike, uncertainty: ArrayLike) -> Array:
    """Spearman's rank correlation of the uncertainty with the absolute error, per target, ties averaged.

    Above 0 means that the model knows where it errs; NaN where the uncertainty is constant.

    Args:
        predictions, labels: as in `pearson`.
        uncertainty: `(N, T)`, finite and not negative; its scale does not matter.

    Returns:
        `(T,)`, float64.

    Example:
        >>> uncertainty_spearman([[0.0], [0.0], [0.0]], [[0.1], [0.2], [0.9]], [[1.0], [2.0], [3.0]]).tolist()
        [1.0]
    """
    predictions, labels, present = checked(predictions, labels)
    spread = checked_uncertainty(uncertainty, labels.shape)
    values = []
    for error, sigma, rows in zip(np.abs(predictions - labels).T, spread.T, present.T, strict=True):
        ranks = pd.DataFrame({"error": error[rows], "sigma": sigma[rows]}).rank().to_numpy()
        values.append(correlation(ranks[:, 0], ranks[:, 1]) if rows.any() else np.nan)
    return np.array(values)


def mean_pearson(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Mean of `pearson` over the targets where it exists: the usual figure to select and compare by.

    Example:
        >>> mean_pearson([[0, 0], [1, 0]], [[0, 0], [1, 1]])
        1.0
    """
    return _mean(pearson(predictions, labels))


def bootstrap_intervals(
    predictions: ArrayLike, labels: ArrayLike, n: int = 1000, seed: int = 0, targets: Sequence[str] = DIMENSIONS
) -> dict[str, list[float]]:
    """95% percentile bootstraps over rows of the figures that a model card shows, all on the same resamples.

    Efron & Tibshirani 1993. A resample is a weight per row, and each figure a quotient of weighted sums, so that 1,000
    resamples of 1,000 rows take a fraction of a second. They hold no seed variance.

    Args:
        predictions, labels: as in `pearson`.
        n: number of resamples.
        seed: of the resampling.
        targets: names of the columns.

    Returns:
        `[low, high]` by the names of `compute_metrics`: `pearson_*`, `ccc_*`, `mae_*`, `rmse_*` with the targets and
        `mean`. A figure that does not exist has none.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = generator.normal(size=(200, 3))
        >>> low, high = bootstrap_intervals(labels + generator.normal(size=(200, 3)), labels)["pearson_mean"]
        >>> 0.6 < low < high < 0.8
        True
    """
    predictions, labels, present = checked(predictions, labels)
    # One shift for both keeps their differences, and the squares exact. What is missing becomes 0 and weighs nothing.
    shift = np.where(present, labels, 0).sum(0) / present.sum(0).clip(1)
    p, y = (np.where(present, values - shift, 0.0) for values in (predictions, labels))
    per_row = np.concatenate([present, p, y, p * p, y * y, p * y, np.abs(p - y)], axis=1).astype(np.float64)
    drawn = np.stack([np.bincount(rows, minlength=len(y)) @ per_row for rows in resamples(present, n, seed)])
    count, *sums = np.split(drawn, 7, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_p, mean_y, pp, yy, py, error = (values / count for values in sums)
        var_p, var_y, covariance = pp - mean_p**2, yy - mean_y**2, py - mean_p * mean_y
        varies = (var_p > 1e-12 * pp) & (var_y > 1e-12 * yy)
        figures = {
            "pearson": np.where(varies, covariance / np.sqrt(var_p * var_y), np.nan),
            "ccc": np.where(varies, 2 * covariance / (var_p + var_y + (mean_p - mean_y) ** 2), 0.0 * mean_p),
            "mae": error,
            "rmse": np.sqrt((pp - 2 * py + yy).clip(0)),
        }
    intervals = {}
    for name, values in figures.items():
        columns = dict(zip(targets, values.T, strict=True)) | {"mean": np.array([_mean(row) for row in values])}
        for column, resampled in columns.items():
            if not np.isnan(resampled).all():
                intervals[f"{name}_{column}"] = [float(end) for end in np.nanpercentile(resampled, [2.5, 97.5])]
    return intervals


class TargetMetrics:
    """The `compute_metrics` of a `Trainer`: figures by the names of the targets.

    It also takes batches one by one (`batch_eval_metrics`): every call but the last with `compute_result=False`.

    Args:
        targets: names of the columns of predictions and labels; None takes three columns for PAD.
        outputs: what a tuple of predictions holds, in this order; None reads the logits alone from a tuple of two,
            which could be either. `LiminalTrainer` gives a dict, where every output has its name.

    Example:
        >>> from transformers import EvalPrediction
        >>> labels = np.array([[0.1, 0.2], [0.3, 0.1]])
        >>> TargetMetrics(["joy", "fear"])(EvalPrediction(predictions=labels / 2, label_ids=labels))["sd_ratio_fear"]
        0.5
    """

    def __init__(self, targets: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> None:
        self.targets = targets
        self.outputs = None if outputs is None else tuple(outputs)
        self._batches: list[tuple[dict[str, np.ndarray], np.ndarray]] = []

    def __call__(self, evaluation: Any, compute_result: bool = True) -> dict[str, float]:
        """Figures of all batches so far; nothing yet without `compute_result`."""
        outputs = {name: _to_numpy(values) for name, values in self._named(evaluation.predictions).items()}
        self._batches.append((outputs, _to_numpy(evaluation.label_ids)))
        if not compute_result:
            return {}
        batches, self._batches = self._batches, []
        labels = np.concatenate([part for _, part in batches])
        values = {name: np.concatenate([part[name] for part, _ in batches]) for name in outputs}
        return _all_metrics(values, labels, self._names(labels.shape[-1]))

    def _named(self, predictions: Any) -> Mapping[str, Any]:
        if isinstance(predictions, Mapping):
            return predictions
        if not isinstance(predictions, tuple | list):
            return {"logits": predictions}
        outputs = self.outputs or (OUTPUTS if len(predictions) != 2 else ("logits", ""))
        if len(predictions) > len(outputs):
            raise LiminalError(
                f"The model returned {len(predictions)} arrays and {len(outputs)} are expected {outputs}. List what "
                "else it returns in config.keys_to_ignore_at_inference."
            )
        return {name: values for name, values in zip(outputs, predictions, strict=False) if name}

    def _names(self, count: int) -> Sequence[str]:
        targets = DIMENSIONS if self.targets is None else self.targets
        if len(targets) != count:
            raise LiminalError(
                f"The metrics have names for {len(targets)} targets ({', '.join(targets)}), and there are {count} "
                "columns. Give compute_metrics=make_compute_metrics(targets=model.config.targets)."
            )
        return targets


def make_compute_metrics(
    outputs: Sequence[str] | None = None, targets: Sequence[str] | None = None
) -> Callable[..., dict[str, float]]:
    """The `compute_metrics` of a `Trainer` for a model with these outputs and targets.

    Args:
        outputs: what `EvalPrediction.predictions` holds if it is a tuple: "logits" first, then any of "confidences",
            "uncertainty". Our models give the logits alone, unless `LiminalTrainer` asks for all by name.
        targets: names of the columns, as in `model.config.targets`; default pleasure, arousal, dominance.

    Returns:
        A function from `EvalPrediction` to a dict of floats: `pearson_*`, `ccc_*`, `mae_*`, `rmse_*`, `sd_ratio_*` with
        the targets' names and `mean`; `hope`, `love`, `love_plus`; `faith`, `faith_plus` where there are confidences;
        `uncertainty_spearman_*` where there is uncertainty.

    Raises:
        LiminalError: a name that is not known, or logits are not first.

    Example:
        >>> from transformers import EvalPrediction
        >>> labels = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
        >>> metrics = make_compute_metrics(["logits", "uncertainty"])
        >>> result = metrics(EvalPrediction(predictions=(labels, labels), label_ids=labels))
        >>> result["pearson_mean"], "uncertainty_spearman_mean" in result, "faith" in result
        (1.0, True, False)
    """
    if outputs is not None:
        names = tuple(outputs)
        if names[:1] != ("logits",) or not set(names) <= set(OUTPUTS) or len(set(names)) < len(names):
            raise LiminalError(f"outputs must be 'logits' first, then any of {OUTPUTS[1:]}, each once; got {names}.")
    return TargetMetrics(targets, outputs)


def compute_metrics(evaluation: Any, compute_result: bool = True) -> dict[str, float]:
    """`make_compute_metrics()` for a model of pleasure, arousal and dominance.

    Args:
        evaluation: `EvalPrediction` with `predictions` an array `(N, 3)`, a dict or a tuple, and `label_ids` `(N, 3)`.
        compute_result: False while further batches follow.

    Example:
        >>> from transformers import EvalPrediction
        >>> labels = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
        >>> outputs = {"logits": labels / 2, "confidences": np.full((2, 5), 0.64)}
        >>> result = compute_metrics(EvalPrediction(predictions=outputs, label_ids=labels))
        >>> round(result["pearson_mean"], 6), round(result["sd_ratio_mean"], 6), round(result["faith"], 6)
        (1.0, 0.5, 0.8)
    """
    return _DEFAULT(evaluation, compute_result)


_DEFAULT = TargetMetrics()


def _all_metrics(outputs: Mapping[str, ArrayLike], labels: ArrayLike, targets: Sequence[str]) -> dict[str, float]:
    logits = outputs["logits"]
    figures = {metric.__name__: metric(logits, labels) for metric in (pearson, ccc, mae, rmse, sd_ratio)}
    if "uncertainty" in outputs:
        figures["uncertainty_spearman"] = uncertainty_spearman(logits, labels, outputs["uncertainty"])
    result: dict[str, float] = {}
    for name, values in figures.items():
        result |= {f"{name}_{target}": float(value) for target, value in zip(targets, values, strict=True)}
        result[f"{name}_mean"] = _mean(values)
    result["hope"] = hope(logits, labels)
    if "confidences" in outputs:
        result["faith"] = faith(outputs["confidences"])
        result["faith_plus"] = faith_plus(logits, labels, outputs["confidences"])
    result["love"] = love(logits, labels)
    result["love_plus"] = love_plus(logits, labels)
    return result


def _to_numpy(values: Any) -> np.ndarray:
    return np.asarray(values.detach().float().cpu() if hasattr(values, "detach") else values)


def correlation(a: Array, b: Array) -> float:
    """Pearson's r of two vectors; NaN where one is constant."""
    # Not by the standard deviation: rounding gives a constant column one of 1e-17.
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
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


def _per_target(figure: Callable[[Array, Array], Any], predictions: ArrayLike, labels: ArrayLike) -> Array:
    predictions, labels, present = checked(predictions, labels)
    columns = zip(predictions.T, labels.T, present.T, strict=True)
    return np.array([figure(p[rows], y[rows]) if rows.any() else np.nan for p, y, rows in columns], dtype=np.float64)


def checked(predictions: ArrayLike, labels: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Predictions and labels in float64, and where a label is present; a LiminalError says what is wrong and where."""
    predictions, labels = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if predictions.shape != labels.shape or predictions.ndim != 2 or not predictions.size:
        raise LiminalError(
            f"Predictions and labels must both have shape (N, T), N at least 1; got {predictions.shape} and "
            f"{labels.shape}."
        )
    for name, values, hint in (
        ("predictions", predictions, "Has the training diverged? Lower the learning rate."),
        ("labels", labels, f"Mark a missing label with {MISSING_LABEL:g}."),
    ):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = (int(index) for index in bad[0])
            raise LiminalError(
                f"The {name} hold {values[row, column]} in row {row}, column {column} ({len(bad)} such values). {hint}"
            )
    present = labels != MISSING_LABEL
    if not present.any():
        raise LiminalError(f"Every label is {MISSING_LABEL:g} (missing), so there is nothing to measure against.")
    return predictions, labels, present


def checked_confidences(confidences: ArrayLike) -> Array:
    """Confidences in float64, all in 0..1."""
    values = np.asarray(confidences, dtype=np.float64)
    if values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise LiminalError("faith needs confidences in 0..1, as the model returns them; got none or values outside.")
    return values


def checked_uncertainty(uncertainty: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Standard deviations in float64, finite and not negative, of the shape of the predictions."""
    values = np.asarray(uncertainty, dtype=np.float64)
    if values.shape != shape:
        raise LiminalError(f"The uncertainty must have the shape of the predictions, {shape}; got {values.shape}.")
    if not (np.isfinite(values) & (values >= 0)).all():
        raise LiminalError("The uncertainty is a standard deviation: every value must be finite and not negative.")
    return values


def resamples(present: NDArray[np.bool_], n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Rows of each bootstrap resample; one without any label says nothing and is left out."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(len(present), size=len(present)) for _ in range(n))
    return (rows for rows in drawn if present[rows].any())
