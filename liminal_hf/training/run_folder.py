"""The folder of a run: who owns it, what is finished in it, and how a result gets there whole or not at all.

Requires accelerate, datasets, filelock, safetensors and transformers.
"""

import hashlib
import inspect
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import torch
import transformers
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import DatasetDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..io import atomic_folder, changed_files, folder_sha256, write_text
from ..modeling.encoders import hub_commit, resolve_encoder
from ..modeling.errors import LiminalError
from ..modeling.heads import HEADS
from ..modeling.losses import LOSSES
from ..modeling.pooling import POOLERS
from .calibration import liminal_model
from .distillation import settings_sha256, weights_sha256
from .recipe import Recipe

logger = logging.getLogger(__name__)

_WEIGHTS = "weights.safetensors"
_PAIRS = "low_rank.safetensors"
_REPORT = "report.json"


class RunInProgressError(LiminalError, RuntimeError):
    """Another process trains in the same folder."""


class RunMismatchError(LiminalError):
    """The folder holds a run of another recipe, seed, data, encoder or teacher, or something that is no run."""


@dataclass
class PhaseResult:
    """What a phase leaves behind."""

    report: dict[str, Any]  # plain values for `metrics.json`
    weights: dict[str, Tensor]  # those that differ from the phase's start
    pairs: dict[str, Tensor] = field(default_factory=dict)  # the encoder's change as `name.A` and `name.B`, by adapters
    fields: dict[str, Any] = field(default_factory=dict)  # what was measured for the model's config

    def write(self, folder: Path) -> None:
        """Commits the result: `folder` is there whole or not at all."""
        with atomic_folder(folder) as part:
            save_file(self.weights, part / _WEIGHTS)
            if self.pairs:
                save_file(self.pairs, part / _PAIRS)
            content = {"report": without_nan(self.report), "fields": self.fields, "sha256": folder_sha256(part)}
            write_text(part / _REPORT, json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "PhaseResult | None":
        """The result in `folder`; None when there is none, or it is damaged (a warning says so)."""
        if not folder.is_dir():
            return None
        try:
            content = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
            if changed := changed_files(folder, content["sha256"]):
                raise LiminalError(f"{', '.join(changed)} changed since it was written")
            pairs = load_file(folder / _PAIRS) if _PAIRS in content["sha256"] else {}
            return cls(content["report"], load_file(folder / _WEIGHTS), pairs, content["fields"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            logger.warning("The result in %s is damaged (%s); the phase is trained again.", folder, error)
            return None


class RunFolder:
    """One folder, which is made, for one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).resolve()
        self.path.mkdir(parents=True, exist_ok=True)
        self.model = self.path / "model"
        self.metrics = self.path / "metrics.json"
        self.recipe = self.path / "recipe.yaml"
        self.run = self.path / "run.json"
        self.low_rank = self.path / _PAIRS
        self.taught = self.path / "taught.safetensors"
        self.emotional_log = self.path / "emotional_log.csv"
        self.phases = self.path / "phases"

    def _ours(self) -> list[Path]:
        """Everything of a run that is there, what marks the folder as a run last."""
        names = (self.model, self.metrics, self.recipe, self.low_rank, self.taught, self.emotional_log, self.phases)
        shards = self.taught.with_name(f".{self.taught.stem}.shards")
        return [path for path in (*names, shards, self.run) if path.exists()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out, by a RunInProgressError; the lock dies with its process."""
        if not PartialState().is_main_process:
            yield
            return
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise RunInProgressError(
                f"Another process trains in {self.path}. Wait for it, stop it, or give another folder."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def is_finished(self) -> bool:
        """Whether the run has ended, with its checkpoint unchanged since; `metrics.json` is written last."""
        if not (self.metrics.is_file() and self.model.is_dir()):
            return False
        try:
            metrics = json.loads(self.metrics.read_text(encoding="utf-8"))
            damaged = changed_files(self.model, metrics.get("sha256", {}))
        except (OSError, ValueError, AttributeError) as error:
            damaged = [str(error)]
        if damaged:
            logger.warning("The checkpoint in %s is damaged (%s); it is written anew.", self.model, ", ".join(damaged))
        return not damaged

    def read_recipe(self) -> Recipe:
        """The recipe that the run was trained by, as long as it names the data; `inputs.load_splits` reads them."""
        if not self.recipe.is_file():
            raise LiminalError(f"{self.path} holds no run: there is no {self.recipe.name}.")
        if self.run.is_file() and json.loads(self.run.read_text(encoding="utf-8")).get("data_given"):
            raise LiminalError(f"The run in {self.path} was trained on data that were handed to fit(data=...).")
        return Recipe.from_yaml(self.recipe)

    def claim(
        self, recipe: Recipe, data: DatasetDict, anew: bool, data_given: bool = False, persons: Any = None
    ) -> None:
        """Takes the folder for this run, or goes on with it.

        Args:
            recipe, data: what the run depends on.
            anew: deletes what an earlier run left here.
            data_given: whether the data are others than those that the recipe names.
            persons: the `ValidationPersons`, on which the run depends, too.

        Raises:
            RunMismatchError: the folder holds another run, or something else under the names that a run uses.
        """
        identity = _identity(recipe, data, persons)
        stored: list[Any] = [None]
        if PartialState().is_main_process:
            paths = self._ours()
            if paths and not self.run.is_file():
                names = " and ".join(path.name for path in paths)
                raise RunMismatchError(
                    f"{self.path} already holds {names}, but no {self.run.name}: it is no run of ours, and training "
                    "would overwrite it. Give another folder."
                )
            if anew:
                for path in paths:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if self.run.is_file():
                stored = [self._stored_identity()]
                if not _changed(stored[0], identity) and not self.recipe.is_file():
                    # The run was interrupted between the two.
                    write_text(self.recipe, recipe.to_yaml())
            else:
                about = {"identity": identity, "data_given": data_given, "versions": versions()}
                write_text(self.run, json.dumps(about, indent=2) + "\n")
                write_text(self.recipe, recipe.to_yaml())
        if changed := _changed(broadcast_object_list(stored)[0] or {}, identity):
            parts = {"data": "data set", "encoder": "encoder", "plugins": "plugin"}
            what = self._difference(recipe) if "recipe" in changed else parts.get(changed[0], "teacher")
            raise RunMismatchError(
                f"{self.path} holds a run of another {what}. Give another folder, or start anew in this one with "
                "resume='never' (`liminal train --no-resume`), which deletes the run that is there."
            )

    def _stored_identity(self) -> dict[str, str]:
        try:
            return dict(json.loads(self.run.read_text(encoding="utf-8"))["identity"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunMismatchError(
                f"{self.run} can't be read ({error}), so it is not known which run this is. Give another folder."
            ) from error

    def _difference(self, recipe: Recipe) -> str:
        try:
            old = yaml.safe_load(self.recipe.read_text(encoding="utf-8"))
            new = recipe.to_dict()
            sections = [name for name in new if old.get(name) != new[name] and name not in ("hub", "name")]
        except (OSError, yaml.YAMLError, AttributeError):
            sections = []
        return f"recipe (different: {', '.join(sections)})" if sections else "recipe"


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on."""
    from .._version import __version__

    return {
        "liminal_hf": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def hardware() -> str:
    """What a run was computed on: the accelerators, else the processor and its cores. Nothing names the machine."""
    processes = PartialState().num_processes
    if torch.cuda.is_available():
        return f"{processes} x {torch.cuda.get_device_name()}"
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        name = match[1].replace("(R)", "").strip() if match else name
    cores = f"{name}, {os.cpu_count()} cores"
    return cores if processes == 1 else f"{cores}, {processes} processes"


def about_run(model: torch.nn.Module) -> dict[str, Any]:
    """What the metrics of a run say of the model and the machine."""
    sizes = {"parameters": model, "head_parameters": liminal_model(model).head}
    counts = {name: sum(value.numel() for value in module.parameters()) for name, module in sizes.items()}
    return {**counts, "hardware": hardware(), "versions": versions()}


def without_nan(value: Any) -> Any:
    """The value as plain JSON, with None for each number that is not finite.

    Example:
        >>> without_nan({"r": float("nan"), "interval": [0.1, float("inf")]})
        {'r': None, 'interval': [0.1, None]}
    """
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


def _changed(stored: dict[str, str], identity: dict[str, str]) -> list[str]:
    # A run of an older version does not know all of it.
    return [name for name, value in identity.items() if stored.get(name, value) != value]


def _identity(recipe: Recipe, data: DatasetDict, persons: Any = None) -> dict[str, str]:
    """Hashes of all that the run's weights depend on."""
    digest = hashlib.sha256()
    for split in sorted(data):
        digest.update(json.dumps([data[split]["text"][:], data[split]["labels"][:]]).encode())
    if persons is not None:
        digest.update(json.dumps([persons.names, persons.times]).encode())
    # Neither the name nor the repository on the Hub changes a weight.
    content = {name: value for name, value in recipe.to_dict().items() if name not in ("hub", "name")}
    identity = {"recipe": _sha256(content), "data": digest.hexdigest()}
    if encoder := _encoder(recipe):
        identity["encoder"] = encoder
    if plugins := _plugin_code(recipe):
        identity["plugins"] = _sha256(plugins)
    if recipe.distill:  # a folder that was trained again is another teacher
        identity["teachers"] = _sha256(weights_sha256(recipe.distill.teachers))
        identity["teacher_settings"] = _sha256(settings_sha256(recipe.distill.teachers))
    return identity


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _encoder(recipe: Recipe) -> str | None:
    """The content of an encoder's folder, or its commit on the Hub; None for one whose package is checked."""
    name, revision = recipe.model["encoder"], recipe.model.get("revision")
    if Path(name).is_dir():
        patterns = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model", "*.py")
        return _sha256(folder_sha256(Path(name), *patterns))
    source, revision = resolve_encoder(name, revision)
    return hub_commit(source, revision) if source == name else None


def _plugin_code(recipe: Recipe) -> dict[str, str]:
    """The source of each head, pooler and loss that is not ours."""
    sections = [recipe.model, *(phase.model for phase in recipe.phases)]
    code = {}
    for key, registry in (("head", HEADS), ("pooling", POOLERS), ("loss", LOSSES)):
        for name in {section[key] for section in sections if section.get(key)}:
            entry = registry[name]
            if not str(entry.__module__).startswith("liminal_hf."):
                try:
                    code[f"{key} {name}"] = inspect.getsource(inspect.getmodule(entry) or entry)
                except (OSError, TypeError):  # typed into a console
                    code[f"{key} {name}"] = entry.__qualname__
    return code
