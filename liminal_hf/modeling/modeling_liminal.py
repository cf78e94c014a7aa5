"""LIMINAL on top of any encoder: the base model, the PAD regression model and their outputs.

Requires torch and transformers. Tokens go through the encoder, the pooler and the head; the labels meet the
prediction only in the loss.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .checkpointing import CheckpointedModel
from .configuration_liminal import MISSING_LABEL, LiminalConfig
from .encoders import build_encoder, collect_layers_from_the_start, family
from .errors import LiminalError
from .heads import HEADS, HeadInput, HeadOutput
from .losses import LOSSES
from .memory import ConversationMemory
from .pooling import LayerPooler


@dataclass
class LiminalModelOutput(ModelOutput):
    """Output of `LiminalModel`; a field that the head does not have is None.

    Args:
        pad_trajectory (`torch.FloatTensor` of shape `(batch, K, T)`): the targets after each outer step.
        confidences (`torch.FloatTensor` of shape `(batch, K)`): per step, in 0..1, as trained and not calibrated;
            a pipeline's `confidence` follows `uncertainty` instead.
        step_attentions (`torch.FloatTensor` of shape `(batch, K, K)`): row k is step k's attention over the steps so
            far, zeros after.
        reflection (`torch.FloatTensor` of shape `(batch, latent_size / 4)`): RINSE, in -1..1.
        answer, latent (`torch.FloatTensor` of shape `(batch, latent_size)`): y and z after the last step.
        log_variance (`torch.FloatTensor` of shape `(batch, T)`): of the last answer, in units of the labels' standard
            deviation.
        memory (`ConversationMemory`): the conversation after this turn.
        last_hidden_state (`torch.FloatTensor` of shape `(batch, length, hidden)`): the encoder's last layer.
        hidden_states, attentions (`tuple[torch.FloatTensor]`): the encoder's, when asked for.
    """

    pad_trajectory: Tensor | None = None
    confidences: Tensor | None = None
    step_attentions: Tensor | None = None
    reflection: Tensor | None = None
    answer: Tensor | None = None
    latent: Tensor | None = None
    log_variance: Tensor | None = None
    memory: ConversationMemory | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class LiminalPADOutput(ModelOutput):
    """Output of `LiminalForPADRegression`; a field that the head does not have is None.

    Args:
        loss (`torch.FloatTensor` of shape `()`): when labels were given.
        logits (`torch.FloatTensor` of shape `(batch, T)`): the targets in label units, not clamped.
        pad_trajectory (`torch.FloatTensor` of shape `(batch, K, T)`): the same after each outer step.
        confidences (`torch.FloatTensor` of shape `(batch, K)`): per step, in 0..1, as trained and not calibrated;
            a pipeline's `confidence` follows `uncertainty` instead.
        step_attentions (`torch.FloatTensor` of shape `(batch, K, K)`): row k is step k's attention over the steps so
            far, zeros after.
        reflection (`torch.FloatTensor` of shape `(batch, latent_size / 4)`): RINSE, in -1..1.
        uncertainty (`torch.FloatTensor` of shape `(batch, T)`): standard deviation of `logits`, in label units.
        memory (`ConversationMemory`): the conversation after this turn.
        hidden_states, attentions (`tuple[torch.FloatTensor]`): the encoder's, when asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    pad_trajectory: Tensor | None = None
    confidences: Tensor | None = None
    step_attentions: Tensor | None = None
    reflection: Tensor | None = None
    uncertainty: Tensor | None = None
    memory: ConversationMemory | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class LiminalPreTrainedModel(CheckpointedModel):
    """What both models share: initialisation, the memory, freezing."""

    config_class = LiminalConfig
    base_model_prefix = "liminal"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # A head in half precision loses what it learned about small differences; it costs nothing beside the encoder.
    # `LiminalModel` adds the pooler where it has weights.
    _keep_in_fp32_modules_strict = ["head"]
    _no_split_modules: list[str] = []

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: modules of ours own their parameters, so the library may initialise what a checkpoint lacks."""
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if hasattr(module, "reset_own_parameters"):
            reset: Any = module.reset_own_parameters
            reset()
        elif isinstance(module, nn.Linear):
            # The scale of torch's own default, without its dependence on the layer's place.
            init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @property
    def base(self) -> "LiminalModel":
        """The `LiminalModel` inside, or the model itself."""
        base: Any = getattr(self, self.base_model_prefix, self)
        return base

    def initial_memory(self, batch_size: int = 1) -> ConversationMemory:
        """The memory before the first turn.

        Args:
            batch_size: number of conversations.

        Raises:
            ValueError: this head has no memory.

        Example:
            >>> model = LiminalModel(LiminalConfig(pooled_size=8, latent_size=16))
            >>> memory = model.initial_memory(batch_size=2)
            >>> for turn in torch.randn(3, 2, 8):
            ...     memory = model(pooled_embeds=turn, memory=memory).memory
            >>> memory.turn.tolist()
            [3, 3]
        """
        if not self.base.head.has_memory:
            raise ValueError(f"Head {self.config.head!r} has no memory. Heads with one: v6, v7.")
        weight = next(self.base.head.parameters())
        return ConversationMemory.empty(
            batch_size,
            self.config.memory_slots,
            self.config.latent_size,
            device=weight.device,
            dtype=weight.dtype,
            num_targets=self.config.num_labels,
        )

    def freeze_encoder(self) -> None:
        """Stops training the encoder; it also stays in evaluation mode (no dropout) from now on."""
        if self.base.encoder is not None:
            self.base.encoder.requires_grad_(False)
            self.base.encoder.eval()

    def train(self, mode: bool = True) -> "LiminalPreTrainedModel":
        """As in `nn.Module`, but an encoder that is frozen as a whole keeps its dropout off."""
        super().train(mode)
        encoder = getattr(self.base, "encoder", None)
        if encoder is not None and not any(parameter.requires_grad for parameter in encoder.parameters()):
            encoder.eval()
        return self


class LiminalModel(LiminalPreTrainedModel):
    """Encoder, pooler and recursive head; gives the PAD trajectory and everything that the head knows, no loss.

    Args:
        config: a `LiminalConfig`; with `text_config=None` there is no encoder and `pooled_embeds` must be given.
        encoder: a pretrained encoder to use instead of building an empty one from the config.

    Example:
        >>> model = LiminalModel(LiminalConfig(pooled_size=8, latent_size=16))
        >>> model(pooled_embeds=torch.randn(2, 8)).pad_trajectory.shape
        torch.Size([2, 5, 3])
    """

    def __init__(self, config: LiminalConfig, encoder: PreTrainedModel | None = None) -> None:
        config.check()
        super().__init__(config)
        has_encoder = config.text_config is not None
        self.encoder = (build_encoder(config.text_config) if encoder is None else encoder) if has_encoder else None
        self.pooler = LayerPooler(config) if has_encoder else None
        if has_encoder and config.pooled_layers != "last":
            collect_layers_from_the_start(self.encoder)
        pooled_size = self.pooler.output_size if has_encoder else config.pooled_size
        self.head = HEADS.entry_for(config, config.head)(config, pooled_size)
        self.pooled_size = pooled_size
        if has_encoder and any(True for _ in self.pooler.parameters()):
            self._keep_in_fp32_modules_strict = ["head", "pooler"]
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings."""
        self._require_encoder("get_input_embeddings")
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the encoder's token embeddings."""
        self._require_encoder("set_input_embeddings")
        self.encoder.set_input_embeddings(value)

    def _require_encoder(self, what: str) -> None:
        if self.encoder is None:
            raise ValueError(
                f"This model has no encoder (text_config=None), so {what} can't be used: give pooled_embeds."
            )

    def pool(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """The pooled states of the texts, `(batch, pooled_size)`: what `pooled_embeds` takes and a cache may keep.

        Arguments as in `forward`.
        """
        return self._encode(input_ids, attention_mask, token_type_ids, inputs_embeds)[0]

    def _encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        self._require_encoder("tokens")
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("Give exactly one of input_ids, inputs_embeds and pooled_embeds.")
        attention_mask = self._checked_mask(given, input_ids, attention_mask)
        # Real tokens first: absolute positions, causal attention and poolers then never see the padding side.
        place = _place_after_justifying(attention_mask)
        mask = _justify(attention_mask, place)
        accepted = inspect.signature(self.encoder.forward).parameters
        inputs: dict[str, Any] = {"attention_mask": mask}
        for name, value in (
            ("input_ids", input_ids),
            ("inputs_embeds", inputs_embeds),
            ("token_type_ids", token_type_ids),
        ):
            if value is not None and (name != "token_type_ids" or name in accepted):
                inputs[name] = _justify(value, place)
        if "use_cache" in accepted:
            inputs["use_cache"] = False
        all_layers = self.config.pooled_layers != "last"
        output = self.encoder(
            **inputs,
            output_hidden_states=all_layers or output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **kwargs,
        )
        dtype = next(self.head.parameters()).dtype
        last = output.last_hidden_state.to(dtype)
        layers = tuple(state.to(dtype) for state in output.hidden_states) if all_layers else None
        pooled, tokens = self.pooler(last, layers, mask)
        hidden_states = output.hidden_states if output_hidden_states else None
        attentions = output.get("attentions") if output_attentions else None
        if isinstance(output_hidden_states, list | tuple):
            # transformers lets a caller name some layers; the others are None.
            number = len(hidden_states)
            kept = {index % number for index in output_hidden_states}
            hidden_states = tuple(state if index in kept else None for index, state in enumerate(hidden_states))
        if (hidden_states or attentions) and (_is_tracing() or _has_moved(place)):
            # Where nothing has moved, the encoder's own tensors go out: a gradient can be asked of them.
            hidden_states = _map(_restore, hidden_states, place)
            attentions = _map(_restore_both, attentions, place)
        return pooled, tokens, mask, _restore(output.last_hidden_state, place), hidden_states, attentions

    def _checked_mask(self, given: Tensor, input_ids: Tensor | None, mask: Tensor | None) -> Tensor:
        tracing = _is_tracing()
        limit = family(self.config.text_config).max_tokens(self.config.text_config)
        if limit is not None and given.shape[1] > limit:
            raise ValueError(
                f"The text has {given.shape[1]} tokens and this encoder takes at most {limit}. Truncate it: "
                f"tokenizer(text, truncation=True, max_length={limit}); pipeline('pad-regression') does so by itself."
            )
        vocabulary = self.config.vocab_size
        if input_ids is not None and not tracing and bool(((input_ids < 0) | (input_ids >= vocabulary)).any()):
            raise ValueError(
                f"input_ids hold {int(input_ids.min())}..{int(input_ids.max())} and this encoder's vocabulary has "
                f"{vocabulary} tokens: the tokenizer is that of another model. Load it from where the model came from."
            )
        if mask is None:
            pad = self.config.pad_token_id
            if input_ids is not None and pad is not None and not tracing and bool((input_ids == pad).any()):
                raise ValueError(
                    "input_ids hold padding but there is no attention_mask. Pass on everything that the tokenizer "
                    "returns: model(**tokenizer(texts, padding=True, return_tensors='pt'))."
                )
            return torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        if mask.shape != given.shape[:2]:
            raise ValueError(
                f"attention_mask must have the shape (batch, length) of the tokens, {tuple(given.shape[:2])}; got "
                f"{tuple(mask.shape)}."
            )
        if not tracing and bool((mask.sum(1) == 0).any()):
            row = int((mask.sum(1) == 0).nonzero()[0])
            raise ValueError(f"Row {row} has no token at all (empty text?). Every text needs at least one token.")
        return mask.to(torch.long)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pooled_embeds: Tensor | None = None,
        affect: Tensor | None = None,
        initial_answer: Tensor | None = None,
        memory: ConversationMemory | None = None,
        num_outer_steps: int | None = None,
        num_inner_steps: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> LiminalModelOutput:
        """Runs encoder, pooler and head.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): tokens.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`): 1 on real tokens, 0 on padding, on any side.
            token_type_ids (`torch.LongTensor` of shape `(batch, length)`): for encoders that have them.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, hidden)`): instead of `input_ids`.
            pooled_embeds (`torch.FloatTensor` of shape `(batch, pooled_size)`): instead of tokens, vectors from
                `pool` or, for a model with no encoder, from anywhere.
            affect (`torch.FloatTensor` of shape `(batch, T)`): values of the targets in label units, for example
                the previous turn's; never the labels.
            initial_answer (`torch.FloatTensor` of shape `(batch, latent_size)`): the first answer y; default zeros.
            memory: the conversation so far (`initial_memory` before the first turn); None makes the call stateless.
            num_outer_steps, num_inner_steps: K and n of this call; default the config's.
            output_hidden_states, output_attentions: whether to return the encoder's.

        Raises:
            ValueError: no input or two inputs, a wrong shape, a row with no token, a text too long for the encoder.
        """
        for name, value in (("num_outer_steps", num_outer_steps), ("num_inner_steps", num_inner_steps)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        if output_attentions is None:
            output_attentions = bool(self.config.output_attentions)
        tokens = token_mask = last_hidden_state = hidden_states = attentions = None
        if pooled_embeds is None:
            pooled, tokens, token_mask, last_hidden_state, hidden_states, attentions = self._encode(
                input_ids,
                attention_mask,
                token_type_ids,
                inputs_embeds,
                output_hidden_states,
                output_attentions,
                **kwargs,
            )
        else:
            if input_ids is not None or inputs_embeds is not None:
                raise ValueError("Give exactly one of input_ids, inputs_embeds and pooled_embeds.")
            if pooled_embeds.dim() != 2 or pooled_embeds.shape[1] != self.pooled_size:
                raise ValueError(
                    f"pooled_embeds must have shape (batch, {self.pooled_size}) for this model, got "
                    f"{tuple(pooled_embeds.shape)}."
                )
            pooled = pooled_embeds.to(next(self.head.parameters()).dtype)
        batch = pooled.shape[0]
        self._check_rows("affect", affect, (batch, self.config.num_labels))
        self._check_rows("initial_answer", initial_answer, (batch, self.config.latent_size))
        if memory is not None:
            if not self.head.has_memory:
                raise ValueError(f"Head {self.config.head!r} has no memory; heads with one: v6, v7. Leave memory out.")
            memory.check(batch, self.config.memory_slots, self.config.latent_size, self.config.num_labels)
        output: HeadOutput = self.head(
            HeadInput(
                pooled=pooled * self.config.pooled_scale,
                affect=None if affect is None else affect.to(pooled.dtype),
                initial_answer=initial_answer,
                memory=memory,
                tokens=tokens,
                token_mask=token_mask,
                num_outer_steps=num_outer_steps,
                num_inner_steps=num_inner_steps,
            )
        )
        return LiminalModelOutput(
            pad_trajectory=output.pad_trajectory,
            confidences=output.confidences,
            step_attentions=output.step_attentions,
            reflection=output.reflection,
            answer=output.answer,
            latent=output.latent,
            log_variance=output.log_variance,
            memory=output.memory,
            last_hidden_state=last_hidden_state,
            hidden_states=hidden_states,
            attentions=attentions,
        )

    @staticmethod
    def _check_rows(name: str, value: Tensor | None, shape: tuple[int, int]) -> None:
        if value is not None and tuple(value.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(value.shape)}.")


class LiminalForPADRegression(LiminalPreTrainedModel):
    """`LiminalModel` with the loss: pleasure, arousal and dominance of a text, in the scale of its labels.

    The loss is that of the config on the last answer, mixed by `deep_supervision` with the same on all answers
    (weights growing with the step); v7 adds the likelihood of its uncertainty and ties each step's confidence to
    exp(-|error|) of that step (mean of the dimensions, in standard deviations of the labels).

    Args:
        config: a `LiminalConfig`.
        encoder: a pretrained encoder to use instead of building an empty one from the config.

    Example:
        >>> model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16))
        >>> output = model(pooled_embeds=torch.randn(2, 8), labels=torch.zeros(2, 3))
        >>> output.logits.shape, output.loss.shape
        (torch.Size([2, 3]), torch.Size([]))
    """

    def __init__(self, config: LiminalConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.liminal = LiminalModel(config, encoder=encoder)
        self.num_labels = config.num_labels
        LOSSES.entry_for(config, config.loss)  # an unknown loss is an error now, not at the first step
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings."""
        return self.liminal.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the encoder's token embeddings."""
        self.liminal.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        pooled_embeds: Tensor | None = None,
        affect: Tensor | None = None,
        initial_answer: Tensor | None = None,
        memory: ConversationMemory | None = None,
        num_outer_steps: int | None = None,
        num_inner_steps: int | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> LiminalPADOutput:
        """Predicts PAD, and computes the loss when labels are given.

        Args:
            labels (`torch.FloatTensor` of shape `(batch, T)`): a column per target; -100 marks a missing one.
                They never reach the prediction.
            num_items_in_batch: number of labels in all micro-batches of one update; the Trainer gives it.

        All other arguments are those of `LiminalModel.forward`.

        Raises:
            ValueError: labels of a wrong shape or with a NaN, and whatever `LiminalModel.forward` raises.
        """
        output = self.liminal(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            inputs_embeds=inputs_embeds,
            pooled_embeds=pooled_embeds,
            affect=affect,
            initial_answer=initial_answer,
            memory=memory,
            num_outer_steps=num_outer_steps,
            num_inner_steps=num_inner_steps,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            **kwargs,
        )
        loss = None if labels is None else self._loss(output, labels, num_items_in_batch)
        return LiminalPADOutput(
            loss=loss,
            logits=output.pad_trajectory[:, -1].contiguous(),
            uncertainty=self._uncertainty(output.log_variance),
            pad_trajectory=output.pad_trajectory,
            confidences=output.confidences,
            step_attentions=output.step_attentions,
            reflection=output.reflection,
            memory=output.memory,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def _uncertainty(self, log_variance: Tensor | None) -> Tensor | None:
        if log_variance is None:
            return None
        scale = [s * c for s, c in zip(self.config.label_std, self.config.uncertainty_scale, strict=True)]
        return torch.exp(0.5 * log_variance) * log_variance.new_tensor(scale)

    def _loss(self, output: LiminalModelOutput, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
        trajectory, head, config = output.pad_trajectory, self.liminal.head, self.config
        if labels.shape != trajectory[:, -1].shape:
            names = ", ".join(config.targets)
            raise LiminalError(
                f"labels must have shape {tuple(trajectory[:, -1].shape)}, a column per target ({names}), got "
                f"{tuple(labels.shape)}."
            )
        mask = labels.ne(MISSING_LABEL)
        if not torch.compiler.is_compiling() and bool(torch.isnan(labels).any()):
            raise ValueError(f"labels hold a NaN. Mark a missing label with {MISSING_LABEL}.")
        if isinstance(num_items, Tensor):
            num_items = num_items.to(trajectory.device)
        mask = mask.to(trajectory.dtype)
        targets = head.from_label_units(labels.to(trajectory.dtype))
        steps = head.from_label_units(trajectory)
        log_variance = output.log_variance

        def measure(predictions: Tensor, name: str = config.loss) -> Tensor:
            return LOSSES[name](predictions, targets, mask, num_items, log_variance)

        loss = measure(steps[:, -1])
        number = steps.shape[1]
        if head.supervises_steps and number > 1 and config.deep_supervision > 0:
            total = number * (number + 1) / 2
            path = sum((k + 1) / total * measure(steps[:, k]) for k in range(number))
            loss = (1 - config.deep_supervision) * loss + config.deep_supervision * path
        if log_variance is not None and config.uncertainty_weight > 0:
            nll = LOSSES["gaussian_nll"](steps[:, -1].detach(), targets, mask, num_items, log_variance)
            loss = loss + config.uncertainty_weight * nll
        if head.supervises_steps and output.confidences is not None and config.confidence_weight > 0:
            closeness = torch.exp(-(steps.detach() - targets[:, None]).abs())
            misfit = (output.confidences[..., None] - closeness).square().mean(1)
            count = mask.sum().clamp_min(1) if num_items is None else num_items
            loss = loss + config.confidence_weight * (misfit * mask).sum() / count
        return loss


def _is_tracing() -> bool:
    """Whether the values of tensors can't be looked at."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _place_after_justifying(mask: Tensor) -> Tensor:
    """Where each position goes when real tokens move to the front in order, `(batch, length)`."""
    real = mask.ne(0).long()
    front = real.cumsum(1) - 1
    back = real.sum(1, keepdim=True) + (1 - real).cumsum(1) - 1
    return torch.where(real.bool(), front, back)


def _has_moved(place: Tensor) -> bool:
    return not torch.equal(place, torch.arange(place.shape[1], device=place.device).expand_as(place))


def _map(
    function: Callable[[Tensor, Tensor], Tensor], values: tuple[Tensor | None, ...] | None, place: Tensor
) -> tuple[Tensor | None, ...] | None:
    return None if values is None else tuple(None if value is None else function(value, place) for value in values)


def _justify(values: Tensor, place: Tensor) -> Tensor:
    """Moves `(batch, length, ...)` to the places."""
    index = place if values.dim() == 2 else place[..., None].expand_as(values)
    return torch.zeros_like(values).scatter(1, index, values)


def _restore(values: Tensor, place: Tensor) -> Tensor:
    """Undoes `_justify` on `(batch, length, size)`."""
    return values.gather(1, place[..., None].expand_as(values))


def _restore_both(weights: Tensor, place: Tensor) -> Tensor:
    """Undoes `_justify` on both sides of `(batch, heads, length, length)`."""
    rows = place[:, None, :, None].expand_as(weights)
    columns = place[:, None, None, :].expand_as(weights)
    return weights.gather(2, rows).gather(3, columns)


__all__ = [
    "LiminalForPADRegression",
    "LiminalModel",
    "LiminalModelOutput",
    "LiminalPADOutput",
    "LiminalPreTrainedModel",
]
