"""What training adds to the HF Trainer: what `fit` measures, averaged weights, the log, the manifest.

Requires accelerate, torch, safetensors and transformers, and imports nothing of `transformers.trainer`, whose import
registers `FitCallback`. Each callback works with the stock `Trainer` too.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from transformers.trainer_callback import ExportableState, TrainerCallback, TrainerState
from transformers.trainer_pt_utils import IterableDatasetShard
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..io import atomic_write, changed_files, folder_sha256, write_text
from ..modeling.errors import LiminalError
from ..modeling.texts import text_error
from . import calibration
from .calibration import Array, check_label_range, liminal_model, read_labels, update_config
from .domain import MOST_TEXTS, fit_domain

RAW_WEIGHTS = "raw_weights.safetensors"
MANIFEST = "manifest.json"
LOG_COLUMNS = (
    *("epoch", "train_loss", "validation_loss", "hope", "faith", "love", "learning_rate"),
    *("faith_plus", "love_plus"),
)
_MOST_READ = 10_000


def checkpoint_folder(args: Any, state: TrainerState) -> Path:
    """Where the Trainer keeps the checkpoint of the present step."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


class Rows:
    """The data set, with or without a length, of a dataloader of the Trainer: whole on every process, in its order."""

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
        """All labels, see `read_labels`; of a stream, and of rows made on the fly, those of up to 10,000 rows."""
        columns = getattr(self.dataset, "column_names", None) or ()
        made_on_the_fly = (getattr(self.dataset, "format", None) or {}).get("type") == "custom"
        at_hand = self.count is not None and "labels" in columns and not made_on_the_fly
        if isinstance(self.dataset, list | tuple):
            at_hand = all("labels" in row for row in self.dataset)
        return read_labels(self.dataset if at_hand else self.batches(_MOST_READ), targets)

    def labels_if_any(self) -> Array:
        """As `labels`; empty where the rows have none."""
        first = next(iter(self.batches(1)), {})
        return np.empty((0, 0)) if first.get("labels") is None else self.labels()

    def batches(self, most: int, spread: bool = False) -> Iterator[Mapping[str, Any]]:
        """Batches of the first `most` rows in their order, or with `spread` of as many evenly from all of them."""
        # A generator of its own: the order of the training must not depend on who looked at the rows before.
        settings: dict[str, Any] = {"collate_fn": self.collate, "generator": torch.Generator()}
        if self.count is None:
            rows = 0
            for batch in DataLoader(self.dataset, self.batch_size, **settings):
                yield batch
                rows += len(next(iter(batch.values())))
                if rows >= most:
                    return
            return
        end = self.count if spread else min(most, self.count)
        indices = np.unique(np.linspace(0, end - 1, min(most, self.count)).astype(int)).tolist()
        yield from DataLoader(Subset(self.dataset, indices), self.batch_size or 32, **settings)


class FitCallback(TrainerCallback, ExportableState):
    """Makes a training by the Trainer give what `fit` gives; does nothing for models that are not ours.

    Before the first step it checks the labels against the config's `label_range`, and measures `label_mean`,
    `label_std`, `trained_targets` and `pooled_scale` on the training rows unless the config says that its labels are
    measured already. At the end, with the best model loaded, it calibrates `uncertainty_scale` on (up to 4,096)
    evaluated rows, takes `prediction_quantiles` from as many training rows, and fits `in_domain` where the Trainer has
    the tokenizer (`processing_class`) and trains no adapter, which could not save it.

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

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, model: nn.Module, **kwargs: Any) -> None:
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
            calibration.measure_labels(model, labels)
            calibration.measure_pooled_scale(model, rows.batches(calibration.SCALE_TEXTS))
            _agree(model, "pooled_scale")
        fields = ("label_mean", "label_std", "trained_targets", "pooled_scale")
        self.measured = {name: getattr(config, name) for name in fields if hasattr(config, name)}

    def on_train_end(self, args: Any, state: TrainerState, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Calibrates the model that the training leaves."""
        loader = kwargs.get("eval_dataloader")
        if loader is None and self.evaluated is not None:
            loader = self.evaluated()
        if not self.measured:
            return

        def predicted(loader: Any) -> Any:
            rows = None if loader is None else Rows(loader).batches(self.MOST_ROWS, spread=True)
            return None if rows is None else calibration.predict(model, rows)

        trained_on = kwargs.get("train_dataloader")
        if not hasattr(model, "peft_config"):  # the folder of an adapter has no room for a gauge
            tokenizer: Any = kwargs.get("processing_class")
            fit_domain(model, tokenizer, _texts(tokenizer, trained_on), args.seed)
        calibration.calibrate(model, predicted(loader), predicted(trained_on))
        _agree(model, "uncertainty_scale", "prediction_quantiles", "residual_quantiles")


def _agree(model: nn.Module, *names: str) -> None:
    """Every process takes what the first has measured: the last digits may differ, and the models must not."""
    config = liminal_model(model).config
    update_config(model, **broadcast_object_list([{name: getattr(config, name) for name in names}])[0])


def _texts(tokenizer: Any, loader: Any) -> list[str]:
    """The texts behind the tokens of up to 4,000 rows; none without a tokenizer, and where rows hold no tokens."""
    if loader is None or not hasattr(tokenizer, "batch_decode"):
        return []
    batches = Rows(loader).batches(2 * MOST_TEXTS, spread=True)
    texts = tokenizer.batch_decode(
        [ids for batch in batches for ids in batch.get("input_ids", ())], skip_special_tokens=True
    )
    return [text for text in texts if text_error(text) is None]


def _description(**loaders: Any) -> dict[str, Any]:
    """What a card says of the data of a training: its name, where it has one, and the count of its rows."""
    datasets = {split: loader.dataset for split, loader in loaders.items() if hasattr(loader, "dataset")}
    names = [getattr(getattr(dataset, "info", None), "dataset_name", None) for dataset in datasets.values()]
    rows = {split: len(dataset) for split, dataset in datasets.items() if hasattr(dataset, "__len__")}
    return {**({"name": names[0]} if names and names[0] else {}), "rows": rows}


class EMACallback(TrainerCallback):
    """Exponential moving average of the trained weights: shadow <- decay * shadow + (1 - decay) * weight.

    The average stands in for the weights whenever the Trainer evaluates or saves, so the best checkpoint by a metric
    on the average is the average; after training the model holds it. Each checkpoint carries the plain weights beside
    it (`raw_weights.safetensors`), from which a resumed run goes on exactly. While fewer than about 10 / (1 - decay)
    updates were made the decay is (1 + t) / (10 + t), so that the start is forgotten in time.

    Args:
        decay: 0 <= decay < 1.

    Raises:
        ValueError: decay is out of range, or a checkpoint to resume from was written without the average.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> average = EMACallback(0.99)
        >>> average.start(model)
        >>> with torch.no_grad(): _ = model.weight.add_(1.0)
        >>> average.update(model)
        >>> abs((model.weight - average.shadow["weight"]).item() - 0.1) < 1e-6  # decay (1 + 0) / (10 + 0)
        True
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise LiminalError(f"EMACallback: decay must be in 0..1 (below 1), got {decay}. Usual: 0.99 to 0.9999.")
        self.decay = decay
        self.shadow: dict[str, Tensor] = {}
        self.updates = 0
        self._raw: dict[str, Tensor] = {}

    @staticmethod
    def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in model.named_parameters() if value.requires_grad)

    def start(self, model: nn.Module) -> None:
        """Begins at the model's present weights."""
        self.shadow = {name: value.detach().clone() for name, value in self._trained(model)}
        self.updates = 0
        self._raw = {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the weights in after one step of the optimizer."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        trained = dict(self._trained(model))
        get_ema_multi_avg_fn(decay)([self.shadow[name] for name in trained], list(trained.values()), self.updates)

    @torch.no_grad()
    def swap_in(self, model: nn.Module) -> None:
        """Puts the average into the model and keeps the plain weights aside; does nothing when it is in already."""
        if self._raw or not self.shadow:
            return
        for name, value in self._trained(model):
            self._raw[name] = value.detach().clone()
            value.copy_(self.shadow[name])

    @torch.no_grad()
    def swap_out(self, model: nn.Module) -> None:
        """Puts the plain weights back; does nothing when they are in already."""
        for name, value in self._trained(model):
            if name in self._raw:
                value.copy_(self._raw[name])
        self._raw = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Starts anew, or goes on from the checkpoint of this step."""
        self.start(model)
        if state.global_step == 0:
            return
        path = checkpoint_folder(args, state) / RAW_WEIGHTS
        if not path.is_file():
            raise LiminalError(
                f"{path.parent} was written without the averaged weights, so a run with an EMA can't resume from it. "
                "Resume without the EMA, or start again in another folder."
            )
        # The Trainer has just loaded the average as the model's weights: it is the shadow already.
        raw = load_file(path)
        self.updates = state.global_step
        with torch.no_grad():
            for name, value in self._trained(model):
                value.copy_(raw[name])

    def on_optimizer_step(self, args: Any, state: TrainerState, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """One update."""
        self.update(model)

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """Training goes on with the plain weights."""
        self.swap_out(model)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """The average is what is evaluated and saved, and what the training leaves."""
        if control.should_evaluate or control.should_save or control.should_training_stop:
            self.swap_in(model)

    on_epoch_end = on_step_end

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """The plain weights go beside the average."""
        if state.is_world_process_zero and self._raw:
            with atomic_write(checkpoint_folder(args, state) / RAW_WEIGHTS) as temporary:
                save_file(self._raw, temporary)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """The average stays in the model; when the Trainer has loaded the best checkpoint, that is an average too."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint is not None):
            self.swap_in(model)
        self.shadow, self._raw = {}, {}


class EmotionalLogCallback(TrainerCallback):
    """Writes `emotional_log.csv`: one row per evaluation, with Hope, Faith(+) and Love(+) beside the losses.

    The file is written anew from the Trainer's own history each time, so a resumed run repeats no row.

    Args:
        path: the CSV file.
        epochs_before: epochs of earlier phases; their rows in the file are kept, and this run's epochs count on.

    Example:
        >>> callback = EmotionalLogCallback("emotional_log.csv")
        >>> callback.rows([
        ...     {"loss": 0.5, "learning_rate": 0.001, "epoch": 1.0, "step": 9},
        ...     {"eval_loss": 0.4, "eval_hope": 0.9, "epoch": 1.0, "step": 9},
        ... ])
        [[1.0, 0.5, 0.4, 0.9, '', '', 0.001, '', '']]
    """

    def __init__(self, path: str | Path, epochs_before: float = 0.0) -> None:
        self.path = Path(path)
        self.epochs_before = epochs_before

    def rows(self, history: list[dict[str, Any]]) -> list[list[Any]]:
        """The rows that belong to the Trainer's `state.log_history`; what was not measured is empty."""
        rows: list[list[Any]] = []
        train: dict[str, Any] = {}
        for entry in history:
            if "loss" in entry:
                train = entry
            elif "eval_loss" in entry:
                epoch = round(self.epochs_before + entry.get("epoch", 0.0), 6)
                feelings = [entry.get(f"eval_{name}", "") for name in ("hope", "faith", "love", *LOG_COLUMNS[-2:])]
                losses = (train.get("loss", ""), entry["eval_loss"])
                rows.append([epoch, *losses, *feelings[:3], train.get("learning_rate", ""), *feelings[3:]])
        return rows

    def _earlier_rows(self) -> list[list[str]]:
        if self.epochs_before <= 0 or not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in list(csv.reader(file))[1:] if float(row[0]) <= round(self.epochs_before, 6)]

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Writes the file."""
        rows = self.rows(state.log_history)
        if not state.is_world_process_zero or not rows:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [LOG_COLUMNS, *self._earlier_rows(), *rows]
        write_text(self.path, "".join(",".join(str(value) for value in line) + "\n" for line in lines))


class ManifestCallback(TrainerCallback):
    """Closes each checkpoint with a list of its files and their sha256, written last and by rename.

    A checkpoint whose manifest is missing or does not fit was cut short or damaged; `last_checkpoint` passes it over.
    Must come after every callback that writes into the checkpoint.
    """

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Writes the manifest, when every process has written its part."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = checkpoint_folder(args, state)
            write_text(folder / MANIFEST, json.dumps(folder_sha256(folder), indent=1))


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint in `folder` to resume from, or None.

    A damaged one is passed over, and so is one whose best checkpoint so far is damaged or gone: the run could go on,
    but would end with other weights.
    """
    steps = {path.name.rpartition("-")[2]: path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    for step in sorted(filter(str.isdigit, steps), key=int, reverse=True):
        path = steps[step]
        if is_whole(path):
            best = TrainerState.load_from_json(str(path / "trainer_state.json")).best_model_checkpoint
            if best is None or Path(best) == path or is_whole(Path(best)):
                return path
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that the checkpoint's manifest lists is there, unchanged."""
    try:
        return not changed_files(checkpoint, json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        return False
