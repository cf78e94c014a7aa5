"""The benchmark: runs the systems of a grid file, seed by seed, and writes one table of them.

Requires liminal_hf; scikit-learn for `ridge` and `svr`, vaderSentiment for `vader` (`pip install
'liminal_hf[benchmark]'`). Reads EmoBank as the recipe says (`LIMINAL_DATA_DIR`).

    python scripts/benchmark.py scripts/grids/frozen.yaml --readme README.md

One system with one seed is a cell. Its predictions on dev and test are kept under `--work`, in a file that appears by
rename and is named after everything that they depend on but the code: the recipe with its overrides, the texts and
labels, the seed. So the command can be stopped at any time, also by a kill, and goes on when it is given again; after a
change of the code, delete the folder. The table is written anew after each cell, from the cells that are there; the
row of a system that has none, or fewer seeds than the table under `--results` shows, stays as it stands in that table,
if it was measured with the same recipe and data. So one row can be added without the other ones' hours. What a run of
`fit` has logged stays beside the cells, in `runs/`, with the figures of its predictions on test.

A grid file holds `recipe` (relative to the grid), `compare` ("best peer" or a system's name), optionally `readout` (a
system whose accuracy is shown after each step) and `systems`. A system has a `name`, a `kind`, perhaps `ours: true`,
and perhaps a `recipe` of its own:

- `constant`: the mean of the training labels.
- `vader`: pleasure alone, VADER's compound score (Hutto & Gilbert 2014) brought to the labels' scale on train.
- `ridge`, `svr`: scikit-learn on the pooled states of the `last` or of `all` `layers`, alpha or C chosen on dev.
- `sentence_transformers`: scikit-learn's ridge on what sentence-transformers encodes, alpha chosen on dev.
- `fit`: the recipe with `overrides`, through `liminal_hf.training.fit.fit`.
- `trial`: the recipe with `overrides` and the change to its training that `trial` says, see `trials.py`. With `ranks:
  true`, for a head with an uncertainty, the table says how well that ranks the errors.
- `plain`: `AutoModelForSequenceClassification` by transformers' Trainer, with `overrides` of its `TrainingArguments`.
- `mean`: the mean of the predictions of the systems that `of` names, which come before it.
- `leak`: the recipe with `overrides` on the frozen encoder, but the labels are given as affect in training, as the
  original did; with `told: true` also when it predicts.
"""

import argparse
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
import trials
import yaml
from datasets import DatasetDict
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig

from liminal_hf import metrics
from liminal_hf.data import human_ceiling, load_emobank, load_table, pooled_dataset
from liminal_hf.data.embedding_cache import COLUMN
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.encoders import resolve_encoder
from liminal_hf.modeling.modeling_liminal import MISSING_LABEL, LiminalForPADRegression
from liminal_hf.training.callbacks import write_text
from liminal_hf.training.fit import FitResult, fit, load_tokenizer
from liminal_hf.training.recipe import Recipe
from liminal_hf.training.run_folder import RunFolder, hardware
from liminal_hf.training.trainer import LiminalTrainer

Array = NDArray[np.float64]
KINDS = ("constant", "vader", "ridge", "svr", "sentence_transformers", "fit", "trial", "plain", "leak", "mean")
SEEDED = ("fit", "trial", "plain", "leak", "mean")  # the other kinds have one cell for all seeds
TRAINED = ("fit", "trial", "leak")  # by the recipe
BEST_PEER = "best peer"
RESAMPLES = 2000
RESULTS = Path("scripts/results")
READ_OUT_STEPS = 10
HALTED = "each text's best, told its label"
ALPHAS = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
PENALTIES = (0.1, 0.3, 1.0, 3.0)
_KEYS = {"recipe", "compare", "readout", "systems"}
_SYSTEM_KEYS = {"name", "kind", "ours", "layers", "told", "of", "recipe", "overrides", "trial", "ranks"}


@dataclass
class System:
    """One line of a grid; the fields are those of the file."""

    name: str
    kind: str
    ours: bool = False
    layers: str = "all"
    told: bool = False
    of: list[str] = field(default_factory=list)
    recipe: Recipe | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    trial: dict[str, Any] = field(default_factory=dict)
    ranks: bool = False


@dataclass
class Grid:
    """A grid file, read and checked."""

    name: str
    recipe: Recipe
    systems: list[System]
    compare: str = BEST_PEER
    readout: str | None = None

    @classmethod
    def from_yaml(cls, path: Path) -> "Grid":
        """Reads a grid.

        Raises:
            ValueError: the file is missing, or a key, a kind or a name in it is not known; the message says which.
        """
        if not path.is_file():
            raise ValueError(f"There is no grid at {path}. The ready ones are in scripts/grids/.")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        _check_keys(str(path), content, _KEYS, {"recipe", "systems"})
        systems: list[System] = []
        for entry in content["systems"]:
            _check_keys(f"{path}, a system", entry, _SYSTEM_KEYS, {"name", "kind"})
            if entry["kind"] not in KINDS:
                raise ValueError(f"{path}: system {entry['name']!r} has kind {entry['kind']!r}; known: {KINDS}.")
            if entry.get("layers", "all") not in ("last", "all"):
                raise ValueError(f"{path}: layers of {entry['name']!r} must be last or all, got {entry['layers']!r}.")
            if "recipe" in entry:
                if entry["kind"] not in TRAINED:
                    raise ValueError(f"{path}: {entry['name']!r}: a recipe of its own is for the kinds {TRAINED}.")
                entry["recipe"] = Recipe.from_yaml(path.parent / entry["recipe"])
            before = [system.name for system in systems]
            if (entry["kind"] == "mean") != bool(entry.get("of")) or set(entry.get("of", [])) - set(before):
                raise ValueError(
                    f"{path}: a system of kind mean, and no other, names in `of` some systems before it; "
                    f"{entry['name']!r} has {entry.get('of')}, before it are {before}."
                )
            systems.append(System(**entry))
        names = [system.name for system in systems]
        if len(set(names)) < len(names):
            raise ValueError(f"{path}: each system needs a name of its own, got {names}.")
        compare, readout = content.get("compare", BEST_PEER), content.get("readout")
        for name in {compare, readout} - {BEST_PEER, None}:
            if name not in names:
                raise ValueError(f"{path}: compare and readout name a system of the grid, not {name!r}; got {names}.")
        recipe = Recipe.from_yaml(path.parent / content["recipe"])
        return cls(path.stem, recipe, systems, compare, readout)

    def named(self, names: Sequence[str]) -> list[System]:
        """The systems of these names, in their order."""
        return [next(system for system in self.systems if system.name == name) for name in names]

    def chosen(self, only: Sequence[str] | None) -> list[System]:
        """The systems of these names, all of them where none is given.

        Raises:
            ValueError: a name is not in the grid.
        """
        names = [system.name for system in self.systems]
        unknown = set(only or []) - set(names)
        if unknown:
            raise ValueError(f"--only: the grid has no {sorted(unknown)}. It has: {', '.join(names)}.")
        return [system for system in self.systems if not only or system.name in only]


def _check_keys(where: str, content: Any, allowed: set[str], needed: set[str]) -> None:
    if not isinstance(content, dict) or not needed <= set(content) <= allowed:
        found = sorted(content) if isinstance(content, dict) else content
        raise ValueError(f"{where}: needs the keys {sorted(needed)}, may have {sorted(allowed)}; got {found}.")


@dataclass
class Cell:
    """The outcome of one system with one seed; a dimension that a system does not predict is NaN.

    Args:
        dev, test: `(rows, 3)` in label units.
        dev_steps, test_steps: `(rows, steps, 3)`, the readout after each step, where there are several.
        about: `seed` (None without chance), `seconds` (of processor time; None where unknown), `head_parameters`,
            `chosen` (alpha or C), `machine`.
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


class Benchmark:
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
        data = grid.recipe.data
        if corpus is not None:
            self.corpus = corpus
        elif data.files is None:
            self.corpus = load_emobank()
        else:
            files: dict[str, str | Path] = {str(split): path for split, path in data.files.items()}
            self.corpus = load_table(files, text=data.text, labels=tuple(data.labels), scale=data.scale)
        if not {"train", "validation", "test"} <= set(self.corpus):
            raise ValueError(f"The benchmark needs train, validation and test; the recipe gives {list(self.corpus)}.")
        self.labels = {split: np.asarray(rows["labels"][:], dtype=np.float64) for split, rows in self.corpus.items()}
        self.ceiling = human_ceiling() if data.files is None and corpus is None else None
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
            if recipe["distill"]:  # a teacher is a run's name, wherever its folder lies
                teachers = ["/".join(Path(teacher).parts[-2:]) for teacher in recipe["distill"]["teachers"]]
                about["recipe"]["distill"] = {**recipe["distill"], "teachers": teachers}
            about |= {"told": system.told} if system.kind == "leak" else {}
            about |= {"trial": system.trial} if system.kind == "trial" else {}
        elif system.kind == "mean":
            about["of"] = [self.path(other, seed).stem for other in self.grid.named(system.of)]
        elif system.kind not in ("constant", "vader"):
            model = self.grid.recipe.model
            about |= {"layers": system.layers, "max_length": self.grid.recipe.data.max_length}
            about |= {name: model.get(name) for name in ("encoder", "revision", "pooling")}
            if system.kind == "plain":
                about |= {"training": {**peers.PLAIN, **system.overrides}, "seed": seed}
        return self.work / "cells" / f"{system.kind}-{content_hash(about)}.safetensors"

    def run(self, systems: Sequence[System], seeds: Sequence[int], after_each: Callable[[], None]) -> None:
        """Computes the cells that are missing, seed by seed, and prints one line for each."""
        cells = {self.path(system, seed): (system, seed) for seed in seeds for system in systems}
        for number, (path, (system, seed)) in enumerate(cells.items(), start=1):
            path.parent.mkdir(parents=True, exist_ok=True)
            what = f"{system.name}, seed {seed}" if system.kind in SEEDED else system.name
            # The lock lets several commands share the folder; it ends with its process.
            with FileLock(f"{path}.lock"):
                cached = path.is_file()
                if not cached:
                    print(f"[{number}/{len(cells)}] {what} ...", flush=True)
                    cell = self.compute(system, seed, self.work / "fits" / path.stem)
                    cell.about |= {"seed": seed if system.kind in SEEDED else None, "machine": hardware()}
                    if system.kind == "fit":
                        self._keep_log(path.stem, cell)
                    cell.save(path)
                    shutil.rmtree(self.work / "fits" / path.stem, ignore_errors=True)
            cell = Cell.load(path)
            dev, test = (mean_r(getattr(cell, part), self.labels[split]) for part, split in _PARTS)
            how = "kept" if cached else f"{cell.about['seconds']:.0f} s"
            print(f"[{number}/{len(cells)}] {what}: mean r {dev:.4f} dev, {test:.4f} test ({how})", flush=True)
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
            made = {"constant": self._constant, "vader": self._vader, "ridge": self._ridge, "svr": self._svr}
            cell = (made | {"sentence_transformers": self._sentence_transformers})[system.kind](system)
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
        about = {"seconds": round(seconds, 2), "head_parameters": result.metrics["head_parameters"]}
        inputs = self._inputs(result, cached)
        found = {part: _steps(result.model, inputs[split]) for part, split in _PARTS}
        logits = {part: values[0] for part, values in found.items()}
        steps = {f"{part}_steps": values[1] for part, values in found.items()}
        if system.ranks:
            about["ranks_errors"] = {
                part: metrics.uncertainty_spearman(logits[part], self.labels[split], found[part][2]).tolist()
                for part, split in _PARTS
            }
        return Cell(about=about, **logits, **steps)

    def _peer(self, system: System, seed: int, folder: Path) -> Cell:
        if system.kind == "plain":
            if any((values == MISSING_LABEL).any() for values in self.labels.values()):
                raise ValueError("plain: transformers' own models can't learn from rows whose labels miss in part.")
            made, parameters = peers.plain(self.grid.recipe, self.corpus, system.overrides, seed, folder)
        else:
            states = self._pooled()
            made, parameters = peers.leaking(self._recipe(system), states, self.labels, system.told, seed, folder)
        return Cell(dev=made["validation"], test=made["test"], about={"head_parameters": parameters})

    def _mean(self, system: System, seed: int) -> Cell:
        others = self.grid.named(system.of)
        missing = [other.name for other in others if not self.path(other, seed).is_file()]
        if missing:
            raise ValueError(f"{system.name}: run {', '.join(missing)} with seed {seed} first.")
        cells = [Cell.load(self.path(other, seed)) for other in others]
        dev, test = (np.mean([getattr(cell, part) for cell in cells], axis=0) for part, _ in _PARTS)
        parameters = [cell.about["head_parameters"] for cell in cells]
        return Cell(dev=dev, test=test, about={"head_parameters": None if None in parameters else sum(parameters)})

    def _inputs(self, result: FitResult, cached: bool) -> dict[str, list[dict[str, torch.Tensor]]]:
        """Batches of pooled states, or of tokens where the run has changed the encoder."""
        held_out = DatasetDict({split: self.corpus[split] for _, split in _PARTS})
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

    # ---- systems without training by us ----

    def _constant(self, system: System) -> Cell:
        mean = np.ma.masked_equal(self.labels["train"], MISSING_LABEL).mean(axis=0).filled(0.0)
        made = {part: np.tile(mean, (len(self.labels[split]), 1)) for part, split in _PARTS}
        return Cell(about={"head_parameters": 3}, **made)

    def _vader(self, system: System) -> Cell:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        analyzer = SentimentIntensityAnalyzer()
        compound = {
            split: np.array([analyzer.polarity_scores(text)["compound"] for text in rows["text"][:]])
            for split, rows in self.corpus.items()
        }
        target = self.labels["train"][:, 0]
        known = target != MISSING_LABEL
        slope, intercept = np.polyfit(compound["train"][known], target[known], 1)
        made = {}
        for part, split in _PARTS:
            made[part] = np.full(self.labels[split].shape, np.nan)
            made[part][:, 0] = slope * compound[split] + intercept
        return Cell(about={"head_parameters": None}, **made)

    def _sentence_transformers(self, system: System) -> Cell:
        texts = {split: rows["text"][:] for split, rows in self.corpus.items()}
        # Its embeddings have length 1; with a root mean square of 1 the same alphas suit them.
        embeddings = peers.sentence_embeddings(self.grid.recipe, texts)
        width = embeddings["train"].shape[1]
        return self._ridge_on({split: values * np.sqrt(width) for split, values in embeddings.items()})

    def _ridge(self, system: System) -> Cell:
        return self._ridge_on(self._features(system.layers))

    def _ridge_on(self, features: dict[str, Array]) -> Cell:
        from sklearn.linear_model import Ridge

        def fitted(alpha: float, target: Array, rows: NDArray[np.bool_]) -> Callable[[str], Array]:
            model = Ridge(alpha=alpha, solver="cholesky").fit(features["train"][rows], target)
            return lambda split: model.predict(features[split])

        return self._chosen(fitted, ALPHAS, 3 * features["train"].shape[1] + 3)

    def _svr(self, system: System) -> Cell:
        from sklearn.metrics.pairwise import rbf_kernel
        from sklearn.svm import SVR

        features = self._features(system.layers)
        # scikit-learn's gamma="scale"; the kernel once, for three dimensions and every C.
        gamma = 1 / (features["train"].shape[1] * features["train"].var())
        kernels = {split: rbf_kernel(values, features["train"], gamma) for split, values in features.items()}

        def fitted(penalty: float, target: Array, rows: NDArray[np.bool_]) -> Callable[[str], Array]:
            mean, deviation = target.mean(), target.std()
            # epsilon is in units of the labels' standard deviation, too.
            model = SVR(kernel="precomputed", C=penalty, epsilon=0.3, cache_size=500)
            model.fit(kernels["train"][np.ix_(rows, rows)], (target - mean) / deviation)
            return lambda split: model.predict(kernels[split][:, rows]) * deviation + mean

        return self._chosen(fitted, PENALTIES, None)

    def _chosen(
        self,
        fitted: Callable[[float, Array, NDArray[np.bool_]], Callable[[str], Array]],
        settings: Sequence[float],
        parameters: int | None,
    ) -> Cell:
        """Fits one model for each dimension and setting, and takes the setting with the best r on dev."""
        made = {part: np.empty(self.labels[split].shape) for part, split in _PARTS}
        chosen = {}
        for place, dimension in enumerate(DIMENSIONS):
            target = self.labels["train"][:, place]
            rows = target != MISSING_LABEL
            gold = self.labels["validation"][:, [place]]
            models = {setting: fitted(setting, target[rows], rows) for setting in settings}
            scores = {s: metrics.pearson(model("validation")[:, None], gold)[0] for s, model in models.items()}
            chosen[dimension] = max(scores, key=lambda setting: scores[setting])
            for part, split in _PARTS:
                made[part][:, place] = models[chosen[dimension]](split)
        return Cell(about={"head_parameters": parameters, "chosen": chosen}, **made)

    # ---- the table ----

    def table(self, seeds: Sequence[int], command: str, earlier: dict[str, Any] | None = None) -> dict[str, Any]:
        """The rows of all systems that have a cell, as plain values.

        Args:
            seeds: of the cells.
            command: what made them.
            earlier: a table of this grid; its rows stay where they have more seeds than the cells that are there.
        """
        known = earlier or {"systems": {}, "compared_with": None, "readout": None}
        rows: dict[str, dict[str, Any]] = {}
        cells: dict[str, list[Cell]] = {}
        for system in self.grid.systems:
            paths = {path: None for path in (self.path(system, seed) for seed in seeds) if path.is_file()}
            row = known["systems"].get(system.name)
            if row and len(row.get("cells", [])) > len(paths) and self._holds(row, system):
                rows[system.name] = row | {"ours": system.ours}
            elif paths:
                cells[system.name] = [Cell.load(path) for path in paths]
                rows[system.name] = self._row(cells[system.name]) | {"ours": system.ours}
                rows[system.name] |= {"cells": [path.stem for path in paths]}
        reference = self._reference(rows)
        # One draw for all systems: what is compared is compared on the same sentences.
        counts = resample_counts(len(self.labels["test"]), RESAMPLES)
        for name, row in rows.items():
            if name not in cells:
                row["difference"] = row.get("difference") if known["compared_with"] == reference else None
            elif reference is not None:
                compared = name != reference and reference in cells
                row["difference"] = self._difference(cells[name], cells[reference], counts) if compared else None
        readout = known["readout"] if self.grid.readout in rows else None
        if self.grid.readout in cells:
            several = cells[self.grid.readout][0].test_steps is not None
            readout = self._read_out(cells[self.grid.readout]) if several else None
        return {
            "grid": self.grid.name,
            "command": command,
            "seeds": sorted({seed for row in rows.values() for seed in row["seeds"]}),
            "rows_dev": len(self.labels["validation"]),
            "rows_test": len(self.labels["test"]),
            "human_ceiling": rounded(self.ceiling),
            "compared_with": reference,
            "missing": [system.name for system in self.grid.systems if system.name not in rows],
            "systems": rounded(rows),
            "readout": rounded(readout),
        }

    def _holds(self, row: dict[str, Any], system: System) -> bool:
        """Whether a row of an earlier table is of this system as the grid has it now, on this data."""
        return row["cells"] == list(dict.fromkeys(self.path(system, seed).stem for seed in row["seeds"] or [0]))

    def _row(self, cells: list[Cell]) -> dict[str, Any]:
        dev, test = self.labels["validation"], self.labels["test"]
        named = {"r": metrics.pearson, "ccc": metrics.ccc, "mae": metrics.mae, "rmse": metrics.rmse}
        named["sd_ratio"] = metrics.sd_ratio
        row: dict[str, Any] = {}
        for name, figure in named.items():
            row[name] = summary([partly(figure, cell.test, test) for cell in cells])
        row["ccc_fitted"] = summary([_fitted_ccc(cell, dev, test) for cell in cells])
        row["dev_r"] = summary([partly(metrics.pearson, cell.dev, dev) for cell in cells])
        if self.ceiling is not None:
            row["share_of_ceiling"] = None if row["r"]["mean"] is None else row["r"]["mean"] / self.ceiling["mean"]
        row["head_parameters"] = cells[0].about["head_parameters"]
        known = [cell.about["seconds"] for cell in cells if cell.about["seconds"] is not None]
        row["seconds"] = float(np.mean(known)) if known else None
        row["seeds"] = [cell.about["seed"] for cell in cells if cell.about["seed"] is not None]
        row["machines"] = sorted({cell.about["machine"] for cell in cells})
        row["chosen"] = cells[0].about.get("chosen")
        ranks = [cell.about["ranks_errors"] for cell in cells if "ranks_errors" in cell.about]
        if len(ranks) == len(cells):
            row["ranks_errors"] = {part: summary([np.array(one[part]) for one in ranks]) for part, _ in _PARTS}
        return row

    def _reference(self, rows: dict[str, dict[str, Any]]) -> str | None:
        if self.grid.compare != BEST_PEER:
            return self.grid.compare if self.grid.compare in rows else None
        told = {system.name for system in self.grid.systems if system.kind == "leak"}
        others = [name for name, row in rows.items() if not row["ours"] and row["dev_r"]["mean"] is not None]
        others = [name for name in others if name not in told]
        return max(others, key=lambda name: rows[name]["dev_r"]["mean"]) if others else None

    def _difference(self, cells: list[Cell], others: list[Cell], counts: Array) -> dict[str, Any] | None:
        """Mean r on test minus the other system's, each the mean over the seeds that both have."""
        if np.isnan(cells[0].test).any():
            return None
        common = {cell.about["seed"] for cell in cells} & {cell.about["seed"] for cell in others}
        if common - {None}:
            cells, others = ([cell for cell in group if cell.about["seed"] in common] for group in (cells, others))
        labels = self.labels["test"]
        whole = np.ones((1, len(labels)))
        point, drawn = (
            np.mean([weighted_figures(cell.test, labels, weights)["r"].mean(axis=1) for cell in cells], axis=0)
            - np.mean([weighted_figures(cell.test, labels, weights)["r"].mean(axis=1) for cell in others], axis=0)
            for weights in (whole, counts)
        )
        low, high = np.percentile(drawn, [2.5, 97.5])
        return {"mean_r": float(point[0]), "low": float(low), "high": float(high)}

    def _read_out(self, cells: list[Cell]) -> list[dict[str, Any]]:
        """After each step; at last after each text's best, than which no rule that halts has smaller squared errors."""
        parts: dict[int | str, list[tuple[Array, Array]]] = {
            place + 1: [(cell.dev_steps[:, place], cell.test_steps[:, place]) for cell in cells]
            for place in range(cells[0].test_steps.shape[1])
        }
        dev_labels, test_labels = self.labels["validation"], self.labels["test"]
        parts[HALTED] = [
            (best_of_steps(cell.dev_steps, dev_labels), best_of_steps(cell.test_steps, test_labels)) for cell in cells
        ]
        rows = []
        for step, found in parts.items():
            figures = {
                name: summary([measure(test, test_labels) for _, test in found])
                for name, measure in (("r", metrics.pearson), ("ccc", metrics.ccc), ("mae", metrics.mae))
            }
            dev_r = summary([metrics.pearson(dev, dev_labels) for dev, _ in found])
            rows.append({"step": step, "dev_r": dev_r, **figures})
        return rows


_PARTS = (("dev", "validation"), ("test", "test"))


def pooled_corpus(recipe: Recipe, corpus: DatasetDict) -> DatasetDict:
    """The corpus with a column `pooled_embeds`: the states of all layers of the recipe's frozen encoder."""
    encoder, revision = recipe.model["encoder"], recipe.model.get("revision")
    model = LiminalForPADRegression.from_encoder_pretrained(
        encoder, revision, head="linear", pooled_layers="all", pooling=recipe.model.get("pooling")
    )
    tokenizer = load_tokenizer(encoder, revision)
    return pooled_dataset(model.eval(), tokenizer, corpus, max_length=recipe.data.max_length)


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


def best_of_steps(steps: Array, labels: Array) -> Array:
    """`(rows, 3)` of `(rows, steps, 3)`: each text's step with the smallest squared error, in the labels' variances.

    Example:
        >>> best_of_steps(np.array([[[0.0, 0, 0], [1, 1, 1]]] * 2), np.array([[0.9, 1, 1], [0, 0.1, 0]])).tolist()
        [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    gold = np.ma.masked_equal(labels, MISSING_LABEL)
    error = (np.square(steps - gold[:, None]) / gold.var(axis=0)).sum(axis=2).filled(0.0)
    return np.asarray(steps[np.arange(len(steps)), error.argmin(axis=1)])


def resample_counts(rows: int, number: int, seed: int = 0) -> Array:
    """`(number, rows)`: how often each row was drawn in each bootstrap resample (Efron & Tibshirani 1993)."""
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), size=number).astype(np.float64)


def weighted_figures(
    predictions: Array, labels: Array, weights: Array, groups: NDArray[np.int64] | None = None
) -> dict[str, Array]:
    """Pearson r, CCC and MAE per dimension, for each row of weights.

    With counts as weights they are the figures of a resample, without drawing its rows.

    Args:
        predictions, labels: `(rows, 3)`; a label of -100 is left out, a dimension that is not predicted, NaN, stays so.
        weights: `(draws, rows)`, or `(draws, number of groups)` where whole groups are drawn.
        groups: `(rows,)`, which group each row belongs to, 0..number of groups - 1.

    Returns:
        `(draws, 3)` for each of `r`, `ccc`, `mae`.

    Example:
        >>> found = weighted_figures(np.array([[0.0], [1], [9]]), np.array([[1.0], [3], [0]]), np.array([[1.0, 1, 0]]))
        >>> found["r"].round(6).tolist(), found["mae"].tolist()
        ([[1.0]], [[1.5]])
    """
    found: dict[str, list[Array]] = {"r": [], "ccc": [], "mae": []}
    for p, y in zip(predictions.T, labels.T, strict=True):
        known = y != MISSING_LABEL
        # One shift for both keeps their differences.
        shift = y[known].mean()
        p, y = np.where(known, p - shift, 0.0), np.where(known, y - shift, 0.0)
        sums = np.stack([known, p, y, p * p, y * y, p * y, np.abs(p - y)], axis=1)
        if groups is not None:
            sums = np.stack([np.bincount(groups, column, weights.shape[1]) for column in sums.T], axis=1)
        total = weights @ sums
        mean_p, mean_y, pp, yy, py, error = (total[:, 1:] / total[:, :1]).T
        var_p, var_y = np.clip(pp - mean_p**2, 0, None), np.clip(yy - mean_y**2, 0, None)
        covariance, spread = py - mean_p * mean_y, np.sqrt(var_p * var_y)
        # Rounding leaves a constant with a spread of 1e-17; its r and CCC are 0.
        varies = ~(spread <= 1e-12)
        found["r"].append(np.where(varies, covariance / np.maximum(spread, 1e-12), 0.0))
        distance = np.maximum(var_p + var_y + (mean_p - mean_y) ** 2, 1e-12)
        found["ccc"].append(np.where(varies, 2 * covariance / distance, 0.0))
        found["mae"].append(error)
    return {name: np.stack(columns, axis=1) for name, columns in found.items()}


def mean_r(predictions: Array, labels: Array) -> float:
    """Mean Pearson r over the dimensions that are predicted."""
    return float(np.nanmean(partly(metrics.pearson, predictions, labels)))


def partly(figure: Callable[[Any, Any], Array], predictions: Array, labels: Array) -> Array:
    """The figure per dimension, NaN where nothing is predicted."""
    absent = np.isnan(predictions).all(axis=0)
    return np.where(absent, np.nan, figure(np.where(absent, 0.0, predictions), labels))


def _fitted_ccc(cell: Cell, dev: Array, test: Array) -> Array:
    absent = np.isnan(cell.test).all(axis=0)
    filled = [np.where(absent, 0.0, values) for values in (cell.dev, cell.test)]
    return np.where(absent, np.nan, metrics.affine_calibrated_ccc(filled[0], dev, filled[1], test))


def summary(values: list[Array]) -> dict[str, Any]:
    """Mean over the seeds by dimension, their mean, and its standard deviation over the seeds."""
    table = np.array(values)
    means = table.mean(axis=1)
    result: dict[str, Any] = dict(zip(DIMENSIONS, table.mean(axis=0).tolist(), strict=True))
    result["mean"] = float(means.mean())
    result["sd"] = float(means.std(ddof=1)) if len(means) > 1 else None
    return {name: None if value is None or np.isnan(value) else value for name, value in result.items()}


def rounded(value: Any) -> Any:
    """Plain values with every float to 5 places."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 5) if isinstance(value, float) else value


def content_hash(value: Any) -> str:
    """A name for plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def number(value: float | None, places: int = 3, sign: bool = False) -> str:
    """A figure without the zero before its point; "-" where there is none."""
    if value is None:
        return "-"
    text = f"{value:{'+' if sign else ''}.{places}f}"
    return text.replace("0.", ".", 1) if text.lstrip("+-").startswith("0.") else text


def interval(gap: dict[str, float], places: int = 3, sign: bool = True) -> str:
    """A figure (`mean`) with its interval (`low`, `high`)."""
    mean, low, high = (number(gap[name], places, sign) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def three(summary: dict[str, Any]) -> str:
    """The figures of the three dimensions."""
    return " / ".join(number(summary[dimension]) for dimension in DIMENSIONS)


def with_sd(summary: dict[str, Any]) -> str:
    """The mean over the dimensions, with its deviation over the seeds where there are several."""
    return number(summary["mean"]) + ("" if summary["sd"] is None else f" ± {number(summary['sd'])}")


def markdown(table: dict[str, Any]) -> str:
    """The table for people; every figure in it is in the JSON beside it."""
    reference = table["compared_with"]
    heads = ["system", "r V / A / D", "mean r", "dev r", f"Δr to {reference} [95%]", "CCC (fitted on dev)", "MAE"]
    heads += ["RMSE", "SD ratio", "of ceiling", "head parameters", "CPU s", "seeds"]
    ranked = any("ranks_errors" in row for row in table["systems"].values())
    if ranked:
        heads.insert(-3, "Spearman of uncertainty and error V / A / D (dev)")
    lines = [line(heads), line(["---"] * len(heads))]
    for name, row in table["systems"].items():
        gap = row.get("difference")
        span = "" if gap is None else f" [{number(gap['low'], 3, True)}, {number(gap['high'], 3, True)}]"
        share = row.get("share_of_ceiling")
        cells = [
            f"**{name}**" if row["ours"] else name,
            three(row["r"]),
            with_sd(row["r"]),
            with_sd(row["dev_r"]),
            "-" if gap is None else number(gap["mean_r"], 3, True) + span,
            f"{number(row['ccc']['mean'])} ({number(row['ccc_fitted']['mean'])})",
            number(row["mae"]["mean"], 4),
            number(row["rmse"]["mean"], 4),
            number(row["sd_ratio"]["mean"], 2),
            "-" if share is None else f"{share:.0%}",
            "-" if row["head_parameters"] is None else f"{row['head_parameters']:,}",
            "-" if row["seconds"] is None else f"{row['seconds']:.0f}",
            ", ".join(map(str, row["seeds"])) or "-",
        ]
        if ranked:
            ranks = row.get("ranks_errors")
            cells.insert(-3, f"{three(ranks['test'])} ({number(ranks['dev']['mean'])})" if ranks else "-")
        lines.append(line(cells))
    ceiling = table["human_ceiling"]
    lines += ["", _note(table)]
    if ceiling is not None:
        lines[-1] += f" Human ceiling: r {three(ceiling)}, mean {number(ceiling['mean'])}."
    if table["missing"]:
        lines[-1] += f" Not run yet: {'; '.join(table['missing'])}."
    if table["readout"]:
        heads = ["read out after step", "dev mean r", "test mean r", "r V / A / D", "CCC", "MAE"]
        lines += ["", line(heads), line(["---"] * len(heads))]
        for step in table["readout"]:
            figures = [with_sd(step["dev_r"]), with_sd(step["r"]), three(step["r"]), number(step["ccc"]["mean"])]
            lines.append(line([str(step["step"]), *figures, number(step["mae"]["mean"], 4)]))
    return "\n".join(lines) + "\n"


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _note(table: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, table["seeds"])) or "none"
    where: dict[str, list[str]] = {}
    for name, row in table["systems"].items():
        where.setdefault(" and ".join(row["machines"]), []).append(name)
    usual, *others = sorted(where, key=lambda machine: -len(where[machine]))
    machines = "; ".join([usual, *(f"{', '.join(where[machine])}: {machine}" for machine in others)])
    both = "over the seeds that both have" + (" on one machine" if others else "")
    return (
        f"`{table['command']}`; {machines}; seeds {seeds}; {table['rows_test']:,} test sentences. "
        f"Δr: difference of the mean r on test, 95% of {RESAMPLES:,} paired bootstrap resamples (no seed variance in "
        f"it), {both}. CPU s: processor seconds of training, the encoder's states at hand."
    )


def fill(readme: Path) -> None:
    """Copies each table to between its two markers, `<!-- table: PATH -->` and `<!-- end -->`.

    Args:
        readme: the text; paths in the markers start at its folder. A marker whose table does not exist stays as it is.
    """

    def filled(found: re.Match[str]) -> str:
        path = readme.parent / found[2]
        return f"{found[1]}\n{path.read_text(encoding='utf-8')}<!-- end -->" if path.is_file() else found[0]

    text = readme.read_text(encoding="utf-8")
    write_text(readme, re.sub(r"(<!-- table: (\S+) -->)\n.*?<!-- end -->", filled, text, flags=re.DOTALL))


def save(results: Path, name: str, table: dict[str, Any], text: str) -> None:
    """Writes a table for machines, `name.json`, and for people, `name.md`."""
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / f"{name}.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    write_text(results / f"{name}.md", text)


def add_folders(parser: argparse.ArgumentParser, work: str) -> None:
    """The options `--work` and `--results`."""
    parser.add_argument("--work", type=Path, default=Path(work), help="keeps what was computed (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gets the tables (%(default)s)")


def read_seeds(parser: argparse.ArgumentParser, text: str) -> list[int]:
    """The numbers in "0,1,2"; the command ends with a message when they are none."""
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        parser.error(f"--seeds takes whole numbers with commas, such as 0,1,2; got {text!r}")


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run a benchmark grid and write its table.")
    parser.add_argument("grid", type=Path, help="a file of scripts/grids/")
    parser.add_argument("--seeds", default="0,1,2", help="whole numbers with commas (default: %(default)s)")
    add_folders(parser, "runs/benchmark")
    parser.add_argument("--only", action="append", metavar="NAME", help="run this system alone; may be repeated")
    parser.add_argument("--readme", type=Path, help="copy the tables to between the markers in this file")
    given = parser.parse_args(arguments)
    seeds = read_seeds(parser, given.seeds)
    if given.readme and not given.readme.is_file():
        parser.error(f"--readme: there is no file {given.readme}")
    try:
        grid = Grid.from_yaml(given.grid)
        systems = grid.chosen(given.only)
        benchmark = Benchmark(grid, given.work)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    command = shlex.join(["python", "scripts/benchmark.py", given.grid.as_posix(), "--seeds", given.seeds])
    before = given.results / f"{grid.name}.json"
    earlier = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else None

    def save_table() -> None:
        table = benchmark.table(seeds, command, earlier)
        save(given.results, grid.name, table, markdown(table))

    benchmark.run(systems, seeds, save_table)
    if given.readme:
        fill(given.readme)
    print(markdown(benchmark.table(seeds, command, earlier)))
    return 0


if __name__ == "__main__":
    # Not in main: who calls it keeps their own logging.
    logging.getLogger("liminal_hf").setLevel(logging.ERROR)
    sys.exit(main())
