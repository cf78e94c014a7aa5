"""One phase of a training: from a model to what the phase has changed in it.

Requires accelerate, torch and transformers; peft only for phases with `trainable: lora`.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import set_seed

from ..adapters import cut_rank, lora_config, low_rank_deltas
from ..data import load_goemotions
from ..modeling.errors import LiminalError
from ..modeling.heads import ZeroLinear
from ..modeling.modeling_liminal import LiminalForPADRegression
from .args import LiminalTrainingArguments
from .callbacks import EmotionalLogCallback, FitCallback, is_whole, last_checkpoint
from .emotions import EmotionClassifier, macro_f1
from .inputs import Inputs, tokenized
from .recipe import Peft, Phase
from .run_folder import PhaseResult
from .trainer import LiminalTrainer, encoder_depths

logger = logging.getLogger(__name__)

_Tensors = dict[str, Tensor]
RESULT = "result"
_CHECKPOINTS = "checkpoints"
# Fields of the config whose default depends on the head.
_DEFAULTS_OF_THE_HEAD = ("num_outer_steps", "num_inner_steps", "memory_slots")


@dataclass(frozen=True)
class PhaseSettings:
    """What a phase needs to know beside the model and its own section of the recipe."""

    inputs: Inputs
    folder: Path
    log: Path  # the emotional log
    epochs_before: float  # of earlier phases
    trainer: Callable[..., LiminalTrainer]  # builds the trainer of a phase with the objective "pad"


def train_phase(model: LiminalForPADRegression, phase: Phase, settings: PhaseSettings) -> PhaseResult:
    """Trains the model in place, once or once per seed with their average, and stores the result in the folder.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite; the message names the rows.
    """
    if phase.seeds is None:
        return _train_once(model, phase, settings, settings.folder, settings.inputs.recipe.seed)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in start.items()}
    reports = []
    for seed in phase.seeds:
        folder = settings.folder / f"seed-{seed}"
        result = PhaseResult.read(folder / RESULT) or _train_once(model, phase, settings, folder, seed)
        reports.append(result.report)
        for name in total:
            total[name] += result.weights.get(name, start[name])
        model.load_state_dict(start)
    model.load_state_dict({name: (value / len(reports)).to(start[name].dtype) for name, value in total.items()})
    return _store(model, {**reports[0], "seed": phase.seeds, "seeds": reports}, settings.folder, start, {})


def _train_once(
    model: LiminalForPADRegression, phase: Phase, settings: PhaseSettings, folder: Path, seed: int
) -> PhaseResult:
    logger.info("Phase %s (seed %d) in %s", phase.name, seed, folder)
    started = time.monotonic()
    start = {name: value.cpu().clone() for name, value in model.state_dict().items()}
    set_seed(seed)
    adapters = _choose_trainable(model, phase, settings.inputs.recipe.peft)
    trainer = _build_trainer(model, phase, settings, training_arguments(phase, folder / _CHECKPOINTS, seed))
    trainer.remove_callback(FitCallback)  # what it measures is measured here, once for all phases
    trainable = sum(value.numel() for value in trainer.model.parameters() if value.requires_grad)
    checkpoint = _resumable_checkpoint(folder / _CHECKPOINTS)
    if checkpoint:
        logger.warning("Resuming from %s", checkpoint)
    output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.to("cpu")
    pairs = {} if adapters is None else _merge_adapters(model, adapters)
    if phase.keep < 1:
        _keep_share(model, start, phase.keep)
    if phase.encoder_rank:
        pairs = _by_side(cut_rank(model, start, phase.encoder_rank))
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
    return _store(model, report, folder, start, pairs)


def _choose_trainable(model: LiminalForPADRegression, phase: Phase, peft: Peft) -> Any:
    """Freezes what the phase leaves alone; returns the adapters, where it has some."""
    model.requires_grad_(True)
    if phase.trainable in ("uncertainty", "exit"):
        model.requires_grad_(False)
        readout = uncertainty_readout(model) if phase.trainable == "uncertainty" else exit_readout(model)
        for layer in readout.requires_grad_(True).modules():
            if isinstance(layer, ZeroLinear):  # it forgets what it has learned from soft targets
                torch.nn.init.zeros_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    elif phase.trainable != "all":
        model.freeze_encoder()
    elif phase.frozen_layers:
        freeze_lower_layers(model.liminal.encoder, phase.frozen_layers)
    return _add_adapters(model, peft) if phase.trainable == "lora" else None


def freeze_lower_layers(encoder: torch.nn.Module, count: int) -> None:
    """Freezes the encoder's embeddings and its lowest `count` layers.

    Raises:
        LiminalError: the encoder has fewer layers than that.
    """
    depths = encoder_depths([name for name, _ in encoder.named_parameters()])
    total = max(depths.values(), default=0)  # the embeddings lie below every layer
    if count >= total:
        raise LiminalError(
            f"frozen_layers is {count}, but this encoder has {total} layers; give at most {total - 1}, or "
            "`trainable: head` to train none of them."
        )
    for name, value in encoder.named_parameters():
        value.requires_grad_(depths[name] < total - count)


@torch.no_grad()
def _keep_share(model: LiminalForPADRegression, start: dict[str, Tensor], share: float) -> None:
    """start + share * (trained - start), for each tensor once: a tied weight has two names."""
    changed: set[int] = set()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.data_ptr() not in changed:
            value.copy_(torch.lerp(start[name], value, share))
            changed.add(value.data_ptr())


def _build_trainer(
    model: LiminalForPADRegression, phase: Phase, settings: PhaseSettings, arguments: LiminalTrainingArguments
) -> LiminalTrainer:
    inputs = settings.inputs
    if phase.objective == "goemotions":
        splits = load_goemotions(inputs.data_dir)
        length = model.config.max_seq_length
        return LiminalTrainer(
            EmotionClassifier(model.liminal.encoder, num_labels=len(splits["train"][0]["labels"])),
            arguments,
            train_dataset=tokenized(splits["train"], inputs.tokenizer, length),
            eval_dataset=tokenized(splits["validation"], inputs.tokenizer, length),
            data_collator=inputs.collator(phase),
            compute_metrics=macro_f1,
        )
    return settings.trainer(
        model,
        arguments,
        train_dataset=inputs.training_rows(model, phase),
        eval_dataset=inputs.for_phase(model, phase)["validation"],
        data_collator=inputs.collator(phase),
        callbacks=[EmotionalLogCallback(settings.log, settings.epochs_before)],
    )


def _resumable_checkpoint(folder: Path) -> Path | None:
    if PartialState().is_main_process:
        for path in (path for path in folder.glob("checkpoint-*") if not is_whole(path)):
            logger.warning("The checkpoint %s is incomplete or damaged; it is deleted.", path)
            shutil.rmtree(path)
    # Also where there is no folder yet: a process that has gone ahead makes it.
    PartialState().wait_for_everyone()
    return last_checkpoint(folder)


def uncertainty_readout(model: LiminalForPADRegression) -> torch.nn.Module:
    """The layers that read out the uncertainty; they read detached states, so that no prediction moves with them.

    Raises:
        LiminalError: the head has none, or nothing that trains them.
    """
    config = model.config
    readout: torch.nn.Module | None = getattr(model.liminal.head, "spread_head", None)
    if readout is None:
        raise LiminalError(
            f"`trainable: uncertainty` trains the head's spread_head, which the head {config.head!r} does not have. "
            "Take `head: v7`, or leave the phase out."
        )
    if config.uncertainty_weight <= 0 and config.loss != "gaussian_nll":
        raise LiminalError(
            "`trainable: uncertainty` has nothing to learn from: set `uncertainty_weight` above 0, or "
            "`loss: gaussian_nll`, in the recipe's model section."
        )
    return readout


def exit_readout(model: LiminalForPADRegression) -> torch.nn.Module:
    """RINSE of the head v8; it reads detached states, so that no prediction moves with it.

    Raises:
        LiminalError: the head has none, or nothing that trains it.
    """
    config, head = model.config, model.liminal.head
    if not hasattr(head, "exit_head"):
        raise LiminalError(
            f"`trainable: exit` trains what the head v8 expects to gain by reading on; this head is {config.head!r}. "
            "Take `head: v8`, or leave the phase out."
        )
    if config.exit_weight <= 0 or config.num_outer_steps == 1:
        raise LiminalError(
            "`trainable: exit` has nothing to learn: set `exit_weight` above 0 in the recipe's model section, and "
            "`depth_every` so that there is more than one step."
        )
    return torch.nn.ModuleList([head.rinse, head.exit_head])


def _add_adapters(model: LiminalForPADRegression, settings: Peft) -> Any:
    from peft.tuners.lora import LoraModel

    config = lora_config(model, settings.r, settings.alpha, settings.dropout, layers=settings.layers)
    # The head is trained in place: a copy of it inside a wrapper would be another model to the next phase.
    config.modules_to_save = None
    adapters = LoraModel(model, config, "default")
    for name, value in model.named_parameters():
        if "lora_" in name:  # beside weights in bfloat16, steps as small as an adapter's would be rounded away
            value.data = value.data.float()
    model.liminal.head.requires_grad_(True)
    model.liminal.pooler.requires_grad_(True)
    return adapters


def _merge_adapters(model: LiminalForPADRegression, adapters: Any) -> dict[str, Tensor]:
    """Merges the adapters into the encoder and returns them as `name.A`, `name.B` with weight + B A."""
    deltas = low_rank_deltas(model)
    adapters.unload()
    weights = dict(model.liminal.encoder.named_parameters())
    with torch.no_grad():
        for name, (a, b) in deltas.items():
            weights[name].copy_(weights[name] + (b @ a).to(weights[name]))
    return _by_side(deltas)


def _by_side(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{side}": pair for name, both in pairs.items() for side, pair in zip("AB", both, strict=True)}


def _store(model: Any, report: dict[str, Any], folder: Path, start: _Tensors, pairs: _Tensors) -> PhaseResult:
    changed = {name: value.clone() for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    result = PhaseResult(report, changed, pairs, {"pooled_scale": model.config.pooled_scale})
    if PartialState().is_main_process:
        result.write(folder / RESULT)
    PartialState().wait_for_everyone()
    return result


def rebuild(
    model: LiminalForPADRegression, fields: dict[str, Any], recipe_fields: Any, seed: int
) -> LiminalForPADRegression:
    """The same model, on the CPU, with other fields of its config: weights that still fit are kept, others start fresh.

    A new head takes its own defaults where the recipe's model section (`recipe_fields`) says nothing.
    """
    set_seed(seed)
    old = {name: value.clone() for name, value in model.state_dict().items()}
    attention = model.config.text_config._attn_implementation
    own = [name for name in _DEFAULTS_OF_THE_HEAD if "head" in fields and name not in recipe_fields]
    # None takes the new head's own default.
    config = type(model.config).from_dict({**model.config.to_dict(), **dict.fromkeys(own), **fields})
    config._attn_implementation = {"text_config": attention}
    rebuilt = LiminalForPADRegression(config, encoder=model.liminal.encoder)
    new = rebuilt.state_dict()
    fitting = {name: value for name, value in old.items() if name in new and value.shape == new[name].shape}
    rebuilt.load_state_dict(fitting, strict=False)
    if fresh := set(new) - set(fitting):
        logger.warning("The fields %s change the head: %d of its tensors start fresh.", sorted(fields), len(fresh))
    return rebuilt


def training_arguments(phase: Phase, output_dir: str | Path, seed: int) -> LiminalTrainingArguments:
    """The phase's `training` over our defaults: evaluate, log and save every epoch, keep the best by dev metric.

    Example:
        >>> phase = Phase(name="head", training={"num_train_epochs": 2})
        >>> training_arguments(phase, "runs/x", seed=0).metric_for_best_model
        'pearson_mean'
    """
    settings: dict[str, Any] = {
        "eval_strategy": "epoch",
        "logging_strategy": "epoch",
        "save_total_limit": 2,
        "per_device_eval_batch_size": 64,
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
        **phase.training,
    }
    evaluates = settings["eval_strategy"] != "no"
    settings.setdefault("save_strategy", settings["eval_strategy"] if evaluates else "epoch")
    if evaluates:
        settings.setdefault("load_best_model_at_end", True)
    if settings["eval_strategy"] == "steps" and "eval_steps" in phase.training:
        for name in ("save_steps", "logging_steps"):
            settings.setdefault(name, phase.training["eval_steps"])
    if settings.get("load_best_model_at_end") and "metric_for_best_model" not in phase.training:
        best = "pearson_mean" if phase.objective == "pad" else "macro_f1"
        if phase.trainable in ("uncertainty", "exit"):  # no prediction moves: the loss is what it learns and a constant
            best = "loss"
        settings["metric_for_best_model"] = best
    if (metric := settings.get("metric_for_best_model")) is not None:
        # The Trainer takes the larger of two errors for the better one.
        settings.setdefault("greater_is_better", not any(part in metric for part in ("loss", "mae", "rmse")))
    settings |= {name: getattr(phase, name) for name in ("ema_decay", "head_learning_rate", "layer_decay")}
    return LiminalTrainingArguments(output_dir=str(output_dir), seed=seed, data_seed=seed, **settings)
