"""What a model must know about its data beyond its weights: the labels' scale, the states' scale, its own spread.

Requires numpy and torch. `fit` and the stock `Trainer` (by `FitCallback`) call the same functions, so that both give
the same model. Everything that is measured goes into the config: of the model, and of each copy of its head.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from ..modeling.configuration_liminal import MISSING_LABEL
from ..modeling.errors import LiminalError
from ..modeling.senses import INPUTS as SENSES

logger = logging.getLogger(__name__)

SCALE_TEXTS = 512
INPUTS = (*SENSES, "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "pooled_embeds")
# Under this name an adapter's `auto_mapping` carries what was measured for it: PEFT saves no config of the model.
ADAPTER_KEY = "liminal"
MEASURED = (
    *("label_mean", "label_std", "trained_targets", "pooled_scale"),
    *("uncertainty_scale", "prediction_quantiles", "residual_quantiles", "person_prior"),
)
_RESIDUALS = 41  # count of the quantiles of the standardised errors
Array = NDArray[np.float64]


class Predicted(NamedTuple):
    """Predictions of a model and what they are compared with, each `(N, T)` in label units."""

    predictions: Array
    uncertainty: Array | None  # standard deviations; None for a head that has none
    labels: Array  # -100 where missing


def liminal_model(model: nn.Module) -> Any:
    """The `LiminalModel` in a model of ours, also in a `PeftModel` or another wrapper; None in any other model."""
    ours = (module for module in model.modules() if _is_ours(module))
    return next((module for module in ours if isinstance(getattr(module, "head", None), nn.Module)), None)


def _is_ours(module: nn.Module) -> bool:
    # By the name of its type, because code that came with a checkpoint has classes of its own.
    return getattr(getattr(module, "config", None), "model_type", None) == "liminal"


def update_config(model: nn.Module, **fields: Any) -> None:
    """Sets fields in the config of the model and of every copy of its head (PEFT trains a copy with its own config).

    The active adapters of a `PeftModel` carry the fields too, and bring them back when they are loaded.
    """
    for module in filter(_is_ours, model.modules()):
        for name, value in fields.items():
            setattr(module.config, name, value)
    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, Mapping):
        base = liminal_model(model)
        for adapter in adapters.values():
            kept = {**(getattr(adapter, "auto_mapping", None) or {})}
            adapter.auto_mapping = {**kept, ADAPTER_KEY: {name: getattr(base.config, name, None) for name in MEASURED}}


# ---- labels ----


def read_labels(data: Any, targets: int | None = None) -> Array:
    """The labels of a data set as an array.

    Args:
        data: a `Dataset` with a column `labels`, an iterable of batches or of rows (mappings with `labels`), or the
            labels themselves.
        targets: how many columns the labels must have; None takes any number.

    Returns:
        `(N, T)`, float64, -100 where a label is missing (-100, None or NaN).

    Raises:
        LiminalError: there are no labels, or a label is no number; the message names the row.

    Example:
        >>> read_labels([{"labels": [0.1, None]}, {"labels": [0.3, -100]}]).tolist()
        [[0.1, -100.0], [0.3, -100.0]]
    """
    columns = getattr(data, "column_names", None)
    if columns is not None:
        if "labels" not in columns:
            raise LiminalError(no_labels(columns))
        data = data.with_format(None)["labels"][:]
    is_list = isinstance(data, list | tuple) and not (data and isinstance(data[0], Mapping))
    if is_list or isinstance(data, np.ndarray | torch.Tensor):
        labels = _as_array(data)
    else:
        parts = [_as_array(_labels_of(part)) for part in data]
        labels = np.concatenate([part if part.ndim > 1 else part[None] for part in parts]) if parts else np.empty(0)
    if not labels.size:
        raise LiminalError("There is no row to read labels from.")
    if labels.ndim != 2 or (targets is not None and labels.shape[1] != targets):
        expected = "N, T" if targets is None else f"N, {targets}"
        raise LiminalError(f"Labels must have the shape ({expected}), one number for each target; got {labels.shape}.")
    return labels


def _labels_of(part: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("labels") is None:
        raise LiminalError(no_labels(list(part) if isinstance(part, Mapping) else [type(part).__name__]))
    return part["labels"]


def no_labels(columns: Iterable[str]) -> str:
    """What to tell a person whose rows have no labels."""
    return (
        f"The rows have no labels: their columns are {sorted(columns)}. Give each row a column 'labels' with one "
        f"number for each target, {MISSING_LABEL} where one is missing. To read texts without labels, use predict."
    )


def _as_array(values: Any) -> Array:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double()
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "fiu":
        array = _checked_rows(list(values))
    array = array.astype(np.float64)
    return np.where(np.isnan(array), float(MISSING_LABEL), array)


def _checked_rows(rows: list[Any]) -> np.ndarray:
    width = len(rows[0]) if rows and isinstance(rows[0], list | tuple | np.ndarray) else None
    for index, row in enumerate(rows):
        cells = list(row) if isinstance(row, list | tuple | np.ndarray) else [row]
        if (width is not None and len(cells) != width) or not all(
            cell is None or (isinstance(cell, int | float | np.number) and not isinstance(cell, bool)) for cell in cells
        ):
            raise LiminalError(
                f"Row {index}: the labels {row!r} are not one number for each target. Write {MISSING_LABEL} where a "
                "label is missing."
            )
    return np.array(rows, dtype=np.float64)  # None becomes NaN


def measure_labels(model: nn.Module, data: Any) -> None:
    """Puts `label_mean`, `label_std` (1/N) and `trained_targets` into the config; warns of a target without any label.

    Args:
        model: a model of ours, also in a wrapper.
        data: the training rows, as `read_labels` takes them; it raises what that raises.

    Example:
        >>> from liminal_hf import LiminalConfig, LiminalForPADRegression
        >>> model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16))
        >>> measure_labels(model, [[0.0, 0.5, -100], [1.0, 0.5, -100]])
        >>> model.config.label_mean, model.config.label_std, model.config.trained_targets
        ([0.5, 0.5, 0.0], [0.5, 1.0, 1.0], [True, True, False])
    """
    config = liminal_model(model).config
    masked = np.ma.masked_equal(read_labels(data, config.num_labels), MISSING_LABEL)
    mean = [float(value) for value in masked.mean(axis=0).filled(0.0)]
    # Constant labels have nothing to be scaled by.
    deviation = [float(value) if value > 1e-6 else 1.0 for value in masked.std(axis=0).filled(0.0)]
    trained = [bool(count) for count in masked.count(axis=0)]
    if names := [name for name, has_labels in zip(config.id2label.values(), trained, strict=True) if not has_labels]:
        logger.warning("No training row has a label for %s: the model will not answer it.", " and ".join(names))
    # How persons differ from the texts was measured with the labels before.
    fields = {"trained_targets": trained, "labels_measured": True, "person_prior": None}
    update_config(model, label_mean=mean, label_std=deviation, **fields)


def check_label_range(labels: ArrayLike, config: Any, where: str = "The labels", own_model: bool = True) -> None:
    """Refuses labels outside of the config's `label_range`: pipelines clamp their answers to it.

    Args:
        labels: `(N, T)`, -100 where missing.
        config: the model's `LiminalConfig`.
        where: begins the message.
        own_model: whether the caller built the model, and so can set `label_range`.

    Raises:
        LiminalError: a label lies outside; the message names the range of the labels and what to type.
    """
    values = np.asarray(labels, dtype=np.float64)
    values = values[values != MISSING_LABEL]
    low, high = config.label_range
    slack = 1e-6 * (high - low)
    if values.size and (values.min() < low - slack or values.max() > high + slack):
        first, last = math.floor(values.min()), math.ceil(values.max())
        build = f"build the model with label_range=[{first}, {last}], or " if own_model else ""
        raise LiminalError(
            f"{where} lie in {values.min():g}..{values.max():g}, and label_range is {low:g}..{high:g}. If {first} and "
            f"{last} are the ends of their scale, {build}map them to {low:g}..{high:g}: for a table "
            f"`scale: [{first}, {last}]` under `data` in the recipe, or load_table(..., scale=({first}, {last})); "
            f"otherwise labels = {low:g} + {high - low:g} * (labels - {first}) / {last - first}."
        )


# ---- states ----


def measure_pooled_scale(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
    """Puts the factor that brings the pooled states to a root mean square of 1 into the config, as `pooled_scale`.

    Measure it on (up to 512) training texts, anew whenever the pooling changes.

    Args:
        model: a model of ours, also in a wrapper; on any device.
        batches: what the model's `forward` takes, as tensors; other names are ignored.
    """
    base = liminal_model(model)
    square, count = 0.0, 0

    def add(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal square, count
        states = arguments[0].pooled.double() / base.config.pooled_scale
        square, count = square + float(states.square().sum()), count + states.numel()

    # What the head is given, whatever wraps encoder and pooler.
    handle = base.head.register_forward_pre_hook(add)
    try:
        for _ in _run(model, batches):
            pass
    finally:
        handle.remove()
    update_config(model, pooled_scale=float(f"{math.sqrt(count / max(square, 1e-12)):.6g}"))


@torch.no_grad()
def _run(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Mapping[str, Any], Any]]:
    """Each batch with the model's output, in evaluation mode; the modules' modes come back at the end."""
    training = [module for module in model.modules() if module.training]
    device = next(model.parameters()).device
    model.eval()
    try:
        for batch in batches:
            inputs = {name: batch[name].to(device) for name in INPUTS if batch.get(name) is not None}
            yield batch, model(**inputs)
    finally:
        for module in training:
            module.training = True


# ---- predictions ----


def predict(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> Predicted:
    """Predictions, uncertainty and labels of batches, in their order; without `labels`, every label is missing."""
    logits, spreads, labels = [], [], []
    for batch, output in _run(model, batches):
        logits.append(output["logits"].double().cpu().numpy())
        missing = np.full(logits[-1].shape, float(MISSING_LABEL))
        labels.append(missing if batch.get("labels") is None else _as_array(batch["labels"]))
        if output.get("uncertainty") is not None:
            spreads.append(output["uncertainty"].double().cpu().numpy())
    return Predicted(np.concatenate(logits), np.concatenate(spreads) if spreads else None, np.concatenate(labels))


def calibrate(model: nn.Module, validation: Predicted | None, train: Predicted | None) -> None:
    """Puts `uncertainty_scale`, `residual_quantiles` and `prediction_quantiles` into the config.

    Args:
        model: a model of ours, also in a wrapper.
        validation: its predictions for rows that it was not trained on; the uncertainty is scaled so that its mean
            square is that of the error. None, or one without uncertainty, leaves the scale as it is.
        train: its predictions for its training texts, whose quantiles turn a prediction into a percentile. None leaves
            them as they are.

    Example:
        >>> from liminal_hf import LiminalConfig, LiminalForPADRegression
        >>> model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16))
        >>> calibrate(model, Predicted(np.zeros((4, 3)), np.full((4, 3), 0.1), np.full((4, 3), 0.2)), None)
        >>> model.config.uncertainty_scale
        [2.0, 2.0, 2.0]
    """
    config = liminal_model(model).config
    if validation is not None and validation.uncertainty is not None:
        present = validation.labels != MISSING_LABEL
        error = np.square(np.where(present, validation.predictions - validation.labels, 0)).sum(0)
        spread = np.square(np.where(present, validation.uncertainty, 0)).sum(0)
        old_scale = list(config.uncertainty_scale)
        scale = [
            float(f"{old * math.sqrt(e / s):.6g}") if e > 0 and s > 0 else old
            for old, e, s in zip(old_scale, error, spread, strict=True)
        ]
        scaled = validation.uncertainty * np.array(scale) / np.array(old_scale)
        update_config(model, uncertainty_scale=scale, residual_quantiles=_residual_quantiles(validation, scaled))
    if train is not None:
        # Texts that only teachers have labelled are of another kind than those that a percentile speaks of.
        labelled = (train.labels != MISSING_LABEL).any(axis=1)
        predictions = train.predictions[labelled] if labelled.any() else train.predictions
        quantiles = np.quantile(predictions, np.linspace(0, 1, 101), axis=0).T
        update_config(model, prediction_quantiles=[[round(float(value), 4) for value in row] for row in quantiles])


def _residual_quantiles(validation: Predicted, uncertainty: np.ndarray) -> list[list[float]] | None:
    """Per target, quantiles of the errors in standard deviations; None where a target has too few labels for them."""
    ranks, quantiles = np.arange(_RESIDUALS), []
    for labels, predictions, spread in zip(validation.labels.T, validation.predictions.T, uncertainty.T, strict=True):
        present = labels != MISSING_LABEL
        if present.sum() < _RESIDUALS:
            return None
        errors = (labels - predictions)[present] / spread[present]
        rounded = np.quantile(errors, (ranks + 0.5) / _RESIDUALS).round(3)
        # Equal neighbours, of labels with few values, are drawn apart: a quantile function rises.
        quantiles.append([round(float(value), 6) for value in np.maximum.accumulate(rounded) + 1e-4 * ranks])
    return quantiles
