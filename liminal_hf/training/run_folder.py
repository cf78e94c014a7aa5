"""The folder of a run: who owns it, what is finished in it, and how a result gets there whole or not at all.

Requires accelerate, datasets, filelock, safetensors and transformers.
"""

import hashlib
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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..io import file_sha256
from .callbacks import write_text
from .distillation import weights_sha256
from .recipe import Recipe

logger = logging.getLogger(__name__)

_WEIGHTS = "weights.safetensors"
_PAIRS = "low_rank.safetensors"
_REPORT = "report.json"


class RunInProgressError(RuntimeError):
    """Another process trains in the same folder."""


class RunMismatchError(ValueError):
    """The folder holds a run of another recipe, seed or data, or something that is no run."""


@dataclass
class PhaseResult:
    """What a phase leaves behind.

    Args:
        report: plain values for `metrics.json`.
        weights: the weights that differ from the phase's start.
        pairs: the change of the encoder as `name.A` and `name.B`, for a phase of adapters.
        fields: fields of the model's config that were measured.
    """

    report: dict[str, Any]
    weights: dict[str, Tensor]
    pairs: dict[str, Tensor] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Commits the result: `folder` is there whole or not at all."""
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file(self.weights, part / _WEIGHTS)
        if self.pairs:
            save_file(self.pairs, part / _PAIRS)
        digests = {path.name: file_sha256(path) for path in sorted(part.iterdir())}
        content = {"report": self.report, "fields": self.fields, "sha256": digests}
        write_text(part / _REPORT, json.dumps(content, indent=2) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)

    @classmethod
    def read(cls, folder: Path) -> "PhaseResult | None":
        """The result in `folder`; None when there is none, or it is damaged (a warning says so)."""
        if not folder.is_dir():
            return None
        try:
            content = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
            for name, digest in content["sha256"].items():
                if file_sha256(folder / name) != digest:
                    raise ValueError(f"{name} has changed since it was written")
            pairs = load_file(folder / _PAIRS) if _PAIRS in content["sha256"] else {}
            return cls(content["report"], load_file(folder / _WEIGHTS), pairs, content["fields"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            logger.warning("The result in %s is damaged (%s); the phase is trained again.", folder, error)
            return None


class RunFolder:
    """One folder, one run.

    Args:
        path: the folder; it is made.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(tempfile.mkdtemp())
        >>> with folder.locked():
        ...     folder.is_finished()
        False
    """

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
        return [path for path in (*names, self.run) if path.exists()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out; the lock dies with its process.

        Raises:
            RunInProgressError: another process holds the folder.
        """
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
        """Whether the run has ended; `metrics.json` is written last."""
        return self.metrics.is_file() and self.model.is_dir()

    def claim(self, recipe: Recipe, data: DatasetDict, anew: bool) -> None:
        """Takes the folder for this run, or goes on with it.

        Args:
            recipe, data: what the run depends on.
            anew: deletes what an earlier run left here.

        Raises:
            RunMismatchError: the folder holds another run, or something else under the names that a run uses.
        """
        identity = _identity(recipe, data)
        found: list[Any] = [None]
        if PartialState().is_main_process:
            there = self._ours()
            if there and not self.run.is_file():
                names = " and ".join(path.name for path in there)
                raise RunMismatchError(
                    f"{self.path} already holds {names}, but no {self.run.name}: it is no run of ours, and training "
                    "would overwrite it. Give another folder."
                )
            if anew:
                for path in there:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if self.run.is_file():
                found = [self._identity_there()]
                if found[0] == identity and not self.recipe.is_file():
                    # It was interrupted between the two.
                    write_text(self.recipe, recipe.to_yaml())
            else:
                write_text(self.run, json.dumps({"identity": identity, "versions": versions()}, indent=2) + "\n")
                write_text(self.recipe, recipe.to_yaml())
        found = broadcast_object_list(found)
        if found[0] is not None and found[0] != identity:
            same = [name for name, value in identity.items() if found[0].get(name) == value]
            what = self._difference(recipe) if "recipe" not in same else "teacher" if "data" in same else "data set"
            raise RunMismatchError(
                f"{self.path} holds a run of another {what}. Give another folder, or start anew in this one with "
                "resume='never' (`liminal train --no-resume`), which deletes the run that is there."
            )

    def _identity_there(self) -> dict[str, str]:
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


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a checkpoint with its tokenizer: `folder`, replaced, is there whole or not at all."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def hardware() -> str:
    """What a run was computed on: the accelerators, else the processor and its cores. Nothing names the machine.

    Example:
        >>> "\\n" in hardware()
        False
    """
    processes = PartialState().num_processes
    if torch.cuda.is_available():
        return f"{processes} x {torch.cuda.get_device_name()}"
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8"))
        name = found[1].replace("(R)", "").strip() if found else name
    cores = f"{name}, {os.cpu_count()} cores"
    return cores if processes == 1 else f"{cores}, {processes} processes"


def _identity(recipe: Recipe, data: DatasetDict) -> dict[str, str]:
    digest = hashlib.sha256()
    for split in sorted(data):
        digest.update(json.dumps([data[split]["text"][:], data[split]["labels"][:]]).encode())
    # Neither the name nor the place on the Hub changes a weight.
    content = {name: value for name, value in recipe.to_dict().items() if name not in ("hub", "name")}
    identity = {
        "recipe": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
        "data": digest.hexdigest(),
    }
    if recipe.distill:  # a folder that was trained again is another teacher
        identity["teachers"] = hashlib.sha256(json.dumps(weights_sha256(recipe.distill.teachers)).encode()).hexdigest()
    return identity
