"""The callback that makes a training by the Trainer give what `fit` gives, and the rows behind the Trainer's loaders.

Requires accelerate, torch and transformers. It imports nothing of `transformers.trainer`, whose import registers it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_pt_utils import IterableDatasetShard
from transformers.training_args import TrainingArguments

from ..modeling.errors import LiminalError
from .calibration import (
    SCALE_TEXTS,
    Array,
    calibrate,
    check_label_range,
    liminal_model,
    measure_labels,
    measure_pooled_scale,
    predict,
    read_labels,
    update_config,
)

_MOST_READ = 10_000


class Rows:
    """The data set of a dataloader, whole on every process, read with the dataloader's own collator.

    Args:
        loader: a dataloader of the Trainer, over a data set with or without a length.

    Example:
        >>> rows = Rows(DataLoader([{"labels": torch.tensor([0.1 * i])} for i in range(4)], batch_size=2, shuffle=True))
        >>> [[round(value, 1) for value in batch["labels"][:, 0].tolist()] for batch in rows.batches(3)]
        [[0.0, 0.1], [0.2]]
    """

    def __init__(self, loader: Any) -> None:
        dataset = loader.dataset
        while isinstance(dataset, IterableDatasetShard):
            dataset = dataset.dataset
        self.dataset: Any = dataset
        self.collate = loader.collate_fn
        # accelerate's loaders for streams have no size of their own.
        self.batch_size = loader.batch_size or getattr(loader, "total_batch_size", None)
        self.count = len(dataset) if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") else None

    def labels(self, targets: int | None = None) -> Array:
        """All labels `(N, targets)`, -100 where missing; of a stream, and of rows made on the fly, up to 10,000.

        Raises:
            LiminalError: as in `read_labels`.
        """
        columns = getattr(self.dataset, "column_names", None)
        made_on_the_fly = (getattr(self.dataset, "format", None) or {}).get("type") == "custom"
        if self.count is not None and "labels" in (columns or ()) and not made_on_the_fly:
            return read_labels(self.dataset, targets)
        if isinstance(self.dataset, list | tuple) and all("labels" in row for row in self.dataset):
            return read_labels(self.dataset, targets)
        return read_labels(self.batches(_MOST_READ), targets)

    def labels_if_any(self) -> Array:
        """As `labels`; empty where the rows have none."""
        first = next(iter(self.batches(1)), {})
        return np.empty((0, 0)) if first.get("labels") is None else self.labels()

    def batches(self, most: int, spread: bool = False) -> Iterator[Mapping[str, Any]]:
        """Batches of the first rows, in their order.

        Args:
            most: no more rows than these (a stream gives whole batches).
            spread: whether to take them evenly from the whole data set instead of from its beginning.
        """
        # A generator of its own: the order of the training must not depend on who looked at the rows before.
        settings: dict[str, Any] = {"collate_fn": self.collate, "generator": torch.Generator()}
        if self.count is None:
            rows = 0
            for batch in DataLoader(self.dataset, self.batch_size, **settings):
                yield batch
                rows += len(next(iter(batch.values())))
                if rows >= most:
                    return
        else:
            end = self.count if spread else min(most, self.count)
            indices = np.unique(np.linspace(0, end - 1, min(most, self.count)).astype(int)).tolist()
            yield from DataLoader(Subset(self.dataset, indices), self.batch_size or 32, **settings)


class FitCallback(TrainerCallback, ExportableState):
    """Makes a training by the Trainer give what `fit` gives; does nothing for models that are not ours.

    Before the first step it checks the labels against the config's `label_range`, and measures `label_mean`,
    `label_std`, `trained_targets` and `pooled_scale` on the training rows unless the config says that its labels are
    measured already. At the end, with the best model loaded, it calibrates `uncertainty_scale` on (up to 4,096)
    evaluated rows and takes `prediction_quantiles` from as many training rows.

    Args:
        evaluated: gives the dataloader to calibrate on where the training evaluated nothing.

    Raises:
        LiminalError: in `train`, when a row has no labels, or a label is no number or lies outside of `label_range`.

    Example:
        >>> import liminal_hf
        >>> from transformers.trainer import DEFAULT_CALLBACKS
        >>> FitCallback in DEFAULT_CALLBACKS
        True
    """

    MOST_ROWS = 4096

    def __init__(self, evaluated: Callable[[], Any] | None = None) -> None:
        self.evaluated = evaluated
        self.measured: dict[str, Any] = {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the measured fields, which a resumed run must not measure again."""
        return {"args": {}, "attributes": {"measured": self.measured}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Checks and measures, or takes what was measured before the checkpoint that the run resumes from."""
        # A checkpoint from before this callback was there has no entry for it, and the Trainer wants one.
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        base, loader = liminal_model(model), kwargs.get("train_dataloader")
        if base is None or loader is None:
            return
        rows, config = Rows(loader), base.config
        try:
            labels = rows.labels(config.num_labels)
        except LiminalError:
            if getattr(model, "liminal", None) is base:
                raise
            return  # a wrapper with a task of its own, whose labels are not the model's
        base.trained_on = _description(train=loader, validation=kwargs.get("eval_dataloader"))
        check_label_range(labels, config, "The training labels")
        evaluated = self.evaluated() if self.evaluated is not None else None
        if evaluated is not None:
            check_label_range(Rows(evaluated).labels_if_any(), config, "The evaluation labels")
        if state.global_step > 0:
            for entry in saved if isinstance(saved, list) else [saved]:
                update_config(model, **entry["attributes"]["measured"])
        elif not getattr(config, "labels_measured", True):  # code that came with an older checkpoint has no such field
            measure_labels(model, labels)
            measure_pooled_scale(model, rows.batches(SCALE_TEXTS))
            _agree(model, "pooled_scale")
        fields = ("label_mean", "label_std", "trained_targets", "pooled_scale")
        self.measured = {name: getattr(config, name) for name in fields if hasattr(config, name)}

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Calibrates the model that the training leaves."""
        loader = kwargs.get("eval_dataloader")
        if loader is None and self.evaluated is not None:
            loader = self.evaluated()
        if not self.measured:
            return
        parts = [None if one is None else Rows(one) for one in (loader, kwargs.get("train_dataloader"))]
        validation, train = (
            None if part is None else predict(model, part.batches(self.MOST_ROWS, spread=True)) for part in parts
        )
        calibrate(model, validation, train)
        _agree(model, "uncertainty_scale", "prediction_quantiles", "residual_quantiles")


def _agree(model: nn.Module, *names: str) -> None:
    """Every process takes what the first has measured: the last digits may differ, and the models must not."""
    config = liminal_model(model).config
    update_config(model, **broadcast_object_list([{name: getattr(config, name) for name in names}])[0])


def _description(**loaders: Any) -> dict[str, Any]:
    """What a card says of the data of a training: its name, where it has one, and the count of its rows."""
    datasets = {split: loader.dataset for split, loader in loaders.items() if hasattr(loader, "dataset")}
    names = [getattr(getattr(dataset, "info", None), "dataset_name", None) for dataset in datasets.values()]
    rows = {split: len(dataset) for split, dataset in datasets.items() if hasattr(dataset, "__len__")}
    return {**({"name": names[0]} if names and names[0] else {}), "rows": rows}
