"""From a recipe to a finished model: walks the phases, calibrates on the development split, tests once.

Requires torch, transformers, accelerate and datasets; peft only for phases with `trainable: lora`.
"""

import itertools
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from ..adapters import lora_config, low_rank_deltas
from ..data import load_emobank, load_goemotions, load_table, pooled_dataset
from ..data.embedding_cache import COLUMN
from ..metrics import bootstrap_intervals
from ..modeling.configuration_liminal import MISSING_LABEL
from ..modeling.encoders import family, resolve_encoder
from ..modeling.heads import ZeroLinear
from ..modeling.modeling_liminal import LiminalForPADRegression
from .args import LiminalTrainingArguments
from .callbacks import EmotionalLogCallback, FitCallback, is_whole, last_checkpoint, write_text
from .distillation import add_unlabelled, taught_labels
from .emotions import EmotionClassifier, macro_f1
from .processes import start_processes
from .recipe import Phase, Recipe, RecipeError
from .run_folder import PhaseResult, RunFolder, hardware, save_whole, versions
from .trainer import ROW, LiminalTrainer

logger = logging.getLogger(__name__)

_RESULT = "result"
_CHECKPOINTS = "checkpoints"
_HEADS_OWN = ("num_inner_steps", "memory_slots")  # fields whose default depends on the head


@dataclass
class FitResult:
    """What a finished run gives.

    Args:
        model: the trained model, on the CPU, in evaluation mode.
        tokenizer: its tokenizer.
        metrics: what `metrics.json` holds: `validation` and, where it was evaluated, `test` (by metric name), `rows`,
            `parameters`, `phases` (name, seed, seconds, steps, best metric, history), `seed`, `seconds`, `hardware`,
            `versions`, and `intervals` (by split and name, see `metrics.bootstrap_intervals`).
        output_dir: the run's folder; the checkpoint is in `output_dir / "model"`.
    """

    model: LiminalForPADRegression
    tokenizer: PreTrainedTokenizerBase
    metrics: dict[str, Any]
    output_dir: Path

    def low_rank(self) -> dict[str, tuple[Tensor, Tensor]] | None:
        """The change of the encoder for `save_head_only(low_rank=...)`; None unless adapters alone have changed it."""
        path = RunFolder(self.output_dir).low_rank
        if not path.is_file():
            return None
        pairs = load_file(path)
        return {name[:-2]: (pairs[name], pairs[f"{name[:-2]}.B"]) for name in pairs if name.endswith(".A")}


def fit(
    recipe: Recipe | str | Path | Mapping[str, Any],
    output_dir: str | Path,
    *,
    seed: int | None = None,
    resume: Literal["auto", "never"] = "auto",
    data_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: DatasetDict | None = None,
    trainer: Callable[..., LiminalTrainer] = LiminalTrainer,
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
        data: the splits themselves (`train`, `validation`, perhaps `test`, with `text` and `labels` in -1..1), instead
            of those that the recipe names. With a column `pooled_embeds`, as `pooled_dataset` adds it, a recipe that
            leaves the encoder frozen takes its cached states from there.
        trainer: builds the trainer of each phase with the objective "pad", given what `LiminalTrainer` is given: a
            subclass of it with a loss or a sampler of your own. The folder does not remember which it was.

    Raises:
        RecipeError: the recipe can't be followed.
        ValueError: `data` lacks a split or a column, or its states are not those of the recipe's encoder and pooling.
        RunInProgressError: another process trains in this folder.
        RunMismatchError: the folder holds a run of another recipe, seed or data.
        NonFiniteLossError: the loss is NaN or infinite; the message names the rows.
        ValueError: it was launched with FSDP or DeepSpeed.
        ValueError: a phase trains the uncertainty of a head that has none.
        FileNotFoundError: a teacher, or the texts that it is to read, are not there.

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
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() == "true":
            raise ValueError(
                "fit keeps whole weights between its phases and does not split a model over processes. Launch it with "
                "hub_configs/accelerate/ddp.yaml, for a large encoder with `trainable: lora`; or use LiminalTrainer "
                "in a script of your own."
            )
    start_processes()
    folder = RunFolder(output_dir)
    with folder.locked():
        return _Run(recipe, folder, data_dir, data, trainer).walk(anew=resume == "never")


class _Run:
    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        data_dir: str | Path | None,
        given: DatasetDict | None,
        trainer: Callable[..., LiminalTrainer] = LiminalTrainer,
    ) -> None:
        self.recipe = recipe
        self.trainer = trainer
        self.folder = folder
        self.data_dir = data_dir
        self.given = given
        self.processes = PartialState()
        self._prepared: dict[str, DatasetDict] = {}

    # ---- the walk ----

    def walk(self, anew: bool) -> FitResult:
        self.data = self._load_data()
        self.folder.claim(self.recipe, self.data, anew)
        if self.folder.is_finished():
            logger.warning("The run in %s is finished; it is loaded, not trained again.", self.folder.path)
            return FitResult(
                LiminalForPADRegression.from_pretrained(self.folder.model).eval(),
                AutoTokenizer.from_pretrained(self.folder.model),
                json.loads(self.folder.metrics.read_text(encoding="utf-8")),
                self.folder.path,
            )
        set_seed(self.recipe.seed)
        self.tokenizer = load_tokenizer(self.recipe.model["encoder"], self.recipe.model.get("revision"))
        self.model = self._build()
        # What is wrong with the head raises now, not when the phases before are over; a later one may change it.
        same_head = itertools.takewhile(lambda phase: not phase.model, self.recipe.phases)
        if any(phase.trainable == "uncertainty" for phase in same_head):
            self._spread_head()
        results: list[PhaseResult] = []
        epochs, scaled = 0.0, False
        for number, phase in enumerate(self.recipe.phases, start=1):
            if phase.model:
                self._rebuild(phase.model)
            home = self.folder.phases / f"{number:02d}-{phase.name}"
            result = PhaseResult.read(home / _RESULT)
            if result is None:
                if phase.objective == "pad" and not scaled:
                    self._measure_scale(phase)
                result = self._train(phase, home, epochs)
            self._take(result)
            if not phase.freezes_encoder:
                self._prepared.pop("pooled", None)
            if self.processes.is_main_process:
                for used in (home / _CHECKPOINTS, *home.glob("seed-*")):
                    shutil.rmtree(used, ignore_errors=True)
            results.append(result)
            if phase.objective == "pad":
                scaled = True
                epochs += result.report["epochs"]
        return self._finish(results)

    def _build(self) -> LiminalForPADRegression:
        fields = {name: value for name, value in self.recipe.model.items() if name not in ("encoder", "revision")}
        # In half precision, steps as small as these and averaged weights would be rounded away; `bf16: true` under
        # `training` computes in it.
        whole = any(phase.trainable == "all" for phase in self.recipe.phases)
        model = LiminalForPADRegression.from_encoder_pretrained(
            self.recipe.model["encoder"],
            self.recipe.model.get("revision"),
            encoder_kwargs={"dtype": torch.float32} if whole else None,
            **fields,
        )
        config = model.config
        if config.pad_token_id is None:
            config.pad_token_id = self.tokenizer.pad_token_id
        # Positions end somewhere; a recipe that asks for more means "as much as there is".
        limit = family(config.text_config).max_tokens(config.text_config)
        config.max_seq_length = min(self.recipe.data.max_length, limit or self.recipe.data.max_length)
        labels = np.asarray(self.data["train"]["labels"][:], dtype=np.float64)
        labels = np.ma.masked_equal(labels, MISSING_LABEL)
        config.label_mean = [float(value) for value in labels.mean(axis=0).filled(0.0)]
        # Constant labels have nothing to be scaled by.
        config.label_std = [float(value) if value > 1e-6 else 1.0 for value in labels.std(axis=0).filled(0.0)]
        return model

    def _rebuild(self, fields: dict[str, Any]) -> None:
        """The same model with other fields: weights that still fit are kept, new ones start fresh."""
        set_seed(self.recipe.seed)
        old = {name: value.clone() for name, value in self.model.state_dict().items()}
        attention = self.model.config.text_config._attn_implementation
        own = [name for name in _HEADS_OWN if "head" in fields and name not in self.recipe.model]
        config = type(self.model.config).from_dict(
            {**self.model.config.to_dict(), **dict.fromkeys(own), **fields}  # None takes the new head's own
        )
        config._attn_implementation = {"text_config": attention}
        model = LiminalForPADRegression(config, encoder=self.model.liminal.encoder)
        new = model.state_dict()
        fitting = {name: value for name, value in old.items() if name in new and value.shape == new[name].shape}
        model.load_state_dict(fitting, strict=False)
        fresh = set(new) - set(fitting)
        if fresh:
            logger.warning("The fields %s change the head: %d of its tensors start fresh.", sorted(fields), len(fresh))
        self.model = model
        self._prepared.pop("pooled", None)  # another pooling gives other states

    def _measure_scale(self, phase: Phase) -> None:
        """One global factor that brings the pooled states of (up to 512) training texts to a root mean square of 1."""
        if phase.cache:
            # The states are at hand, or will be needed at once.
            known = np.asarray(self._inputs(phase)["train"][:512][COLUMN])
            self.model.config.pooled_scale = _unit_scale(np.square(known, dtype=np.float64).sum(), known.size)
            return
        texts = self.data["train"]["text"][:512]
        square, number = 0.0, 0
        self.model.eval().to(self.processes.device)
        for start in range(0, len(texts), 32):
            batch = self._tokenize(texts[start : start + 32], return_tensors="pt", padding=True)
            with torch.no_grad():
                states = self.model.liminal.pool(**batch.to(self.processes.device)).double()
            square, number = square + float(states.square().sum()), number + states.numel()
        self.model.to("cpu")
        self.model.config.pooled_scale = _unit_scale(square, number)

    def _take(self, result: PhaseResult) -> None:
        """Puts a phase's outcome into the model that started it."""
        self.model.load_state_dict(result.weights, strict=False)
        for name, value in result.fields.items():
            setattr(self.model.config, name, value)

    # ---- one phase ----

    def _train(self, phase: Phase, home: Path, epochs_before: float) -> PhaseResult:
        """Trains the phase, once or once per seed with their average, and stores the result."""
        if phase.seeds is None:
            return self._train_once(phase, home, self.recipe.seed, epochs_before)
        start = {name: value.clone() for name, value in self.model.state_dict().items()}
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
        reports = []
        for seed in phase.seeds:
            own = home / f"seed-{seed}"
            result = PhaseResult.read(own / _RESULT) or self._train_once(phase, own, seed, epochs_before)
            reports.append(result.report)
            for name in total:
                total[name] += result.weights.get(name, start[name])
            self.model.load_state_dict(start)
        average = {name: (value / len(reports)).to(start[name].dtype) for name, value in total.items()}
        self.model.load_state_dict(average)
        return self._store({**reports[0], "seed": phase.seeds, "seeds": reports}, home, start, {})

    def _train_once(self, phase: Phase, home: Path, seed: int, epochs_before: float) -> PhaseResult:
        logger.info("Phase %s (seed %d) in %s", phase.name, seed, home)
        started = time.monotonic()
        start = {name: value.cpu().clone() for name, value in self.model.state_dict().items()}
        arguments = training_arguments(phase, home / _CHECKPOINTS, seed)
        set_seed(seed)
        self.model.requires_grad_(True)
        if phase.trainable == "uncertainty":
            self.model.requires_grad_(False)
            for layer in self._spread_head().requires_grad_(True).modules():
                if isinstance(layer, ZeroLinear):
                    # What it has learned from soft targets is what it is to forget.
                    torch.nn.init.zeros_(layer.weight)
                    torch.nn.init.zeros_(layer.bias)
        elif phase.trainable != "all":
            self.model.freeze_encoder()
        adapters = self._add_adapters() if phase.trainable == "lora" else None
        trainer = self._trainer(phase, arguments, epochs_before)
        trainer.remove_callback(FitCallback)  # what it measures is measured here, once for all phases
        trainable = sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
        checkpoint = self._whole_checkpoint(home / _CHECKPOINTS)
        if checkpoint:
            logger.warning("Resuming from %s", checkpoint)
        output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        self.model.to("cpu")
        pairs = {} if adapters is None else self._merge_adapters(adapters)
        if phase.keep < 1:
            with torch.no_grad():
                for name, value in self.model.state_dict().items():
                    if value.is_floating_point():
                        value.copy_(torch.lerp(start[name], value, phase.keep))
        state = trainer.state
        report = {
            "name": phase.name,
            "seed": seed,
            "seconds": round(time.monotonic() - started, 2),
            "steps": output.global_step,
            "epochs": float(state.epoch or 0.0),
            "best_metric": state.best_metric,
            "best_step": state.best_global_step if state.best_metric is not None else None,
            "trainable_parameters": trainable,
            "resumed": checkpoint is not None,
            "history": [entry for entry in state.log_history if any(name.startswith("eval_") for name in entry)],
        }
        return self._store(report, home, start, pairs)

    def _trainer(self, phase: Phase, arguments: TrainingArguments, epochs_before: float) -> LiminalTrainer:
        if phase.objective == "goemotions":
            splits = load_goemotions(self.data_dir)
            train, validation = (self._tokenized(splits[name]) for name in ("train", "validation"))
            return LiminalTrainer(
                EmotionClassifier(self.model.liminal.encoder, num_labels=len(splits["train"][0]["labels"])),
                arguments,
                train_dataset=train,
                eval_dataset=validation,
                data_collator=DataCollatorWithPadding(self.tokenizer),
                compute_metrics=macro_f1,
            )
        splits = self._inputs(phase)
        return self.trainer(
            self.model,
            arguments,
            train_dataset=self._targets(phase, splits["train"]),
            eval_dataset=splits["validation"],
            data_collator=self._collator(phase),
            callbacks=[EmotionalLogCallback(self.folder.emotional_log, epochs_before)],
        )

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

    def _spread_head(self) -> torch.nn.Module:
        """The readout of the uncertainty; it reads detached states, so that no prediction moves with it."""
        config = self.model.config
        spread: torch.nn.Module | None = getattr(self.model.liminal.head, "spread_head", None)
        if spread is None:
            raise ValueError(
                f"`trainable: uncertainty` trains the head's spread_head, which the head {config.head!r} does not "
                "have. Take `head: v7`, or leave the phase out."
            )
        if config.uncertainty_weight <= 0 and config.loss != "gaussian_nll":
            raise ValueError(
                "`trainable: uncertainty` has nothing to learn from: set `uncertainty_weight` above 0, or "
                "`loss: gaussian_nll`, in the recipe's model section."
            )
        return spread

    def _add_adapters(self) -> Any:
        from peft.tuners.lora import LoraModel

        settings = self.recipe.peft
        config = lora_config(self.model, settings.r, settings.alpha, settings.dropout)
        # The head is trained in place: a copy of it inside a wrapper would be another model to the next phase.
        config.modules_to_save = None
        adapters = LoraModel(self.model, config, "default")
        for name, value in self.model.named_parameters():
            if "lora_" in name:  # beside weights in bfloat16, steps as small as an adapter's would be rounded away
                value.data = value.data.float()
        self.model.liminal.head.requires_grad_(True)
        self.model.liminal.pooler.requires_grad_(True)
        return adapters

    def _merge_adapters(self, adapters: Any) -> dict[str, Tensor]:
        """Folds the adapters into the encoder and returns them as `name.A`, `name.B` with weight + B A."""
        deltas = low_rank_deltas(self.model)
        adapters.unload()
        weights = dict(self.model.liminal.encoder.named_parameters())
        with torch.no_grad():
            for name, (a, b) in deltas.items():
                weights[name].copy_(weights[name] + (b @ a).to(weights[name]))
        return {f"{name}.{side}": pair for name, both in deltas.items() for side, pair in zip("AB", both, strict=True)}

    def _store(
        self, report: dict[str, Any], home: Path, start: dict[str, Tensor], pairs: dict[str, Tensor]
    ) -> PhaseResult:
        state = self.model.state_dict()
        changed = {name: value.clone() for name, value in state.items() if not torch.equal(value, start[name])}
        result = PhaseResult(report, changed, pairs, {"pooled_scale": self.model.config.pooled_scale})
        if self.processes.is_main_process:
            result.write(home / _RESULT)
        self.processes.wait_for_everyone()
        return result

    # ---- data ----

    def _load_data(self) -> DatasetDict:
        splits = self._labelled_data()
        distill = self.recipe.distill
        if distill is None:
            return splits
        # Now, so that what is wrong with a teacher is not found when the first phase is over.
        return DatasetDict({**splits, "train": add_unlabelled(splits["train"], distill, self.data_dir)})

    def _labelled_data(self) -> DatasetDict:
        if self.given is not None:
            for split in ("train", "validation"):
                if split not in self.given or not {"text", "labels"} <= set(self.given[split].column_names):
                    found = {name: rows.column_names for name, rows in self.given.items()}
                    raise ValueError(f"data needs the split {split!r} with the columns text and labels; got {found}.")
            if not all(phase.freezes_encoder for phase in self.recipe.phases):  # the states would soon be old
                columns = ["text", "labels"]
                return DatasetDict({name: rows.select_columns(columns) for name, rows in self.given.items()})
            return self.given.with_format(None)
        data = self.recipe.data
        if data.files is None:
            return load_emobank(self.data_dir)
        files: dict[str, str | Path] = {str(split): path for split, path in data.files.items()}
        splits = load_table(files, text=data.text, labels=tuple(data.labels), scale=data.scale)
        if "validation" not in splits or not len(splits["validation"]):
            raise ValueError(
                "There is nothing to choose the best model by: give data.files a `validation` table, or more than one "
                "text in `train`, a tenth of which is then held out."
            )
        return splits

    def _tokenize(self, texts: list[str], **kwargs: Any) -> Any:
        return self.tokenizer(texts, truncation=True, max_length=self.model.config.max_seq_length, **kwargs)

    def _tokenized(self, rows: Dataset) -> Dataset:
        kept = rows.select_columns(["text", "labels"])
        with self.processes.main_process_first():
            tokens = kept.map(lambda batch: self._tokenize(batch["text"]), batched=True, remove_columns=["text"])
        tokens = tokens.add_column("length", [len(ids) for ids in tokens["input_ids"][:]])
        return tokens.add_column(ROW, list(range(len(tokens))))

    def _inputs(self, phase: Phase) -> DatasetDict:
        """The splits as the phase reads them: pooled states, or tokens."""
        kind = "pooled" if phase.cache else "tokens"
        if kind not in self._prepared:
            self._prepared[kind] = (
                self._pooled()
                if phase.cache
                else DatasetDict({split: self._tokenized(rows) for split, rows in self.data.items()})
            )
        return self._prepared[kind]

    def _collator(self, phase: Phase) -> Any:
        # Given the tokenizer itself, the Trainer would write its special tokens into the encoder's config.
        return default_data_collator if phase.cache else DataCollatorWithPadding(self.tokenizer)

    def _pooled(self) -> DatasetDict:
        self.model.to(self.processes.device)
        if self.model.liminal.pooler.is_learned:
            raise RecipeError(
                "`cache: true` keeps pooled states, but this pooling is learned in training. Set `cache: false`."
            )
        if all(COLUMN in rows.column_names for rows in self.data.values()):
            pooled = self.data
            self._check_states(pooled["train"].select(range(min(8, len(pooled["train"])))))
        else:
            length = self.model.config.max_seq_length
            with self.processes.main_process_first():
                pooled = pooled_dataset(self.model, self.tokenizer, self.data, max_length=length)
        columns = [COLUMN, "labels"]
        numbered = {
            split: rows.select_columns(columns).add_column(ROW, list(range(len(rows))))
            for split, rows in pooled.items()
        }
        return DatasetDict(numbered).with_format("torch")

    def _check_states(self, rows: Dataset) -> None:
        """Refuses given states that are not those of the recipe's encoder and pooling, by the first few texts."""
        given = np.asarray(rows[COLUMN][:], dtype=np.float64)
        batch = self._tokenize(rows["text"][:], return_tensors="pt", padding=True)
        with torch.no_grad():
            own = self.model.eval().liminal.pool(**batch.to(self.processes.device)).double().cpu().numpy()
        if given.shape != own.shape or np.linalg.norm(given - own) > 0.05 * np.linalg.norm(own):
            raise ValueError(
                f"The states in data[...][{COLUMN!r}], {given.shape[1]} numbers a text, are not what this recipe's "
                f"encoder and pooling give ({own.shape[1]} numbers). Pool the texts with them, or remove the column."
            )

    def _targets(self, phase: Phase, train: Dataset) -> Dataset:
        """The training split as the phase learns it: with soft targets, where the recipe names teachers."""
        distill = self.recipe.distill
        if distill is None:
            return train
        if phase.trainable == "uncertainty":
            known = np.asarray(self.data["train"]["labels"][:]) != MISSING_LABEL
            return train.select(np.flatnonzero(known.any(axis=1)))
        labels = taught_labels(self.data["train"], distill, self.recipe.data.max_length, self.folder.taught)
        return train.remove_columns("labels").add_column("labels", labels)

    # ---- the end ----

    def _finish(self, results: list[PhaseResult]) -> FitResult:
        started = time.monotonic()
        set_seed(self.recipe.seed)
        self.model.requires_grad_(True)
        last = self.recipe.phases[-1]
        splits = self._inputs(last)
        trainer = LiminalTrainer(
            self.model,
            training_arguments(last, self.folder.phases, self.recipe.seed),
            train_dataset=splits["train"],
            eval_dataset=splits["validation"],
            data_collator=self._collator(last),
        )
        self._calibrate(trainer, splits)
        metrics: dict[str, Any] = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "intervals": {},
        }
        for split in ("validation", "test") if self.recipe.evaluate_test and "test" in splits else ("validation",):
            metrics[split], metrics["intervals"][split] = _evaluate(trainer, splits[split])
        reports = [result.report for result in results]
        seconds = sum(one["seconds"] for report in reports for one in report.get("seeds", [report]))
        metrics |= {
            "rows": {split: len(rows) for split, rows in self.data.items()},
            "parameters": sum(value.numel() for value in self.model.parameters()),
            "head_parameters": sum(value.numel() for value in self.model.liminal.head.parameters()),
            "seconds": round(seconds + time.monotonic() - started, 2),
            "device": str(self.processes.device),
            "hardware": hardware(),
            "versions": versions(),
            "phases": reports,
        }
        self.model.to("cpu").eval()
        # The Trainer sets it on any config; ours generates nothing.
        self.model.config.__dict__.pop("use_cache", None)
        if self.processes.is_main_process:
            self._write(results, metrics)
        self.processes.wait_for_everyone()
        return FitResult(self.model, self.tokenizer, metrics, self.folder.path)

    def _calibrate(self, trainer: LiminalTrainer, splits: DatasetDict) -> None:
        """Fits `uncertainty_scale` on the development split and `prediction_quantiles` on the training texts."""
        config = self.model.config
        config.uncertainty_scale = [1.0] * 3
        predicted, uncertainty, labels = trainer.predict_by_name(splits["validation"])
        if uncertainty is not None:
            known = labels != MISSING_LABEL
            error = (np.where(known, predicted - labels, 0) ** 2).sum(0)
            spread = (np.where(known, uncertainty, 0) ** 2).sum(0)
            config.uncertainty_scale = [
                float(f"{math.sqrt(e / s):.6g}") if e > 0 and s > 0 else 1.0 for e, s in zip(error, spread, strict=True)
            ]
        train, _, labels = trainer.predict_by_name(splits["train"])
        # Texts that only teachers have labelled are of another kind than those that a percentile speaks of.
        known = (labels != MISSING_LABEL).any(axis=1)
        train = train[known] if known.any() else train
        quantiles = np.quantile(train, np.linspace(0, 1, 101), axis=0).T
        config.prediction_quantiles = [[round(float(value), 4) for value in row] for row in quantiles]

    def _write(self, results: list[PhaseResult], metrics: dict[str, Any]) -> None:
        save_whole(self.model, self.tokenizer, self.folder.model)
        # The pairs describe the encoder only when nothing else has changed it.
        changed = [place for place, phase in enumerate(self.recipe.phases) if not phase.freezes_encoder]
        if len(changed) == 1 and results[changed[0]].pairs:
            save_file(results[changed[0]].pairs, self.folder.path / ".low_rank.part")
            (self.folder.path / ".low_rank.part").rename(self.folder.low_rank)
        write_text(self.folder.metrics, json.dumps(metrics, indent=2) + "\n")


def training_arguments(phase: Phase, output_dir: str | Path, seed: int) -> LiminalTrainingArguments:
    """The phase's `training` over our defaults: evaluate, log and save every epoch, keep the best by dev metric.

    Example:
        >>> phase = Phase(name="head", training={"num_train_epochs": 2})
        >>> training_arguments(phase, "runs/x", seed=0).metric_for_best_model
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
        chosen = "pearson_mean" if phase.objective == "pad" else "macro_f1"
        if phase.trainable == "uncertainty":  # the predictions stay, so the loss is the likelihood and a constant
            chosen = "loss"
        settings["metric_for_best_model"] = chosen
    if (metric := settings.get("metric_for_best_model")) is not None:
        # Left to itself, the Trainer takes an error for a merit.
        settings.setdefault("greater_is_better", not any(part in metric for part in ("loss", "mae", "rmse")))
    own = {name: getattr(phase, name) for name in ("ema_decay", "head_learning_rate", "layer_decay")}
    return LiminalTrainingArguments(output_dir=str(output_dir), seed=seed, data_seed=seed, **own, **settings)


def _unit_scale(square: float, number: int) -> float:
    return float(f"{math.sqrt(number / max(square, 1e-12)):.6g}")


def load_tokenizer(encoder: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer, padding on the right; one without a padding token pads with its end token."""
    source, revision = resolve_encoder(encoder, revision)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, padding_side="right")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _evaluate(trainer: LiminalTrainer, rows: Dataset) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Metrics of a split, and their bootstrap intervals."""
    output = trainer.predict(rows, metric_key_prefix="eval")
    timing = ("runtime", "per_second", "preparation_time")
    figures = (output.metrics or {}).items()
    metrics = {name.removeprefix("eval_"): float(value) for name, value in figures if not name.endswith(timing)}
    return metrics, bootstrap_intervals(output.predictions, output.label_ids, targets=trainer.model.config.targets)
