"""What training adds to the HF Trainer between its steps: measured labels, averaged weights, the log, the manifest.

Requires accelerate, torch, safetensors and transformers. Each callback works with the stock `Trainer` too;
`FitCallback` is one of its default callbacks as soon as `liminal_hf` is imported.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..io import atomic_write, file_sha256
from ..modeling.errors import LiminalError
from .fit_callback import FitCallback as FitCallback

RAW_WEIGHTS = "raw_weights.safetensors"
MANIFEST = "manifest.json"
LOG_COLUMNS = ("epoch", "train_loss", "validation_loss", "hope", "faith", "love", "learning_rate")


def write_text(path: str | Path, text: str) -> None:
    """Writes a file so that it is either the old one or the whole new one, also after a crash.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_text(target, "hello"); target.read_text()
        'hello'
    """
    with atomic_write(Path(path)) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where the Trainer keeps the checkpoint of the present step."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"


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

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
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

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """One update."""
        self.update(model)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Training goes on with the plain weights."""
        self.swap_out(model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """The average is what is evaluated and saved, and what the training leaves."""
        if control.should_evaluate or control.should_save or control.should_training_stop:
            self.swap_in(model)

    on_epoch_end = on_step_end

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The plain weights go beside the average."""
        if state.is_world_process_zero and self._raw:
            with atomic_write(checkpoint_folder(args, state) / RAW_WEIGHTS) as temporary:
                save_file(self._raw, temporary)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """The average stays in the model; when the Trainer has loaded the best checkpoint, that is an average too."""
        if not (args.load_best_model_at_end and state.best_model_checkpoint is not None):
            self.swap_in(model)
        self.shadow, self._raw = {}, {}


class EmotionalLogCallback(TrainerCallback):
    """Writes `emotional_log.csv`: one row per evaluation, with Hope, Faith and Love beside the losses.

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
        [[1.0, 0.5, 0.4, 0.9, '', '', 0.001]]
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
                rows.append(
                    [
                        round(self.epochs_before + entry.get("epoch", 0.0), 6),
                        train.get("loss", ""),
                        entry["eval_loss"],
                        *(entry.get(f"eval_{name}", "") for name in ("hope", "faith", "love")),
                        train.get("learning_rate", ""),
                    ]
                )
        return rows

    def _earlier_rows(self) -> list[list[str]]:
        if self.epochs_before <= 0 or not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return [row for row in list(csv.reader(file))[1:] if float(row[0]) <= round(self.epochs_before, 6)]

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
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

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Writes the manifest, when every process has written its part."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            folder = checkpoint_folder(args, state)
            files = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
            write_text(folder / MANIFEST, json.dumps(files, indent=1))


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint in `folder` to resume from, or None.

    A damaged one is passed over, and so is one whose best checkpoint so far is damaged or gone: the run could go on,
    but would end with other weights.

    Example:
        >>> import tempfile
        >>> last_checkpoint(tempfile.mkdtemp()) is None
        True
    """
    steps = {path.name.rpartition("-")[2]: path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")}
    for step in sorted((step for step in steps if step.isdigit()), key=int, reverse=True):
        path = steps[step]
        if is_whole(path):
            best = TrainerState.load_from_json(str(path / TRAINER_STATE_NAME)).best_model_checkpoint
            if best is None or Path(best) == path or is_whole(Path(best)):
                return path
    return None


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that the checkpoint's manifest lists is there, unchanged."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        return all(file_sha256(checkpoint / name) == digest for name, digest in files.items())
    except (OSError, ValueError, AttributeError):
        return False
