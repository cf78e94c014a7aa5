"""From a recipe to a finished model: walks the phases, calibrates on the development split, tests once.

Requires torch, transformers, accelerate and datasets; peft only for phases with `trainable: lora`.
"""

import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase, set_seed

from ..export.checkpoint import low_rank_pairs
from ..export.model_card import portable_facts
from ..io import atomic_folder, atomic_write, folder_sha256, write_text
from ..metrics import bootstrap_intervals
from ..modeling import encoders
from ..modeling.errors import LiminalError
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.processors import is_processor
from ..modeling.provenance import remember_facts
from .calibration import calibrate, measure_labels, update_config
from .domain import fit_domain
from .inputs import Inputs, load_splits, load_tokenizer, readable_length, run_inputs
from .phases import RESULT, PhaseSettings, exit_readout, rebuild, train_phase, training_arguments, uncertainty_readout
from .processes import start_processes
from .recipe import Recipe
from .run_folder import PhaseResult, RunFolder, about_run, without_nan
from .trainer import LiminalTrainer

logger = logging.getLogger(__name__)


@dataclass
class FitResult:
    """What a finished run gives.

    Args:
        model: the trained model, on the CPU, in evaluation mode.
        tokenizer: its tokenizer; the processor of a model that reads sounds or images.
        metrics: what `metrics.json` holds: `validation` and, where it was evaluated, `test` (by metric name; None where
            a target has no labels), `rows`, `parameters`, `phases` (name, seed, seconds, steps, best metric, history),
            `seed`, `seconds`, `hardware`, `versions`, `sha256` (by file of the checkpoint) and `intervals` (by split
            and name, see `metrics.bootstrap_intervals`); with `data.person` also `persons`, by target k of the prior
            (see `PersonPrior.shrinkage`).
        output_dir: the run's folder; the checkpoint is in `output_dir / "model"`, and `RunFolder(output_dir)` has the
            recipe that names the data.
    """

    model: LiminalForPADRegression
    tokenizer: PreTrainedTokenizerBase
    metrics: dict[str, Any]
    output_dir: Path

    def low_rank(self) -> dict[str, tuple[Tensor, Tensor]] | None:
        """The change of the encoder for `save_head_only(low_rank=...)`; None unless adapters alone have changed it."""
        path = RunFolder(self.output_dir).low_rank
        return low_rank_pairs(path) if path.is_file() else None


def fit(
    recipe: Recipe | str | Path | Mapping[str, Any],
    output_dir: str | Path,
    *,
    seed: int | None = None,
    resume: Literal["auto", "never"] = "auto",
    data_dir: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
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
        data: the splits themselves, instead of those that the recipe names: `train`, `validation`, perhaps `test`, each
            a `Dataset`, a DataFrame or a list of rows with `text` (or `audio` or `image`, as the recipe's `data` names
            one: paths) and `labels` in -1..1. With a column
            `pooled_embeds`, as `pooled_dataset` adds it, a recipe that leaves the encoder frozen takes its cached
            states from there.
        trainer: builds the trainer of each phase with the objective "pad", given what `LiminalTrainer` is given: a
            subclass of it with a loss or a sampler of your own. The folder does not remember which it was.

    Raises:
        RecipeError: the recipe can't be followed.
        LiminalError: `data` lacks a split or a column, its labels are not in -1..1, or its states are not those of the
            recipe's encoder and pooling; a phase trains the uncertainty or the exits of a head that has none; it was
            launched with FSDP or DeepSpeed.
        RunInProgressError: another process trains in this folder.
        RunMismatchError: the folder holds a run of another recipe, seed, data, encoder, teacher or plugin.
        NonFiniteLossError: the loss is NaN or infinite; the message names the rows.
        FileNotFoundError: a table, a corpus or a teacher is missing.

    Example:
        >>> result = fit("hub_configs/minilm-emobank.yaml", "runs/minilm")  # doctest: +SKIP
        >>> result.metrics["test"]["pearson_mean"]  # doctest: +SKIP
    """
    recipe = _read_recipe(recipe, seed, overrides)
    if resume not in ("auto", "never"):
        raise LiminalError(f"fit: resume must be 'auto' or 'never', got {resume!r}.")
    _join_processes()
    folder = RunFolder(output_dir)
    with folder.locked():
        splits = load_splits(recipe, data, data_dir)
        tokenizer = load_tokenizer(recipe.model["encoder"], recipe.model.get("revision"))
        inputs = run_inputs(recipe, splits, tokenizer, folder.taught, data_dir)
        folder.claim(recipe, inputs.splits, resume == "never", data_given=data is not None, persons=inputs.persons)
        if folder.is_finished():
            logger.warning("The run in %s is finished; it is loaded, not trained again.", folder.path)
            return _load(folder)
        set_seed(recipe.seed)
        model = _build(recipe, inputs)
        model, results = _train_phases(model, inputs, folder, trainer)
        return _finish(model, inputs, folder, results)


def _read_recipe(
    recipe: Recipe | str | Path | Mapping[str, Any], seed: int | None, overrides: Mapping[str, Any] | None
) -> Recipe:
    if isinstance(recipe, Mapping):
        recipe = Recipe.from_dict(recipe)
    elif not isinstance(recipe, Recipe):
        recipe = Recipe.from_yaml(recipe)
    changes = {**(overrides or {}), **({} if seed is None else {"seed": seed})}
    return recipe.override(changes) if changes else recipe


def _join_processes() -> None:
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"):
        if os.environ.get(name, "false").lower() == "true":
            raise LiminalError(
                "fit keeps whole weights between its phases and does not split a model over processes. Launch it with "
                "hub_configs/accelerate/ddp.yaml, for a large encoder with `trainable: lora`; or use LiminalTrainer "
                "in a script of your own."
            )
    start_processes()


def _load(folder: RunFolder) -> FitResult:
    return FitResult(
        LiminalForPADRegression.from_pretrained(folder.model).eval(),
        encoders.load_tokenizer(folder.model),
        json.loads(folder.metrics.read_text(encoding="utf-8")),
        folder.path,
    )


def _build(recipe: Recipe, inputs: Inputs) -> LiminalForPADRegression:
    """The model at the start of the first phase, with the statistics of the labels in its config."""
    fields = {name: value for name, value in recipe.model.items() if name not in ("encoder", "revision")}
    # In half precision, steps as small as these and averaged weights would be rounded away; `bf16: true` under
    # `training` computes in it.
    whole = any(phase.trainable == "all" for phase in recipe.phases)
    model = LiminalForPADRegression.from_encoder_pretrained(
        recipe.model["encoder"],
        recipe.model.get("revision"),
        encoder_kwargs={"dtype": torch.float32} if whole else None,
        **fields,
    )
    if model.config.pad_token_id is None and not is_processor(inputs.tokenizer):
        model.config.pad_token_id = inputs.tokenizer.pad_token_id
    model.config.max_seq_length = readable_length(model, recipe.data.max_length)
    measure_labels(model, inputs.splits["train"])
    # What is wrong with the head is an error now, not when earlier phases are over; a later phase may change the head.
    same_head = itertools.takewhile(lambda phase: not phase.model, recipe.phases)
    for trainable in {phase.trainable for phase in same_head}:
        if trainable == "uncertainty":
            uncertainty_readout(model)
        elif trainable == "exit":
            exit_readout(model)
    return model


def _train_phases(
    model: LiminalForPADRegression, inputs: Inputs, folder: RunFolder, trainer: Callable[..., LiminalTrainer]
) -> tuple[LiminalForPADRegression, list[PhaseResult]]:
    """Trains the phases that have no result yet; the others' results are put into the model."""
    recipe = inputs.recipe
    results: list[PhaseResult] = []
    epochs, is_scaled = 0.0, False
    for number, phase in enumerate(recipe.phases, start=1):
        if phase.model:
            model = rebuild(model, phase.model, recipe.model, recipe.seed)
            inputs.forget_states()
            is_scaled = is_scaled and not {"pooling", "pooled_layers"} & set(phase.model)
        home = folder.phases / f"{number:02d}-{phase.name}"
        result = PhaseResult.read(home / RESULT)
        if result is None:
            if phase.objective == "pad" and not is_scaled:
                inputs.measure_scale(model, phase)
            settings = PhaseSettings(inputs, home, folder.emotional_log, epochs, trainer)
            result = train_phase(model, phase, settings)
        model.load_state_dict(result.weights, strict=False)
        update_config(model, **result.fields)
        if not phase.freezes_encoder:
            inputs.forget_states()
        if PartialState().is_main_process:
            for used in (home / "checkpoints", *home.glob("seed-*")):
                shutil.rmtree(used, ignore_errors=True)
        results.append(result)
        if phase.objective == "pad":
            is_scaled = True
            epochs += result.report["epochs"]
    return model, results


def _finish(model: LiminalForPADRegression, inputs: Inputs, folder: RunFolder, results: list[PhaseResult]) -> FitResult:
    """Calibrates on the development split, evaluates, and writes the checkpoint and then the metrics."""
    started = time.monotonic()
    recipe, processes = inputs.recipe, PartialState()
    set_seed(recipe.seed)
    model.requires_grad_(True)
    last = recipe.phases[-1]
    splits = inputs.for_phase(model, last)
    trainer = LiminalTrainer(
        model,
        training_arguments(last, folder.phases, recipe.seed),
        train_dataset=splits["train"],
        eval_dataset=splits["validation"],
        data_collator=inputs.collator(last),
    )
    # What is unlike the training texts is known of texts alone.
    fit_domain(model, inputs.tokenizer, [] if recipe.data.signal else inputs.splits["train"]["text"][:], recipe.seed)
    update_config(model, uncertainty_scale=[1.0] * len(recipe.targets))
    held_out = trainer.predict_by_name(splits["validation"])
    calibrate(model, held_out, trainer.predict_by_name(splits["train"]))
    metrics: dict[str, Any] = {"recipe": recipe.name, "seed": recipe.seed, "intervals": {}}
    if inputs.persons is not None:
        prior = inputs.persons.prior(held_out, model.config)
        update_config(model, person_prior=prior.to_lists())
        metrics["persons"] = {"shrinkage": dict(zip(recipe.targets, prior.shrinkage.tolist(), strict=True))}
    for split in ("validation", "test") if recipe.evaluate_test and "test" in splits else ("validation",):
        metrics[split], metrics["intervals"][split] = _evaluate(trainer, splits[split])
    reports = [result.report for result in results]
    seconds = sum(one["seconds"] for report in reports for one in report.get("seeds", [report]))
    metrics |= {
        "rows": inputs.row_counts(),
        **about_run(model),
        "seconds": round(seconds + time.monotonic() - started, 2),
        "device": str(processes.device),
        "phases": reports,
    }
    metrics = without_nan(metrics)
    model.to("cpu").eval()
    # The Trainer sets it on any config; ours generates nothing.
    model.config.__dict__.pop("use_cache", None)
    remember_facts(model, portable_facts({"recipe": recipe.to_dict(), "metrics": metrics}))
    if processes.is_main_process:
        with atomic_folder(folder.model) as part:
            model.save_pretrained(part)
            inputs.tokenizer.save_pretrained(part)
        # The pairs describe the encoder only when nothing else has changed it.
        changed = [result for phase, result in zip(recipe.phases, results, strict=True) if not phase.freezes_encoder]
        if len(changed) == 1 and changed[0].pairs:
            with atomic_write(folder.low_rank) as temporary:
                save_file(changed[0].pairs, temporary)
    processes.wait_for_everyone()
    metrics["sha256"] = folder_sha256(folder.model)
    if processes.is_main_process:
        write_text(folder.metrics, json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    processes.wait_for_everyone()
    return FitResult(model, inputs.tokenizer, metrics, folder.path)


def _evaluate(trainer: LiminalTrainer, rows: Dataset) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Metrics of a split, and their bootstrap intervals."""
    output = trainer.predict(rows, metric_key_prefix="eval")
    timing = ("runtime", "per_second", "preparation_time")
    figures = (output.metrics or {}).items()
    metrics = {name.removeprefix("eval_"): float(value) for name, value in figures if not name.endswith(timing)}
    return metrics, bootstrap_intervals(output.predictions, output.label_ids, targets=trainer.model.config.targets)
