"""The HF Trainer, told how a LIMINAL model is trained: parameter groups, averaged weights, exact resumption.

Requires torch, transformers and accelerate.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import DataCollatorWithPadding, PreTrainedModel, Trainer, TrainingArguments, default_data_collator
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, HubStrategy

from ..io import atomic_write
from ..metrics import OUTPUTS, TargetMetrics, compute_metrics
from ..modeling.configuration_liminal import MISSING_LABEL
from ..modeling.errors import LiminalError
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.processors import SignalCollator, is_processor, processor_of
from .args import LiminalTrainingArguments
from .calibration import Predicted, liminal_model, no_labels
from .callbacks import EMACallback, FitCallback, ManifestCallback
from .processes import check_launch
from .run_folder import about_run

_WEIGHTS = "model.safetensors"
_LAYER = re.compile(r"\.(\d+)\.")
# Column with a row's index in its data set; it is never given to the model.
ROW = "liminal_row"
_EXTRA = ("ema_decay", "head_learning_rate", "layer_decay")


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient is NaN or infinite; the message names the step and the rows of the batch."""


class EpochLengthGroupedSampler(LengthGroupedSampler):
    """Batches of similar length, in an order that depends on the seed and the epoch alone.

    The Trainer's own draws from the global generator, whose state a run that resumes within an epoch does not have.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Any:
        """The rows of this epoch."""
        self.generator.manual_seed(self.seed * 1_000_003 + self.epoch)
        return super().__iter__()


class LiminalTrainer(Trainer):
    """`transformers.Trainer` for `LiminalForPADRegression`, bare or in a `PeftModel`; a fresh model ends as by `fit`.

    What it adds: labels and states are measured before the first step and the uncertainty is calibrated after the last
    (`FitCallback`); a learning rate of its own for everything but the encoder, layer-wise decay within the encoder, no
    weight decay on biases and norms; averaged weights (EMA); a loss that is not finite stops the run and names the
    rows; checkpoints that load by `from_pretrained` (a `PeftModel`'s by PEFT), closed by a manifest; an order of the
    data that a resumed run repeats exactly. The loss is divided by the number of labels in the accumulated batch. It
    also trains any module whose encoder is called `encoder`.

    Args:
        model: what is trained; parameters with `requires_grad=False` stay as they are.
        args: `LiminalTrainingArguments`, or `TrainingArguments` without the three further settings.
        compute_metrics: by default those of `liminal_hf.metrics`, by the names of the model's targets. Your own gets
            `predictions` of shape `(N, targets)`.
        callbacks: further callbacks.
        ema_decay, head_learning_rate, layer_decay: deprecated, fields of `LiminalTrainingArguments`.
        others: as in `transformers.Trainer`. Without a `data_collator`, labels may be None where one is missing, and
            with a processor of sounds or images as `processing_class` a column `audio` or `image` is read by batches.

    Raises:
        LiminalError: processes were launched that would not train together; in `train`, what `FitCallback` raises; in
            `evaluate`, when the rows have no labels.
        NonFiniteLossError: in `train`, when the loss or the gradient is NaN or infinite.

    Example:
        >>> from datasets import Dataset
        >>> from liminal_hf import LiminalConfig, LiminalForPADRegression
        >>> data = Dataset.from_dict({"pooled_embeds": [[0.0] * 8] * 4, "labels": [[0.1, 0.0, -0.1]] * 4})
        >>> model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16))
        >>> args = LiminalTrainingArguments("run", max_steps=1, report_to="none", save_strategy="no", ema_decay=0.99)
        >>> LiminalTrainer(model, args, train_dataset=data).train().global_step  # doctest: +SKIP
        1
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        callbacks: list[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.optimizer: torch.optim.Optimizer | None
        args = LiminalTrainingArguments("tmp_trainer") if args is None else args
        settings = {name: getattr(args, name) for name in _EXTRA if hasattr(args, name)}
        if keywords := {name: kwargs.pop(name) for name in _EXTRA if name in kwargs}:
            message = "is deprecated and goes with the next version: these are fields of LiminalTrainingArguments now."
            warnings.warn(f"LiminalTrainer(..., {', '.join(keywords)}) {message}", DeprecationWarning, stacklevel=2)
        settings |= keywords
        self.head_learning_rate: float | None = settings.get("head_learning_rate")
        self.layer_decay: float = settings.get("layer_decay", 1.0)
        check_launch(args.world_size)
        decay = settings.get("ema_decay")
        average = [EMACallback(decay)] if decay is not None else []
        seconds = getattr(getattr(model, "config", None), "max_seq_length", 128)
        super().__init__(
            model,
            args,
            _collator(train_dataset, processing_class, seconds) if data_collator is None else data_collator,
            train_dataset,
            eval_dataset,
            processing_class,
            # The manifest lists what the others write, so it comes last of those that save.
            callbacks=[*average, *(callbacks or []), ManifestCallback()],
            **kwargs,
        )
        self.label_names = ["labels"]
        base = liminal_model(self.model)
        metric: Any = getattr(self, "compute_metrics", None)
        if base is not None and metric in (None, compute_metrics):
            self.compute_metrics = TargetMetrics(base.config.targets)
        self._keeps_names = False
        self._encoder_is_original: bool | None = None
        # After the averaged weights have come into the model.
        self.remove_callback(FitCallback)
        self.add_callback(FitCallback(evaluated=self._evaluated))

    def _evaluated(self) -> Any:
        """The dataloader to calibrate on: of several evaluation sets, the first."""
        if not self.eval_dataset:
            return None
        several = isinstance(self.eval_dataset, dict)
        return self.get_eval_dataloader(next(iter(self.eval_dataset)) if several else None)

    # ---- data ----

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if ROW not in self._signature_columns:
            self._signature_columns += [ROW, "audio", "image"]  # the last two go to the processor

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(dataset)
        column = self.args.length_column_name
        lengths = dataset[column] if column in dataset.column_names else [len(row) for row in dataset["input_ids"][:]]
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochLengthGroupedSampler(batch, list(lengths), seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        # Grouped by length, predictions would come in another order than the rows.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    # ---- optimisation ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of `args.optim` over `parameter_groups`."""
        if self.optimizer is None:
            model = self.model if model is None else model
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self.parameter_groups(model), **kwargs)
        return self.optimizer

    def parameter_groups(self, model: nn.Module | None = None) -> list[dict[str, Any]]:
        """Groups of trainable parameters with equal learning rate and weight decay, the head's first.

        The encoder's top layer has `args.learning_rate`, each layer below `layer_decay` times that of the layer above
        it, the embeddings that of the lowest layer times `layer_decay`; adapters have the rate of their layer. Vectors
        (biases, norms) have no weight decay.
        """
        model = self.model if model is None else model
        trainable = [value for value in model.parameters() if value.requires_grad]
        if not trainable:
            raise LiminalError("Nothing is trainable: every parameter of the model has requires_grad=False.")
        encoder = getattr(liminal_model(model) or model, "encoder", None)
        named = list(encoder.named_parameters()) if isinstance(encoder, nn.Module) else []
        by_name = encoder_depths([name for name, _ in named])
        depths = {id(value): by_name[name] for name, value in named}
        head_rate = self.args.learning_rate if self.head_learning_rate is None else self.head_learning_rate
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for value in sorted(trainable, key=lambda value: id(value) in depths):
            depth = depths.get(id(value))
            rate = head_rate if depth is None else self.args.learning_rate * self.layer_decay**depth
            groups.setdefault((rate, self.args.weight_decay if value.dim() > 1 else 0.0), []).append(value)
        return [{"params": values, "lr": rate, "weight_decay": decay} for (rate, decay), values in groups.items()]

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """One micro-batch; a loss that is not finite stops the run before the weights move."""
        rows = inputs.pop(ROW, None)
        loss = super().training_step(model, dict(inputs), num_items_in_batch)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(self._blame("loss", loss, model, inputs, rows))
        self._last_rows = rows
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | float | None:
        norm = super()._clip_grad_norm(model)
        # Under float16 an overflow is routine: the scaler skips that step.
        if self.accelerator.scaler is None and norm is not None and not bool(torch.isfinite(torch.as_tensor(norm))):
            raise NonFiniteLossError(self._blame("gradient", torch.as_tensor(norm), model, {}, self._last_rows))
        return norm

    def _blame(self, what: str, value: Tensor, model: nn.Module, inputs: dict[str, Any], rows: Tensor | None) -> str:
        names = list(range(len(next(iter(inputs.values()), ())))) if rows is None else rows.tolist()
        guilty = []
        for index, name in enumerate(names if inputs else ()):
            row = self._prepare_inputs({key: values[index : index + 1] for key, values in inputs.items()})
            with torch.no_grad():
                if not bool(torch.isfinite(model(**row)["loss"])):
                    guilty.append(name)
        why = "No row is at fault by itself: lower learning_rate, set max_grad_norm, or train without float16."
        if guilty:
            why = f"Not finite by themselves: {guilty}; look at their texts and labels."
        return (
            f"The {what} is {value.item()} at step {self.state.global_step + 1} (epoch {self.state.epoch or 0:.3f}). "
            f"Rows of this batch in the training split: {names}. {why} The last checkpoint is from before this step."
        )

    # ---- evaluation ----

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """As in `Trainer`; our own metrics get the outputs by name."""
        inputs.pop(ROW, None)
        own = isinstance(self.compute_metrics, TargetMetrics) and self.preprocess_logits_for_metrics is None
        if prediction_loss_only or not (own or self._keeps_names):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        labels = inputs.get("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            if labels is None:
                loss, output = None, model(**inputs)
            else:
                labels = labels.detach()
                count = self._get_num_items_in_batch([inputs], self.args.device)
                loss, output = self.compute_loss(model, inputs, return_outputs=True, num_items_in_batch=count)
                loss = loss.detach().mean()
        return loss, {name: output[name].detach() for name in OUTPUTS if output.get(name) is not None}, labels

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in `Trainer`; predictions are `(N, targets)`."""
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        if isinstance(output.predictions, Mapping) and not self._keeps_names:
            output = output._replace(predictions=output.predictions["logits"])
        return output

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in `Trainer`."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
        columns = getattr(rows, "column_names", None)
        if columns is not None and not {"labels", "label", "label_ids"} & set(columns):
            raise LiminalError(f"evaluate: {no_labels(columns)}")
        return super().evaluate(eval_dataset, *args, **kwargs)

    def predict_by_name(self, rows: Any) -> Predicted:
        """Predictions, uncertainty and labels of a data set, for `calibration.calibrate`."""
        self._keeps_names = True
        try:
            output = self.predict(rows)
        finally:
            self._keeps_names = False
        outputs: Any = output.predictions
        return Predicted(outputs["logits"].astype(float), outputs.get("uncertainty"), output.label_ids.astype(float))

    # ---- checkpoints ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # The Trainer's own version also pickles its arguments.
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if not hasattr(model, "save_pretrained"):
            state = model.state_dict() if state_dict is None else state_dict
            frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
            trained = {name: value.clone().contiguous() for name, value in state.items() if name not in frozen}
            with atomic_write(folder / _WEIGHTS) as temporary:
                save_file(trained, temporary, metadata={"format": "pt"})
            return
        if not (folder.name.startswith(PREFIX_CHECKPOINT_DIR) and self._saved_head_only(model, folder)):
            model.save_pretrained(folder, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _saved_head_only(self, model: Any, folder: Path) -> bool:
        """Saves a checkpoint without its encoder, if that is frozen and still the one that the config names."""
        base = liminal_model(model)
        encoder = None if base is None or not isinstance(model, PreTrainedModel) else base.encoder
        if encoder is None or any(value.requires_grad for value in encoder.parameters()):
            return False
        if self._encoder_is_original is not False:
            try:
                model.save_head_only(folder, check=self._encoder_is_original is None)
            except (OSError, ValueError):
                self._encoder_is_original = False
            else:
                self._encoder_is_original = True
        return self._encoder_is_original

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The Trainer's own version uploads its pickled arguments and the checkpoint's weights, which need not be whole
        # here. Instead, the whole model as it is now; the optimizer's state stays home whatever `hub_strategy` says.
        if self.args.hub_strategy != HubStrategy.END:
            self.push_to_hub(commit_message=f"Training in progress, step {self.state.global_step}")

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Uploads the model as `liminal_hf.push` does: weights, code, tokenizer and our card, no state of the run.

        Arguments as in `Trainer`; `kwargs` go to `create_model_card`.
        """
        from huggingface_hub import HfApi

        from ..export.repository import STAYS_HOME

        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = self.args.hub_token if token is None else token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        self._finish_current_push()
        api: Any = HfApi(library_name="liminal_hf", token=token)
        return api.upload_folder(
            repo_id=self.hub_model_id,
            folder_path=str(self.args.output_dir),
            commit_message=commit_message,
            run_as_future=not blocking,
            ignore_patterns=list(STAYS_HOME),
            revision=self.args.hub_revision if revision is None else revision,
        )

    def create_model_card(self, **kwargs: Any) -> None:
        """Writes our card into the output folder, with `license`, `tags` and what this run has measured so far."""
        if not isinstance(self.model, LiminalForPADRegression):
            super().create_model_card(**kwargs)
        elif self.is_world_process_zero():
            from ..export.repository import finish_upload

            folder = Path(str(self.args.output_dir))
            repo_id = self.hub_model_id or self.args.hub_model_id or folder.resolve().name
            facts = {name: kwargs[name] for name in ("license", "tags") if kwargs.get(name)}
            facts["metrics"] = self._measured()
            if isinstance(facts.get("tags"), str):
                facts["tags"] = [facts["tags"]]
            tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
            finish_upload(self.model, folder, repo_id, self.args.hub_token, tokenizer=tokenizer, facts=facts)

    def _measured(self) -> dict[str, Any]:
        """What this run knows about itself, as in the `metrics.json` of `fit`."""
        state, args = self.state, self.args
        splits = {"train": self.train_dataset, "validation": self.eval_dataset}
        rows = {split: len(rows) for split, rows in splits.items() if hasattr(rows, "__len__")}
        metrics: dict[str, Any] = {"seed": args.seed, "rows": rows, **about_run(self.model)}
        # At the end, the best model has been loaded; before, the present one is what was last evaluated, or newer.
        best = args.load_best_model_at_end and 0 < state.max_steps <= state.global_step
        step = state.best_global_step if best and state.best_metric is not None else state.global_step
        found = [entry for entry in state.log_history if entry.get("step") == step and "eval_loss" in entry]
        if found:
            metrics["validation"] = {name.removeprefix("eval_"): found[-1][name] for name in found[-1]}
        return metrics

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        lacking = set(load_result.missing_keys)
        # A tied weight is saved under one of its names only.
        every = self.model.named_parameters(remove_duplicate=False)
        found = {id(value) for name, value in every if name not in lacking}
        trained = ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)
        missing = [name for name, value in trained if id(value) not in found]
        if missing or load_result.unexpected_keys:
            raise LiminalError(
                "The checkpoint does not fit this model. Missing: "
                f"{sorted(missing)[:5]}; unexpected: {sorted(load_result.unexpected_keys)[:5]}. "
                "Train into another folder, or with the recipe that wrote the checkpoint."
            )


def encoder_depths(names: list[str]) -> dict[str, int]:
    """How many layers below the top each encoder parameter lies: 0 in the top layer, `num_layers` in the embeddings.

    `names` are the encoder's parameter names in the order of the module. What comes before the first numbered layer
    counts as embeddings, what comes after the last (a final norm) as top.
    """
    layers = {name: int(match.group(1)) for name in names if (match := _LAYER.search(name))}
    count = max(layers.values(), default=-1) + 1
    depths, outside = {}, count
    for name in names:
        outside = 0 if name in layers else outside
        depths[name] = count - 1 - layers[name] if name in layers else outside
    return depths


def _collator(dataset: Any, tokenizer: Any, seconds: int) -> Any:
    has_states = "pooled_embeds" in (getattr(dataset, "column_names", None) or ())
    collate: Any = default_data_collator if tokenizer is None or has_states else DataCollatorWithPadding(tokenizer)
    if not has_states and is_processor(processor_of(tokenizer)):
        collate = SignalCollator(processor_of(tokenizer), seconds)
    return lambda rows: collate([_with_missing_labels(row) for row in rows])


def _with_missing_labels(row: Any) -> Any:
    labels = row.get("labels") if isinstance(row, Mapping) else None
    if not isinstance(labels, list | tuple) or None not in labels:
        return row
    return {**row, "labels": [float(MISSING_LABEL) if label is None else label for label in labels]}
