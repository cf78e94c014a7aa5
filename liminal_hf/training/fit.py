"""From a recipe to a finished model: walks the phases, calibrates on the development split, tests once.

Requires torch, transformers, accelerate, datasets and filelock; `peft` only for phases with `trainable: lora`.
"""

import hashlib
import json
import logging
import math
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import filelock
import numpy as np
import torch
import transformers
import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from ..data import load_emobank, load_goemotions, load_table, pooled_dataset
from ..modeling.encoders import family, resolve_encoder
from ..modeling.modeling_liminal import MISSING_LABEL, LiminalForPADRegression
from .callbacks import EmotionalLogCallback, is_whole, last_checkpoint, write_text
from .recipe import Phase, Recipe
from .trainer import ROW, LiminalTrainer

logger = logging.getLogger(__name__)

MODEL = "model"
METRICS = "metrics.json"
RECIPE = "recipe.yaml"
RUN = "run.json"
LOW_RANK = "low_rank.safetensors"
EMOTIONAL_LOG = "emotional_log.csv"
_PHASES = "phases"
_RESULT = "result"
_WEIGHTS = "weights.safetensors"
_OURS = (MODEL, METRICS, RECIPE, RUN, LOW_RANK, EMOTIONAL_LOG, _PHASES)


class RunInProgressError(RuntimeError):
    """Another process trains in the same folder."""


class RunMismatchError(ValueError):
    """The folder holds a run of another recipe, seed or data."""


@dataclass
class FitResult:
    """What a finished run gives.

    Args:
        model: the trained model, on the CPU, in evaluation mode.
        tokenizer: its tokenizer.
        metrics: what `metrics.json` holds: `validation` and, where it was evaluated, `test` (by metric name),
            `phases` (name, seed, seconds, steps, best metric), `seed`, `seconds`, `versions`.
        output_dir: the run's folder; the checkpoint is in `output_dir / "model"`.
    """

    model: LiminalForPADRegression
    tokenizer: PreTrainedTokenizerBase
    metrics: dict[str, Any]
    output_dir: Path

    def low_rank(self) -> dict[str, tuple[Tensor, Tensor]] | None:
        """The change of the encoder as low-rank pairs for `save_head_only`, when it was trained by `lora` alone."""
        path = self.output_dir / LOW_RANK
        if not path.is_file():
            return None
        pairs = load_file(path)
        return {name[:-2]: (pairs[name], pairs[name[:-1] + "B"]) for name in pairs if name.endswith(".A")}


def fit(
    recipe: Recipe | str | Path | Mapping[str, Any],
    output_dir: str | Path,
    *,
    seed: int | None = None,
    resume: Literal["auto", "never"] = "auto",
    data_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> FitResult:
    """Trains what a recipe says, and leaves a finished checkpoint.

    The folder holds `model/` (weights, config, code, tokenizer), `metrics.json`, `emotional_log.csv`, `recipe.yaml` and
    `run.json`. Everything appears by rename, `metrics.json` last. A run that was interrupted, also by a kill or a
    power cut, goes on when it is called again in the same folder and ends, on the CPU, with the very same weights; a
    finished one is loaded.

    Args:
        recipe: a `Recipe`, a path to one, or its content.
        output_dir: folder of this run, one per recipe and seed.
        seed: instead of the recipe's.
        resume: "auto" goes on with what is there; "never" deletes this run's earlier files and starts anew.
        data_dir: folder with the corpora; default `LIMINAL_DATA_DIR`, then the public source.
        overrides: values by dotted key, see `Recipe.override`.

    Raises:
        RecipeError: the recipe can't be followed.
        RunInProgressError: another process trains in this folder.
        RunMismatchError: the folder holds a run of another recipe, seed or data.
        NonFiniteLossError: the loss is NaN or infinite; the message names the rows.

    Example:
        >>> result = fit("hub_configs/minilm-emobank.yaml", "runs/minilm")  # doctest: +SKIP
        >>> result.metrics["test"]["pearson_mean"]  # doctest: +SKIP
    """
    if isinstance(recipe, Mapping):
        recipe = Recipe.from_dict(recipe)
    elif not isinstance(recipe, Recipe):
        recipe = Recipe.from_yaml(recipe)
    changes = dict(overrides or {})
    if seed is not None:
        changes["seed"] = seed
    if changes:
        recipe = recipe.override(changes)
    if resume not in ("auto", "never"):
        raise ValueError(f"fit: resume must be 'auto' or 'never', got {resume!r}.")
    folder = Path(output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        return _Run(recipe, folder, data_dir).walk(anew=resume == "never")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if not PartialState().is_main_process:
        yield
        return
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise RunInProgressError(
            f"Another process trains in {folder}. Wait for it, stop it, or give another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


class _Run:
    def __init__(self, recipe: Recipe, folder: Path, data_dir: str | Path | None) -> None:
        self.recipe = recipe
        self.folder = folder
        self.data_dir = data_dir
        self.processes = PartialState()
        self.reports: list[dict[str, Any]] = []
        self._tokenized: DatasetDict | None = None

    # ---- the walk ----

    def walk(self, anew: bool) -> FitResult:
        started = time.monotonic()
        self.data = self._load_data()
        self._open(anew)
        if (self.folder / METRICS).is_file() and (self.folder / MODEL).is_dir():
            return self._finished()
        set_seed(self.recipe.seed)
        self.tokenizer = load_tokenizer(self.recipe.model["encoder"], self.recipe.model.get("revision"))
        self.model = self._build()
        # Positions end somewhere; a recipe that asks for more means "as much as there is".
        limit = family(self.model.config.text_config).max_tokens(self.model.config.text_config)
        self.max_length = min(self.recipe.data.max_length, limit or self.recipe.data.max_length)
        self.model.config.max_length = self.max_length
        epochs = 0.0
        scaled = False
        for number, phase in enumerate(self.recipe.phases, start=1):
            if phase.model:
                self._rebuild(phase.model)
            home = self.folder / _PHASES / f"{number:02d}-{phase.name}"
            report = self._stored(home / _RESULT)
            if report is None:
                if phase.objective == "pad" and not scaled:
                    self._measure_scale()
                report = self._train(phase, home, epochs)
            if self.processes.is_main_process:
                for used in (home / "checkpoints", *home.glob("seed-*")):
                    shutil.rmtree(used, ignore_errors=True)
            scaled = scaled or phase.objective == "pad"
            self.reports.append(report)
            if phase.objective == "pad":
                epochs += report["epochs"]
        return self._finish(started)

    def _build(self) -> LiminalForPADRegression:
        fields = {name: value for name, value in self.recipe.model.items() if name not in ("encoder", "revision")}
        model = LiminalForPADRegression.from_encoder_pretrained(
            self.recipe.model["encoder"], self.recipe.model.get("revision"), **fields
        )
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.tokenizer.pad_token_id
        labels = np.asarray(self.data["train"]["labels"], dtype=np.float64)
        labels = np.where(labels == MISSING_LABEL, np.nan, labels)
        std = np.nanstd(labels, axis=0)
        model.config.label_mean = [float(value) for value in np.nanmean(labels, axis=0)]
        # Constant labels have nothing to be scaled by.
        model.config.label_std = [float(value) if value > 1e-6 else 1.0 for value in std]
        if self.recipe.data.files is not None:
            model.config.label_range = [-1.0, 1.0]
        return model

    def _rebuild(self, fields: dict[str, Any]) -> None:
        """The same model with other fields: weights that still fit are kept, new ones start fresh."""
        set_seed(self.recipe.seed)
        config = self.model.config
        attention = config.text_config._attn_implementation
        config = type(config).from_dict({**config.to_dict(), **fields})
        config._attn_implementation = {"text_config": attention}
        old = {name: value.clone() for name, value in self.model.state_dict().items()}
        model = LiminalForPADRegression(config, encoder=self.model.liminal.encoder)
        new = model.state_dict()
        fitting = {name: value for name, value in old.items() if name in new and value.shape == new[name].shape}
        model.load_state_dict(fitting, strict=False)
        fresh = sorted(set(new) - set(fitting))
        if fresh:
            logger.warning("The fields %s change the head: %d of its weights start fresh.", sorted(fields), len(fresh))
        self.model = model

    def _measure_scale(self) -> None:
        """One global factor that brings the pooled states of (up to 512) training texts to a root mean square of 1."""
        some = self.data["train"].select(range(min(512, len(self.data["train"]))))
        square, number = 0.0, 0
        self.model.eval().to(self.processes.device)
        for start in range(0, len(some), 32):
            batch = self._tokenize(some[start : start + 32]["text"], return_tensors="pt", padding=True)
            with torch.no_grad():
                states = self.model.liminal.pool(**batch.to(self.processes.device)).double()
            square, number = square + float(states.square().sum()), number + states.numel()
        self.model.config.pooled_scale = float(f"{math.sqrt(number / max(square, 1e-12)):.6g}")

    # ---- one phase ----

    def _train(self, phase: Phase, home: Path, epochs_before: float) -> dict[str, Any]:
        """Trains the phase, once or once per seed with their average, and stores the result."""
        start = {name: value.clone() for name, value in self.model.state_dict().items()}
        if phase.seeds is None:
            report, pairs = self._train_once(phase, home, self.recipe.seed, epochs_before)
            self._store(home / _RESULT, report, start, pairs)
            return report
        total: dict[str, Tensor] = {}
        reports: list[dict[str, Any]] = []
        for seed in phase.seeds:
            own = home / f"seed-{seed}"
            self.model.load_state_dict(start)
            one = self._stored(own / _RESULT)
            if one is None:
                one, pairs = self._train_once(phase, own, seed, epochs_before)
                self._store(own / _RESULT, one, start, pairs)
            reports.append(one)
            for name, value in self.model.state_dict().items():
                total[name] = total[name] + value.double() if name in total else value.double()
        self.model.load_state_dict(
            {name: (total[name] / len(reports)).to(value.dtype) for name, value in start.items()}
        )
        report = {**reports[0], "seed": phase.seeds, "seeds": reports}
        self._store(home / _RESULT, report, start, {})
        return report

    def _train_once(
        self, phase: Phase, home: Path, seed: int, epochs_before: float
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        logger.info("Phase %s (seed %d): %s", phase.name, seed, home)
        started = time.monotonic()
        arguments = training_arguments(phase, home / "checkpoints", seed)
        set_seed(seed)
        self.model.to(self.processes.device)
        self.model.requires_grad_(True)
        if phase.trainable != "all":
            self.model.freeze_encoder()
        adapters = self._add_adapters() if phase.trainable == "lora" else None
        common: dict[str, Any] = {
            "ema_decay": phase.ema_decay,
            "head_learning_rate": phase.head_learning_rate,
            "layer_decay": phase.layer_decay,
        }
        if phase.objective == "goemotions":
            trainer = self._emotions_trainer(arguments, common)
        else:
            splits = self._cached() if phase.cache else self._tokens()
            trainer = LiminalTrainer(
                self.model,
                arguments,
                train_dataset=self._with_teachers(splits["train"]),
                eval_dataset=splits["validation"],
                processing_class=self.tokenizer,
                callbacks=[EmotionalLogCallback(self.folder / EMOTIONAL_LOG, epochs_before)],
                **common,
            )
        trainable = sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
        checkpoint = self._whole_checkpoint(Path(str(arguments.output_dir)))
        if checkpoint:
            logger.warning("Resuming from %s", checkpoint)
        output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        pairs = self._merge_adapters(adapters) if adapters is not None else {}
        self.model.to("cpu")
        report = {
            "name": phase.name,
            "seed": seed,
            "seconds": round(time.monotonic() - started, 2),
            "steps": output.global_step,
            "epochs": float(trainer.state.epoch or 0.0),
            "best_metric": trainer.state.best_metric,
            "best_step": trainer.state.best_global_step if trainer.state.best_metric is not None else None,
            "trainable_parameters": trainable,
            "history": [entry for entry in trainer.state.log_history if any(key.startswith("eval_") for key in entry)],
        }
        trainer.accelerator.free_memory()
        return report, pairs

    def _whole_checkpoint(self, folder: Path) -> Path | None:
        if not folder.is_dir():
            return None
        if self.processes.is_main_process:
            for path in folder.glob("checkpoint-*"):
                if not is_whole(path):
                    logger.warning("The checkpoint %s was cut short or damaged; it is deleted.", path)
                    shutil.rmtree(path)
        self.processes.wait_for_everyone()
        return last_checkpoint(folder)

    def _add_adapters(self) -> Any:
        try:
            from peft import LoraConfig
            from peft.tuners.lora import LoraModel
        except ImportError as error:
            raise ImportError("`trainable: lora` needs peft: pip install 'liminal_hf[peft]'") from error
        targets = family(self.model.config.text_config).lora_targets
        settings = self.recipe.peft
        config = LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
        )
        encoder = self.model.liminal.encoder
        return LoraModel(encoder, config, "default")

    def _merge_adapters(self, adapters: Any) -> dict[str, Tensor]:
        """Folds the adapters into the encoder and returns them as `name.A`, `name.B` with weight + B A."""
        from peft.tuners.lora import LoraLayer

        pairs: dict[str, Tensor] = {}
        for name, module in self.model.liminal.encoder.named_modules():
            if isinstance(module, LoraLayer) and "default" in module.lora_A:
                a = module.lora_A["default"].weight.detach().cpu()
                b = (module.lora_B["default"].weight.detach() * module.scaling["default"]).cpu()
                if getattr(module, "fan_in_fan_out", False):
                    # GPT-2's Conv1D keeps its weight transposed: (B A)^T = A^T B^T.
                    a, b = b.T, a.T
                pairs[f"{name}.weight.A"], pairs[f"{name}.weight.B"] = a.contiguous(), b.contiguous()
        adapters.unload()
        self.model.to("cpu")
        weights = dict(self.model.liminal.encoder.named_parameters())
        with torch.no_grad():
            for name in {pair[:-2] for pair in pairs}:
                change = pairs[f"{name}.B"] @ pairs[f"{name}.A"]
                weights[name].copy_(weights[name] + change.to(weights[name]))
        return pairs

    # ---- data ----

    def _load_data(self) -> DatasetDict:
        data = self.recipe.data
        if data.files is not None:
            files: dict[str, str | Path] = {str(split): path for split, path in data.files.items()}
            splits = load_table(files, text=data.text, labels=tuple(data.labels), scale=data.scale)
        else:
            splits = load_emobank(self.data_dir)
        if "validation" not in splits:
            splits = _hold_out(splits)
        for split, rows in splits.items():
            if len(rows) == 0:
                raise ValueError(f"The split {split!r} has no rows.")
            labels = np.asarray(rows["labels"], dtype=np.float64)
            wrong = np.flatnonzero(~np.isfinite(labels).all(axis=1))
            if len(wrong):
                raise ValueError(
                    f"Labels of the split {split!r} are not finite in rows {wrong[:10].tolist()}. Mark a missing label "
                    f"with {MISSING_LABEL}."
                )
        return splits

    def _tokenize(self, texts: list[str], **kwargs: Any) -> Any:
        return self.tokenizer(texts, truncation=True, max_length=self.max_length, **kwargs)

    def _tokens(self) -> DatasetDict:
        if self._tokenized is None:
            self._tokenized = self._numbered(
                DatasetDict({split: self._tokenized_split(rows) for split, rows in self.data.items()})
            )
        return self._tokenized

    def _tokenized_split(self, rows: Dataset) -> Dataset:
        kept = rows.select_columns(["text", "labels"])
        with self.processes.main_process_first():
            tokens = kept.map(lambda batch: self._tokenize(batch["text"]), batched=True, remove_columns=["text"])
        return tokens.add_column("length", [len(ids) for ids in tokens["input_ids"]])

    def _cached(self) -> DatasetDict:
        with self.processes.main_process_first():
            pooled = pooled_dataset(self.model, self.tokenizer, self.data, max_length=self.max_length)
        columns = ["pooled_embeds", "labels"]
        kept = DatasetDict({split: rows.select_columns(columns) for split, rows in pooled.items()})
        return self._numbered(kept).with_format("torch")

    @staticmethod
    def _numbered(splits: DatasetDict) -> DatasetDict:
        return DatasetDict({split: rows.add_column(ROW, list(range(len(rows)))) for split, rows in splits.items()})

    def _with_teachers(self, train: Dataset) -> Dataset:
        """The training split with soft targets, where the recipe names teachers."""
        distill = self.recipe.distill
        if distill is None:
            return train
        total = np.zeros((len(self.data["train"]), 3))
        for teacher in distill.teachers:
            model = LiminalForPADRegression.from_pretrained(teacher)
            tokenizer = AutoTokenizer.from_pretrained(teacher)
            total += predict_texts(model, tokenizer, self.data["train"]["text"]) / len(distill.teachers)
        labels = np.asarray(self.data["train"]["labels"], dtype=np.float64)
        mixed = (1 - distill.weight) * labels + distill.weight * total
        mixed = np.where(labels == MISSING_LABEL, total, mixed)
        return train.remove_columns("labels").add_column("labels", mixed.astype(np.float32).tolist())

    def _emotions_trainer(self, arguments: TrainingArguments, common: dict[str, Any]) -> LiminalTrainer:
        splits = load_goemotions(self.data_dir)
        tokens = {split: self._tokenized_split(splits[split]) for split in ("train", "validation")}
        classifier = EmotionClassifier(self.model.liminal.encoder, num_labels=len(splits["train"][0]["labels"]))
        return LiminalTrainer(
            classifier.to(self.processes.device),
            arguments,
            train_dataset=tokens["train"].add_column(ROW, list(range(len(tokens["train"])))),
            eval_dataset=tokens["validation"],
            data_collator=DataCollatorWithPadding(self.tokenizer),
            compute_metrics=macro_f1,
            **common,
        )

    # ---- what is kept ----

    def _identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for split in sorted(self.data):
            digest.update(json.dumps([self.data[split]["text"], self.data[split]["labels"]]).encode())
        content = self.recipe.to_dict()
        for name in ("hub", "name"):
            content.pop(name)
        return {
            "recipe": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
            "data": digest.hexdigest(),
        }

    def _open(self, anew: bool) -> None:
        """Claims the folder for this run, or refuses one that belongs to another."""
        found: list[Any] = [None]
        if self.processes.is_main_process:
            if not (self.folder / RUN).is_file() and any((self.folder / name).exists() for name in _OURS):
                there = " and ".join(name for name in _OURS if (self.folder / name).exists())
                raise RunMismatchError(
                    f"{self.folder} already holds {there}, but no {RUN}: it is no run of ours, and training would "
                    "overwrite it. Give another folder."
                )
            if anew:
                for name in _OURS:
                    path = self.folder / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            path = self.folder / RUN
            if path.is_file():
                found = [json.loads(path.read_text(encoding="utf-8")).get("identity")]
            else:
                write_text(path, json.dumps({"identity": self._identity(), "versions": versions()}, indent=2) + "\n")
                write_text(self.folder / RECIPE, self.recipe.to_yaml())
        found = broadcast_object_list(found)
        if found[0] is not None and found[0] != self._identity():
            raise RunMismatchError(
                f"{self.folder} holds a run of another {self._difference(found[0])}. Give another folder, or start "
                "anew in this one with resume='never' (`liminal train ... --resume never`); that deletes the run there."
            )

    def _difference(self, identity: dict[str, str]) -> str:
        if identity.get("recipe") == self._identity()["recipe"]:
            return "data set"
        try:
            old = yaml.safe_load((self.folder / RECIPE).read_text(encoding="utf-8"))
            new = self.recipe.to_dict()
            sections = [name for name in new if old.get(name) != new[name] and name not in ("hub", "name")]
        except (OSError, yaml.YAMLError, AttributeError):
            sections = []
        return f"recipe (different: {', '.join(sections)})" if sections else "recipe"

    def _store(
        self, result: Path, report: dict[str, Any], start: dict[str, Tensor], pairs: dict[str, Tensor]
    ) -> None:
        """Commits a phase's outcome: the weights that differ from its start, and its report."""
        if self.processes.is_main_process:
            part = result.with_name(f".{result.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            state = self.model.state_dict()
            changed = {name: value.clone() for name, value in state.items() if not torch.equal(value, start[name])}
            save_file(changed, part / _WEIGHTS)
            if pairs:
                save_file(pairs, part / LOW_RANK)
            content = {"report": report, "pooled_scale": self.model.config.pooled_scale}
            write_text(part / "report.json", json.dumps(content, indent=2) + "\n")
            shutil.rmtree(result, ignore_errors=True)
            part.rename(result)
        self.processes.wait_for_everyone()

    def _stored(self, result: Path) -> dict[str, Any] | None:
        """Takes over a phase's outcome, if it is there and whole."""
        try:
            content = json.loads((result / "report.json").read_text(encoding="utf-8"))
            weights = load_file(result / _WEIGHTS)
        except FileNotFoundError:
            return None
        except Exception as error:  # safetensors raises its own kinds
            logger.warning("The result in %s is damaged (%s); the phase is trained again.", result, error)
            return None
        self.model.load_state_dict(weights, strict=False)
        self.model.config.pooled_scale = content["pooled_scale"]
        return content["report"]

    # ---- the end ----

    def _finish(self, started: float) -> FitResult:
        set_seed(self.recipe.seed)
        self.model.requires_grad_(True)
        last = self.recipe.phases[-1]
        splits = self._cached() if last.cache else self._tokens()
        arguments = training_arguments(last, self.folder / _PHASES, self.recipe.seed)
        trainer = LiminalTrainer(
            self.model,
            arguments,
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            processing_class=self.tokenizer,
        )
        self._calibrate(trainer, splits)
        metrics: dict[str, Any] = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "validation": self._evaluate(trainer, splits["validation"]),
        }
        if self.recipe.evaluate_test and "test" in splits:
            metrics["test"] = self._evaluate(trainer, splits["test"])
        metrics |= {
            "rows": {split: len(rows) for split, rows in self.data.items()},
            "parameters": sum(value.numel() for value in self.model.parameters()),
            "head_parameters": sum(value.numel() for value in self.model.liminal.head.parameters()),
            "phases": self.reports,
            "seconds": round(time.monotonic() - started, 2),
            "device": str(self.processes.device),
            "versions": versions(),
        }
        self.model.to("cpu").eval()
        # The Trainer switches a cache off that this config does not have.
        self.model.config.__dict__.pop("use_cache", None)
        if self.processes.is_main_process:
            self._write_model(metrics)
        self.processes.wait_for_everyone()
        return FitResult(self.model, self.tokenizer, metrics, self.folder)

    def _calibrate(self, trainer: LiminalTrainer, splits: DatasetDict) -> None:
        """Fits `uncertainty_scale` on the development split and `prediction_quantiles` on the training texts."""
        config = self.model.config
        config.uncertainty_scale = [1.0] * 3
        predicted, uncertainty, labels = _predictions(trainer, splits["validation"])
        if uncertainty is not None:
            known = labels != MISSING_LABEL
            error = (np.where(known, predicted - labels, 0) ** 2).sum(0)
            spread = (np.where(known, uncertainty, 0) ** 2).sum(0)
            config.uncertainty_scale = [
                float(f"{math.sqrt(e / s):.6g}") if e > 0 and s > 0 else 1.0 for e, s in zip(error, spread, strict=True)
            ]
        train, _, _ = _predictions(trainer, splits["train"])
        quantiles = np.quantile(train, np.linspace(0, 1, 101), axis=0).T
        config.prediction_quantiles = [[round(float(value), 4) for value in row] for row in quantiles]

    @staticmethod
    def _evaluate(trainer: LiminalTrainer, rows: Dataset) -> dict[str, float]:
        output = trainer.predict(rows, metric_key_prefix="").metrics or {}
        speed = ("_runtime", "_samples_per_second", "_steps_per_second", "_model_preparation_time")
        return {name.lstrip("_"): float(value) for name, value in output.items() if name not in speed}

    def _write_model(self, metrics: dict[str, Any]) -> None:
        part = self.folder / f".{MODEL}.part"
        shutil.rmtree(part, ignore_errors=True)
        self.model.save_pretrained(part)
        self.tokenizer.save_pretrained(part)
        shutil.rmtree(self.folder / MODEL, ignore_errors=True)
        part.rename(self.folder / MODEL)
        # Low-rank pairs describe the encoder only when nothing else has changed it.
        low_rank = [phase.trainable == "lora" for phase in self.recipe.phases if phase.trainable != "head"]
        position = next((n for n, phase in enumerate(self.recipe.phases, 1) if phase.trainable == "lora"), 0)
        if low_rank == [True]:
            source = self.folder / _PHASES / f"{position:02d}-{self.recipe.phases[position - 1].name}" / _RESULT
            if (source / LOW_RANK).is_file():
                shutil.copyfile(source / LOW_RANK, self.folder / f".{LOW_RANK}.part")
                (self.folder / f".{LOW_RANK}.part").rename(self.folder / LOW_RANK)
        write_text(self.folder / METRICS, json.dumps(metrics, indent=2) + "\n")

    def _finished(self) -> FitResult:
        logger.warning("The run in %s is finished; it is loaded, not trained again.", self.folder)
        return FitResult(
            LiminalForPADRegression.from_pretrained(self.folder / MODEL).eval(),
            AutoTokenizer.from_pretrained(self.folder / MODEL),
            json.loads((self.folder / METRICS).read_text(encoding="utf-8")),
            self.folder,
        )


class EmotionClassifier(nn.Module):
    """An encoder under a throw-away layer for several emotions at once: mean pooling, linear, binary cross-entropy.

    Args:
        encoder: any text encoder; it is trained in place.
        num_labels: number of emotions.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> tiny = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> classifier = EmotionClassifier(BertModel(tiny), num_labels=28)
        >>> classifier(torch.ones(2, 3).long(), torch.ones(2, 3), labels=torch.zeros(2, 28))["logits"].shape
        torch.Size([2, 28])
    """

    accepts_loss_kwargs = True

    def __init__(self, encoder: PreTrainedModel, num_labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.config.hidden_size, num_labels)
        nn.init.normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """input_ids, attention_mask: `(batch, length)`, padded on the right; labels: `(batch, num_labels)`, 0 or 1."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, return_dict=True).last_hidden_state
        mask = attention_mask.to(states.dtype)[..., None]
        logits = self.classifier((states * mask).sum(1) / mask.sum(1))
        if labels is None:
            return {"logits": logits}
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum")
        return {"loss": loss / (labels.numel() if num_items_in_batch is None else num_items_in_batch), "logits": logits}


def macro_f1(prediction: EvalPrediction, threshold: float = 0.3) -> dict[str, float]:
    """Macro F1 of multi-label logits at a probability of `threshold` (as in Demszky et al. 2020).

    Example:
        >>> macro_f1(EvalPrediction(np.array([[9.0, -9.0]]), np.array([[1.0, 0.0]])))
        {'macro_f1': 0.5}
    """
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    guessed = logits > math.log(threshold / (1 - threshold))
    truth = np.asarray(prediction.label_ids) > 0.5
    hits = (guessed & truth).sum(0)
    return {"macro_f1": float((2 * hits / np.maximum(guessed.sum(0) + truth.sum(0), 1)).mean())}


def training_arguments(phase: Phase, output_dir: str | Path, seed: int) -> TrainingArguments:
    """The phase's `training` over our defaults: evaluate, log and save every epoch, keep the best by dev metric.

    Example:
        >>> training_arguments(Phase("head", training={"num_train_epochs": 2}), "/tmp/x", seed=0).metric_for_best_model
        'pearson_mean'
    """
    given = dict(phase.training)
    settings: dict[str, Any] = {
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,
        "per_device_eval_batch_size": 64,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    settings |= given
    if settings["eval_strategy"] != "no":
        settings.setdefault("load_best_model_at_end", True)
        if settings["eval_strategy"] == "steps" and "eval_steps" in given:
            settings.setdefault("save_steps", given["eval_steps"])
            settings.setdefault("logging_steps", given["eval_steps"])
        settings.setdefault("save_strategy", settings["eval_strategy"])
    else:
        settings.setdefault("save_strategy", "epoch")
    if settings.get("load_best_model_at_end") and "metric_for_best_model" not in given:
        settings["metric_for_best_model"] = "pearson_mean" if phase.objective == "pad" else "macro_f1"
        settings["greater_is_better"] = True
    return TrainingArguments(output_dir=str(output_dir), seed=seed, data_seed=seed, **settings)


def load_tokenizer(encoder: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer, padding on the right; one without a padding token pads with its end token."""
    source, revision = resolve_encoder(encoder, revision)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, padding_side="right")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@torch.inference_mode()
def predict_texts(
    model: LiminalForPADRegression, tokenizer: PreTrainedTokenizerBase, texts: list[str], batch_size: int = 64
) -> np.ndarray:
    """PAD of many texts, `(len(texts), 3)` float64 in label units."""
    model = model.to(PartialState().device).eval()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found = np.empty((len(texts), 3))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=model.config.max_length,
            return_tensors="pt",
        )
        found[rows] = model(**batch.to(model.device)).logits.double().cpu().numpy()
    return found


def versions() -> dict[str, str]:
    """The versions that a run's numbers depend on."""
    from .. import __version__

    return {
        "liminal_hf": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _hold_out(splits: DatasetDict) -> DatasetDict:
    """A tenth of the training split becomes the development split, the same one every time."""
    rows = splits["train"]
    if len(rows) < 20:
        logger.warning("%d rows are too few to hold some out: the development split is the training split.", len(rows))
        return DatasetDict({**splits, "validation": rows})
    parts = rows.train_test_split(test_size=0.1, seed=0)
    logger.warning("There is no validation split: a tenth of train (%d rows) is held out.", len(parts["test"]))
    return DatasetDict({**splits, "train": parts["train"], "validation": parts["test"]})


def _predictions(trainer: LiminalTrainer, rows: Dataset) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    output = trainer.predict(rows)
    found = output.predictions if isinstance(output.predictions, tuple) else (output.predictions,)
    # What `keys_to_ignore_at_inference` leaves: logits, confidences, uncertainty. No head has the third alone.
    uncertainty = found[2] if len(found) == 3 else None
    return found[0].astype(np.float64), uncertainty, np.asarray(output.label_ids, dtype=np.float64)
