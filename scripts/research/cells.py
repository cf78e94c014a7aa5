"""The cells of `benchmark.py`: one system of a grid with one seed, computed once and kept.

Requires liminal_hf; scikit-learn for `ridge` and `svr`, vaderSentiment for `vader` (`pip install
'liminal_hf[benchmark]'`).
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from filelock import FileLock
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig

from liminal_hf import metrics
from liminal_hf.data import load_emobank, load_table, pooled_dataset
from liminal_hf.data.pooled_cache import COLUMN
from liminal_hf.modeling.configuration_liminal import MISSING_LABEL
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.modeling.modeling_liminal import LiminalForPADRegression
from liminal_hf.training.callbacks import write_text
from liminal_hf.training.distillation import weights_sha256
from liminal_hf.training.fit import FitResult, fit, load_tokenizer
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.run_folder import RunFolder, hardware
from liminal_hf.training.trainer import LiminalTrainer
from research import peers, trials
from research.emobank import human_ceiling
from research.grid import SEEDED, TRAINED, WITH_RECIPE, Grid, System
from research.report import Array, content_hash, mean_r

READ_OUT_STEPS = 10
PARTS = (("dev", "validation"), ("test", "test"))


@dataclass
class Cell:
    """The outcome of one system with one seed; a dimension that a system does not predict is NaN.

    Args:
        dev, test: `(rows, 3)` in label units.
        dev_steps, test_steps: `(rows, steps, 3)`, the readout after each step, where there are several.
        about: `seed` (None without chance), `seconds` (of processor time; None where unknown), `head_parameters`,
            `chosen` (alpha or C), `machine`, `teachers` (sha256 of their weights, where it learned from some).
    """

    dev: Array
    test: Array
    about: dict[str, Any]
    dev_steps: Array | None = None
    test_steps: Array | None = None

    def save(self, path: Path) -> None:
        """Writes the cell by rename."""
        arrays = {name: getattr(self, name) for name in ("dev", "test", "dev_steps", "test_steps")}
        arrays = {name: np.ascontiguousarray(value) for name, value in arrays.items() if value is not None}
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file(arrays, part, metadata={"about": json.dumps(self.about)})
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Cell":
        """Reads what `save` wrote."""
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
        return cls(about=about, **load_file(path))


class Cells:
    """A grid over its data, with the folder that keeps the cells.

    Args:
        grid: what to run.
        work: folder for cells and unfinished runs.
        corpus: other splits than those of the recipe, with `text`, `labels` and perhaps the states, as
            `pooled_corpus` adds them.
    """

    def __init__(self, grid: Grid, work: Path, corpus: DatasetDict | None = None) -> None:
        self.grid = grid
        self.work = work
        self.corpus = load_corpus(grid.recipe) if corpus is None else corpus
        if not {"train", "validation", "test"} <= set(self.corpus):
            raise ValueError(f"The benchmark needs train, validation and test; the recipe gives {list(self.corpus)}.")
        self.labels = {split: np.asarray(rows["labels"][:], dtype=np.float64) for split, rows in self.corpus.items()}
        self.ceiling = human_ceiling() if grid.recipe.data.files is None and corpus is None else None
        texts = {split: list(rows["text"][:]) for split, rows in self.corpus.items()}
        listed = {split: values.tolist() for split, values in self.labels.items()}
        self._data_hash = content_hash([texts, listed])
        self._states: dict[str, Array] | None = None

    # ---- cells ----

    def path(self, system: System, seed: int) -> Path:
        """Where the cell lies; systems without chance have one cell for all seeds."""
        about: dict[str, Any] = {"kind": system.kind, "data": self._data_hash}
        if system.kind in TRAINED:
            recipe = self._recipe(system).override({"seed": seed}).to_dict()
            # What a run is called and where it would be published change nothing.
            about["recipe"] = {name: value for name, value in recipe.items() if name not in ("name", "hub")}
            about["recipe"]["distill"] = _teaching(recipe)
            about |= {"told": system.told} if system.kind == "leak" else {}
            about |= {"trial": system.trial} if system.kind == "trial" else {}
        elif system.kind == "mean":
            about["of"] = [self.path(other, seed).stem for other in self.grid.named(system.of)]
        elif system.kind not in ("constant", "vader"):
            known = system.recipe or self.grid.recipe
            about |= {"layers": system.layers, "max_length": known.data.max_length}
            about |= {name: known.model.get(name) for name in ("encoder", "revision", "pooling")}
            if system.kind == "plain":
                about |= {"training": {**peers.PLAIN, **system.overrides}, "seed": seed}
                about |= {"distill": _teaching(known.to_dict())} if known.distill else {}
        return self.work / "cells" / f"{system.kind}-{content_hash(about)}.safetensors"

    def _teachers(self, system: System) -> list[str]:
        """The sha256 of each file of the weights that the system learns from, of those that are there."""
        recipe = self._recipe(system) if system.kind in TRAINED else system.recipe or self.grid.recipe
        distill = recipe.distill if system.kind in WITH_RECIPE else None
        return weights_sha256(distill.teachers) if distill else []

    def _is_current(self, system: System, seed: int) -> bool:
        """Whether the cell is there, and what it was made from has not changed since; without it, it is kept."""
        path = self.path(system, seed)
        if not path.is_file():
            return False
        others = [self.path(other, seed) for other in self.grid.named(system.of)]
        if any(other.is_file() and other.stat().st_mtime > path.stat().st_mtime for other in others):
            return False
        now = self._teachers(system)
        return not now or Cell.load(path).about.get("teachers", now) == now

    def untaught(self, systems: Sequence[System], seeds: Sequence[int]) -> list[System]:
        """The systems that can't be run now, because they need a model that has to be trained first, or its cell."""
        found: list[System] = []
        for system in systems:
            if all(self.path(system, seed).is_file() for seed in seeds):
                continue
            distill = (system.recipe or self.grid.recipe).distill if system.kind in WITH_RECIPE else None
            absent = any(
                not (Path(teacher) / "config.json").is_file() for teacher in (distill.teachers if distill else [])
            )
            if absent or any(other in found for other in self.grid.named(system.of)):
                found.append(system)
        return found

    def run(self, systems: Sequence[System], seeds: Sequence[int], after_each: Callable[[], None]) -> None:
        """Computes the cells that are missing, seed by seed, and prints one line for each."""
        cells = {self.path(system, seed): (system, seed) for seed in seeds for system in systems}
        for place, (path, (system, seed)) in enumerate(cells.items(), start=1):
            path.parent.mkdir(parents=True, exist_ok=True)
            what = f"{system.name}, seed {seed}" if system.kind in SEEDED else system.name
            # The lock lets several commands share the folder; it ends with its process.
            with FileLock(f"{path}.lock"):
                cached = self._is_current(system, seed)
                if not cached:
                    print(f"[{place}/{len(cells)}] {what} ...", flush=True)
                    folder = self.work / "fits" / path.stem
                    resumed = folder.is_dir()
                    cell = self.compute(system, seed, folder)
                    if resumed:
                        cell.about["seconds"] = None  # what an earlier process took is not known
                    cell.about |= {"seed": seed if system.kind in SEEDED else None, "machine": hardware()}
                    cell.about |= {"teachers": taught} if (taught := self._teachers(system)) else {}
                    if system.kind == "fit":
                        self._keep_log(path.stem, cell)
                    cell.save(path)
                    shutil.rmtree(folder, ignore_errors=True)
            cell = Cell.load(path)
            dev, test = (mean_r(getattr(cell, part), self.labels[split]) for part, split in PARTS)
            took = cell.about["seconds"]
            how = "kept" if cached else "resumed" if took is None else f"{took:.0f} s"
            print(f"[{place}/{len(cells)}] {what}: mean r {dev:.4f} dev, {test:.4f} test ({how})", flush=True)
            after_each()

    def compute(self, system: System, seed: int, folder: Path) -> Cell:
        """One cell, computed."""
        if system.kind in ("fit", "trial"):
            return self._fit(system, seed, folder)
        if system.kind in ("ridge", "svr", "leak"):
            self._pooled()  # not part of the time that is measured
        started = time.process_time()
        if system.kind == "mean":
            cell = self._mean(system, seed)
        elif system.kind in SEEDED:
            cell = self._peer(system, seed, folder)
        else:
            cell = self._simple(system)
        cell.about["seconds"] = round(time.process_time() - started, 2)
        return cell

    def _keep_log(self, name: str, cell: Cell) -> None:
        """The log of a run that ends, with what its predictions on test are worth, whole or not at all."""
        run, kept = (RunFolder(self.work / part / name) for part in ("fits", "runs"))
        shutil.copy(run.recipe, kept.recipe)
        if run.emotional_log.is_file():  # a run that never evaluates has none
            shutil.copy(run.emotional_log, kept.emotional_log)
        found = json.loads(run.metrics.read_text(encoding="utf-8"))
        figures = {"pearson": metrics.pearson, "ccc": metrics.ccc, "mae": metrics.mae}
        test = {name: figure(cell.test, self.labels["test"]) for name, figure in figures.items()}
        found["test"] = {f"{name}_mean": float(np.nanmean(values)) for name, values in test.items()}
        write_text(kept.metrics, json.dumps(found, indent=1) + "\n")

    def _recipe(self, system: System) -> Recipe:
        recipe = self.grid.recipe if system.recipe is None else system.recipe
        return recipe.override({**system.overrides, "evaluate_test": False})

    def _fit(self, system: System, seed: int, folder: Path) -> Cell:
        recipe = self._recipe(system)
        cached = recipe.phases[-1].cache
        frozen = all(phase.freezes_encoder for phase in recipe.phases)
        if cached and recipe.model.get("pooled_layers") == "all":
            self._pooled()
        started = time.process_time()
        quiet = {"phases.*.training.disable_tqdm": True}
        corpus: DatasetDict = self.corpus
        trainer: Callable[..., LiminalTrainer] = LiminalTrainer
        if system.kind == "trial":
            corpus, trainer = trials.Trial(**system.trial).prepare(corpus)
        result = fit(recipe, folder, seed=seed, overrides=quiet, data=corpus, trainer=trainer)
        seconds = time.process_time() - started
        about: dict[str, Any] = {
            "seconds": round(seconds, 2),
            "head_parameters": result.metrics["head_parameters"],
        }
        inputs = self._inputs(result, cached, frozen)
        found = {part: _steps(result.model, inputs[split]) for part, split in PARTS}
        logits = {part: values[0] for part, values in found.items()}
        steps = {f"{part}_steps": values[1] for part, values in found.items()}
        if system.ranks:
            about["ranks_errors"] = {
                part: metrics.uncertainty_spearman(logits[part], self.labels[split], found[part][2]).tolist()
                for part, split in PARTS
            }
        return Cell(about=about, **logits, **steps)

    def _peer(self, system: System, seed: int, folder: Path) -> Cell:
        if any((values == MISSING_LABEL).any() for values in self.labels.values()):
            raise ValueError(f"{system.kind}: it can't learn from rows whose labels miss in part.")
        if system.kind == "plain":
            recipe = system.recipe or self.grid.recipe
            made, parameters = peers.plain(recipe, self.corpus, system.overrides, seed, folder)
        else:
            states = self._pooled()
            made, parameters = peers.leaking(self._recipe(system), states, self.labels, system.told, seed, folder)
        return Cell(dev=made["validation"], test=made["test"], about={"head_parameters": parameters})

    def _simple(self, system: System) -> Cell:
        """A system without chance."""
        texts = {split: list(rows["text"][:]) for split, rows in self.corpus.items()}
        if system.kind == "constant":
            made, parameters, chosen = peers.constant(self.labels)
        elif system.kind == "vader":
            made, parameters, chosen = peers.vader(texts, self.labels)
        elif system.kind == "svr":
            made, parameters, chosen = peers.svr(self._features(system.layers), self.labels)
        elif system.kind == "ridge":
            made, parameters, chosen = peers.ridge(self._features(system.layers), self.labels)
        else:
            embeddings = peers.sentence_embeddings(self.grid.recipe, texts)
            # They have length 1; with a root mean square of 1 the alphas for pooled states suit them, too.
            width = embeddings["train"].shape[1]
            scaled = {split: values * np.sqrt(width) for split, values in embeddings.items()}
            made, parameters, chosen = peers.ridge(scaled, self.labels)
        about = {"head_parameters": parameters} | ({"chosen": chosen} if chosen else {})
        return Cell(dev=made["validation"], test=made["test"], about=about)

    def _mean(self, system: System, seed: int) -> Cell:
        others = self.grid.named(system.of)
        missing = [other.name for other in others if not self.path(other, seed).is_file()]
        if missing:
            raise ValueError(f"{system.name}: run {', '.join(missing)} with seed {seed} first.")
        cells = [Cell.load(self.path(other, seed)) for other in others]
        dev, test = (np.mean([getattr(cell, part) for cell in cells], axis=0) for part, _ in PARTS)
        parameters = [cell.about["head_parameters"] for cell in cells]
        return Cell(dev=dev, test=test, about={"head_parameters": None if None in parameters else sum(parameters)})

    def _inputs(self, result: FitResult, cached: bool, frozen: bool) -> dict[str, list[dict[str, torch.Tensor]]]:
        """Batches of pooled states, or of tokens; states at hand are of use where the encoder has stayed as it was."""
        held_out = DatasetDict({split: self.corpus[split] for _, split in PARTS})
        if not frozen:
            held_out = DatasetDict({split: rows.select_columns(["text", "labels"]) for split, rows in held_out.items()})
        length = result.model.config.max_seq_length
        batches: dict[str, list[dict[str, torch.Tensor]]] = {}
        if cached:
            pooled = held_out
            if COLUMN not in held_out["test"].column_names:
                pooled = pooled_dataset(result.model, result.tokenizer, held_out, max_length=length)
            for split, rows in pooled.with_format("torch").items():
                batches[split] = [{"pooled_embeds": part} for part in rows["pooled_embeds"][:].split(64)]
            return batches
        for split, rows in held_out.items():
            texts = rows["text"][:]
            batches[split] = [
                dict(
                    result.tokenizer(
                        texts[start : start + 64], padding=True, truncation=True, max_length=length, return_tensors="pt"
                    )
                )
                for start in range(0, len(texts), 64)
            ]
        return batches

    def _pooled(self) -> dict[str, Array]:
        """The pooled states of all layers, `(rows, layers * hidden)`."""
        if self._states is None:
            pooled = self.corpus
            if COLUMN not in pooled["train"].column_names:
                pooled = pooled_corpus(self.grid.recipe, pooled)
            pooled = pooled.with_format("numpy")
            self._states = {split: np.asarray(rows[COLUMN][:]) for split, rows in pooled.items()}
        return self._states

    def _features(self, layers: str) -> dict[str, Array]:
        """Pooled states with one global factor that brings them to a root mean square of 1 on train."""
        states = self._pooled()
        if layers == "last":
            model = self.grid.recipe.model
            source, revision = resolve_encoder(model["encoder"], model.get("revision"))
            width = AutoConfig.from_pretrained(source, revision=revision).hidden_size
            states = {split: values[:, -width:] for split, values in states.items()}
        scale = np.float32(1 / np.sqrt(np.square(states["train"], dtype=np.float64).mean()))
        return {split: values * scale for split, values in states.items()}


def load_corpus(recipe: Recipe) -> DatasetDict:
    """The splits of EmoBank, or of the recipe's own tables, with `text` and `labels`."""
    data = recipe.data
    if data.files is None:
        return load_emobank()
    files: dict[str, str | Path] = {str(split): path for split, path in data.files.items()}
    return load_table(files, text=data.text, labels=tuple(data.labels), scale=data.scale)


def pooled_corpus(recipe: Recipe, corpus: DatasetDict) -> DatasetDict:
    """The corpus with a column `pooled_embeds`: the states of all layers of the recipe's frozen encoder."""
    encoder, revision = recipe.model["encoder"], recipe.model.get("revision")
    model = LiminalForPADRegression.from_encoder_pretrained(
        encoder, revision, head="linear", pooled_layers="all", pooling=recipe.model.get("pooling")
    )
    tokenizer = load_tokenizer(encoder, revision)
    return pooled_dataset(model.eval(), tokenizer, corpus, max_length=recipe.data.max_length)


def _teaching(recipe: dict[str, Any]) -> dict[str, Any] | None:
    """What a recipe learns from teachers; one of them is a run's name, wherever its folder lies."""
    distill: dict[str, Any] | None = recipe["distill"]
    if distill is None:
        return None
    return {**distill, "teachers": ["/".join(Path(teacher).parts[-2:]) for teacher in distill["teachers"]]}


@torch.inference_mode()
def _steps(
    model: LiminalForPADRegression, batches: list[dict[str, torch.Tensor]]
) -> tuple[Array, Array | None, Array | None]:
    """The predictions `(rows, 3)`, the readouts after each step `(rows, steps, 3)`, the uncertainty `(rows, 3)`.

    The latter two are None where a head has one step, or no uncertainty.
    """
    model.eval()
    logits, steps, spread = [], [], []
    for batch in batches:
        output = model(**batch)
        logits.append(output.logits.double().numpy())
        if output.uncertainty is not None:
            spread.append(output.uncertainty.double().numpy())
        if output.pad_trajectory is not None and output.pad_trajectory.shape[1] > 1:
            number = max(READ_OUT_STEPS, output.pad_trajectory.shape[1])
            steps.append(model(**batch, num_outer_steps=number).pad_trajectory.double().numpy())
    known = [np.concatenate(values) if values else None for values in (steps, spread)]
    return np.concatenate(logits), known[0], known[1]
