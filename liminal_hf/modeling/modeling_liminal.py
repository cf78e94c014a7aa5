"""LIMINAL on top of any encoder: the base model, and the model with a loss.

Requires torch and transformers. Tokens (or samples, or pixels) go through the encoder, the pooler and the head; the
labels meet the prediction only in the loss.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .checkpointing import CheckpointedModel
from .configuration_liminal import LiminalConfig
from .depth import LayerReading, may_stop_early
from .domain import widened
from .encoders import check_encoder, collect_layers_from_the_start, position_limit, remember_layers_again
from .errors import LiminalError
from .heads import HEADS, HeadInput, HeadOutput, heads_that_read
from .heads_published import LiminalV1 as LiminalV1  # transformers copies what is imported here to the Hub
from .heads_v7 import LiminalV7 as LiminalV7
from .heads_v8 import LiminalV8 as LiminalV8
from .losses import LOSSES, training_loss
from .memory import ConversationMemory
from .outputs import LiminalModelOutput, LiminalPADOutput
from .padding import checked_mask, justified_index, justify, restore_outputs
from .persons import PersonMemory, person_turn
from .pooling import LayerPooler
from .senses import build_encoder, check_sense, frame_mask, main_input, signal_inputs

# What `LiminalForPADRegression` keeps to itself; `model.liminal` gives it.
_ONLY_OF_THE_BASE_MODEL = ("answer", "latent", "log_variance", "last_hidden_state")


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
            LiminalError: this head has no memory.

        Example:
            >>> model = LiminalModel(LiminalConfig(pooled_size=8, latent_size=16))
            >>> memory = model.initial_memory(batch_size=2)
            >>> for turn in torch.randn(3, 2, 8):
            ...     memory = model(pooled_embeds=turn, memory=memory).memory
            >>> memory.turn.tolist()
            [3, 3]
        """
        if not self.base.head.has_memory:
            heads = ", ".join(heads_that_read("memory"))
            raise LiminalError(f"Head {self.config.head!r} as configured has no memory. Heads with one: {heads}.")
        config = self.config
        weight = next(self.base.head.parameters(), torch.empty(0))
        device = None if weight.device.type == "meta" else weight.device  # meta: weights that are offloaded
        return ConversationMemory.empty(
            batch_size, config.memory_slots, config.latent_size, device, weight.dtype, config.num_labels
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
        torch.Size([2, 1, 3])
    """

    def __init__(self, config: LiminalConfig, encoder: PreTrainedModel | None = None) -> None:
        config.check()
        super().__init__(config)
        self.encoder: Any = None
        self.pooler: Any = None
        self.max_tokens = None
        has_encoder = config.text_config is not None
        self.main_input_name = main_input(config)
        if has_encoder:
            self.encoder = build_encoder(config.text_config) if encoder is None else encoder
            self.pooler = LayerPooler(config)
            collect_layers_from_the_start(self.encoder)
            check_encoder(self.encoder, all_layers=config.pooled_layers != "last")
            self.max_tokens = position_limit(self.encoder)
        pooled_size = self.pooler.output_size if has_encoder else config.pooled_size
        self._encoder_takes = set(inspect.signature(self.encoder.forward).parameters) if has_encoder else set()
        self.head = HEADS.entry_for(config, config.head)(config, pooled_size)
        self.pooled_size = pooled_size
        if has_encoder and (config.domain_gauge or any(True for _ in self.pooler.parameters())):
            self._keep_in_fp32_modules_strict = ["head", "pooler"]
        self.post_init()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.encoder is not None:
            remember_layers_again(self.encoder)

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings."""
        self._require_encoder("embeddings")
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the encoder's token embeddings."""
        self._require_encoder("embeddings")
        self.encoder.set_input_embeddings(value)

    def _require_encoder(self, what: str) -> None:
        if self.encoder is None:
            raise LiminalError(
                f"This model has no encoder (text_config=None), so it has no {what}: give pooled_embeds."
            )

    def pool(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The pooled states of the texts, `(batch, pooled_size)`: what `pooled_embeds` takes and a cache may keep.

        Arguments as in `forward`, those of sounds and images, too.
        """
        inputs = dict(kwargs, input_ids=input_ids, inputs_embeds=inputs_embeds, token_type_ids=token_type_ids)
        encoded, mask, _ = self._encode(inputs, attention_mask)
        return self._pool(encoded, mask)[0]

    def _encoder_inputs(
        self, inputs: dict[str, Any], attention_mask: Tensor | None
    ) -> tuple[dict[str, Any], Any, Tensor | None]:
        """Checks and justifies; returns what the encoder takes, the mask (of signals perhaps None), and the index."""
        self._require_encoder("use for tokens")
        inputs = {name: value for name, value in inputs.items() if value is not None}
        check_sense(self.main_input_name, inputs)
        index = None
        if self.main_input_name == "input_ids":
            mask: Any = checked_mask(
                self.config, self.max_tokens, inputs.get("input_ids"), inputs.get("inputs_embeds"), attention_mask
            )
            index = justified_index(mask)  # (batch, length), or None
            inputs = justify({**inputs, "attention_mask": mask}, index)  # real tokens first
            mask = inputs["attention_mask"]
        else:
            inputs, mask = signal_inputs(self.encoder, self.main_input_name, inputs, attention_mask)
            inputs |= {} if mask is None else {"attention_mask": mask}
        for name in ("attention_mask", "token_type_ids"):
            if name not in self._encoder_takes:
                inputs.pop(name, None)
        if "use_cache" in self._encoder_takes:
            inputs["use_cache"] = False
        return inputs, mask, index

    def _encode(
        self,
        inputs: dict[str, Any],
        attention_mask: Tensor | None,
        output_hidden_states: Any = False,
        output_attentions: bool = False,
    ) -> tuple[ModelOutput, Tensor, Tensor | None]:
        """Checks, justifies and encodes; returns the encoder's output, the mask, both justified, and the index."""
        inputs, mask, index = self._encoder_inputs(inputs, attention_mask)
        encoded = self.encoder(
            **inputs,
            output_hidden_states=self.config.pooled_layers != "last" or output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        if self.main_input_name != "input_ids":
            mask = frame_mask(self.encoder, mask, encoded.last_hidden_state)
        return encoded, mask, index

    def _pool(self, encoded: ModelOutput, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, pooled_size)` and the token states `(batch, length, hidden)`, in the precision of the head."""
        last = encoded.last_hidden_state
        dtype = next(self.head.parameters(), last).dtype
        all_layers = self.config.pooled_layers != "last"
        layers = tuple(state.to(dtype) for state in encoded.hidden_states) if all_layers else None
        return self.pooler(last.to(dtype), layers, mask)

    def _read_in_part(
        self, inputs: dict[str, Any], attention_mask: Tensor | None, given: dict[str, Any]
    ) -> tuple[HeadOutput, Tensor]:
        """What the head says where the encoder is read no further than needed, and the states that all texts have.

        The states are `(batch, pooled_size)`, with zeros for all layers but the first that is read.
        """
        inputs, mask, _ = self._encoder_inputs(inputs, attention_mask)
        self.head.check(HeadInput(mask, **given))
        reading = LayerReading(self, mask, given["num_outer_steps"])
        output = reading.run(inputs)
        pooled = reading.first.new_zeros(len(mask), self.pooled_size)
        start = self.head.layers[0] * self.config.hidden_size
        pooled[:, start : start + self.config.hidden_size] = reading.first
        return output, pooled

    def _checked_pooled(self, pooled_embeds: Tensor, *tokens: Tensor | None) -> Tensor:
        if any(value is not None for value in tokens):
            raise LiminalError(f"Give exactly one of {self.main_input_name}, inputs_embeds and pooled_embeds.")
        if pooled_embeds.dim() != 2 or pooled_embeds.shape[1] != self.pooled_size:
            shape = tuple(pooled_embeds.shape)
            raise LiminalError(
                f"pooled_embeds must have shape (batch, {self.pooled_size}) for this model, got {shape}."
            )
        return pooled_embeds.to(next(self.head.parameters(), pooled_embeds).dtype)

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
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        pixel_values: Tensor | None = None,
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
            input_values (`torch.FloatTensor` of shape `(batch, samples)`), input_features (`(batch, bins, length)`):
                sounds, for an encoder that reads them; `attention_mask` is then that of the samples or spectra.
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`): images.

        Raises:
            LiminalError: no input or two inputs, one that the encoder does not read, a wrong shape, a row with no
                token, a text too long for the encoder, an input that this head does not use.
        """
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        if output_attentions is None:
            output_attentions = bool(self.config.output_attentions)
        given: dict[str, Any] = {
            "affect": affect,
            "initial_answer": initial_answer,
            "memory": memory,
            "num_outer_steps": num_outer_steps,
            "num_inner_steps": num_inner_steps,
        }
        encoder_outputs: dict[str, Any] = {}
        signals = {"input_values": input_values, "input_features": input_features, "pixel_values": pixel_values}
        tokens_given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "token_type_ids": token_type_ids}
        inputs = {**kwargs, **tokens_given, **signals}
        # How many frames a sound has is known only afterwards, so signals are read to the end.
        in_full = output_hidden_states or output_attentions or self.main_input_name != "input_ids"
        if pooled_embeds is None and not in_full and may_stop_early(self.head, num_outer_steps):
            output, pooled = self._read_in_part(inputs, attention_mask, given)
        else:
            tokens = mask = None
            if pooled_embeds is None:
                encoded, mask, index = self._encode(inputs, attention_mask, output_hidden_states, output_attentions)
                pooled, tokens = self._pool(encoded, mask)  # (batch, pooled_size), (batch, length, hidden)
                encoder_outputs = restore_outputs(encoded, index, output_hidden_states, output_attentions)
            else:
                pooled = self._checked_pooled(pooled_embeds, input_ids, inputs_embeds, *signals.values())
            given["affect"] = None if affect is None else affect.to(pooled.dtype)
            head_input = HeadInput(pooled * self.config.pooled_scale, **given, tokens=tokens, token_mask=mask)
            self.head.check(head_input)
            output = self.head(head_input)  # pad_trajectory (batch, K, T)
        count = output.pad_trajectory.shape[-1]
        if count != self.config.num_labels:
            raise LiminalError(
                f"Head {self.config.head!r} gives {count} targets and the config names {self.config.num_labels} "
                f"({', '.join(self.config.targets)}). Its readout must have config.num_labels columns."
            )
        gauge = getattr(self.pooler, "domain", None)
        in_domain = None if gauge is None else gauge(pooled)  # (batch,)
        return LiminalModelOutput(**output, in_domain=in_domain, **encoder_outputs)


class LiminalForPADRegression(LiminalPreTrainedModel):
    """`LiminalModel` with the loss: the targets of a text, by default pleasure, arousal and dominance, in label units.

    `training_loss` says what the loss is made of.

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
        self.main_input_name = self.liminal.main_input_name
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
        person: PersonMemory | None = None,
        person_time: Tensor | float | None = None,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        pixel_values: Tensor | None = None,
        **kwargs: Any,
    ) -> LiminalPADOutput:
        """Predicts PAD, and computes the loss when labels are given.

        Args:
            labels (`torch.FloatTensor` of shape `(batch, T)`): a column per target; -100 marks a missing one.
                They never reach the prediction.
            num_items_in_batch: number of labels in all micro-batches of one update; the Trainer gives it.
            person: what is known of who wrote each row; `adjusted` is `logits` shifted by their earlier ratings, by
                `PersonPrior.of_model(config)`, and equal to it, bit for bit, where there are none.
            person_time: `(batch,)` or one number, the turn's time; None: one later. Only with `person`.

        All other arguments are those of `LiminalModel.forward`.

        Raises:
            LiminalError: labels of a wrong shape or with a NaN, and whatever `LiminalModel.forward` raises.
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
            input_values=input_values,
            input_features=input_features,
            pixel_values=pixel_values,
            return_dict=True,
            **kwargs,
        )
        loss = None
        if labels is not None:
            loss = training_loss(self.config, self.liminal.head, output, labels, num_items_in_batch)
        logits = output.pad_trajectory[:, -1].contiguous()  # (batch, T)
        uncertainty = self._uncertainty(output.log_variance, output.in_domain)  # (batch, T)
        prediction = LiminalPADOutput(
            loss=loss,
            logits=logits,
            uncertainty=uncertainty,
            **person_turn(person, logits, uncertainty, self.config, person_time),
            **{name: value for name, value in output.items() if name not in _ONLY_OF_THE_BASE_MODEL},
        )
        if torch.jit.is_tracing():  # takes nothing but tensors and tuples of them
            values = prediction.to_tuple()
            traced: Any = tuple(value if isinstance(value, Tensor) else value.to_tuple() for value in values)
            return traced
        return prediction

    def _uncertainty(self, log_variance: Tensor | None, in_domain: Tensor | None) -> Tensor | None:
        """Standard deviations of the last answer in label units."""
        if log_variance is None:
            return None
        last = log_variance if log_variance.dim() == 2 else log_variance[:, -1]
        config = self.config
        deviations = config.label_std if self.liminal.head.z_scored else [1.0] * config.num_labels
        scale = [deviation * factor for deviation, factor in zip(deviations, config.uncertainty_scale, strict=True)]
        uncertainty = torch.exp(0.5 * last) * last.new_tensor(scale)
        return uncertainty if in_domain is None else widened(uncertainty, in_domain, config.label_range)


__all__ = [
    "LiminalForPADRegression",
    "LiminalModel",
    "LiminalModelOutput",
    "LiminalPADOutput",
    "LiminalPreTrainedModel",
]
