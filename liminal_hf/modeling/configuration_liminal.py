"""The configuration of a LIMINAL model: a nested encoder config and everything that the head needs.

Requires transformers. All values are plain JSON, so that `config.json` alone describes the model.
"""

import difflib
import inspect
import math
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING

DIMENSIONS = ("pleasure", "arousal", "dominance")
# Marks a label that is not there, as in the Trainer.
MISSING_LABEL = -100
CONFIG_VERSION = 1
# The published heads refine the latent four times between answers; ours was measured to need one.
_INNER_STEPS = {"v1": 4, "v2": 4, "v3": 4, "v4": 4, "v6": 4}
# v6 as published remembers 100 outer steps; ours remembers turns.
_MEMORY_SLOTS = {"v6": 100}
_LAYERS = ("last", "mix", "all")
_LIMITS = {
    "latent_size": (1, 16_384),
    "num_outer_steps": (1, 256),
    "num_inner_steps": (1, 256),
    "memory_slots": (3, 65_536),
    "max_seq_length": (1, 1_000_000),
}
# Several times the largest models of today. A file that asks for more is damaged, or wants to fill the memory.
_ENCODER_LIMITS = {
    "hidden_size": 131_072,
    "intermediate_size": 1_048_576,
    "num_hidden_layers": 1_024,
    "num_attention_heads": 4_096,
    "vocab_size": 16_777_216,
    "max_position_embeddings": 67_108_864,
}
_MOST_WEIGHTS = {"text_config": 10**13, "head": 2**31, "memory": 2**28}


class LiminalConfig(PreTrainedConfig):
    """Describes a `LiminalModel`.

    Args:
        text_config: config of the encoder (a `PreTrainedConfig` or a dict with `model_type`). None together with
            `pooled_size` means a model with no encoder, fed with `pooled_embeds`; None alone means the shape of
            all-MiniLM-L6-v2.
        head: name in `HEADS`: "v1", "v2", "v3", "v4", "v6" (as published), "v7" (ours), "linear", "mlp", or a plugin's.
        pooling: name in `POOLERS`: "mean", "cls", "max", "last_token", "attention"; None takes the default of the
            encoder's family.
        pooled_layers: "last", "mix" (a learned weighted mean of all layers) or "all" (all layers concatenated).
        pooled_size: width of `pooled_embeds`; only for a model with no encoder.
        pooled_scale: one global factor on the pooled states, so that their root mean square is near 1.
        latent_size: width d of the latent z and the answer y.
        num_outer_steps: K, refinements of the answer; may be overridden per call.
        num_inner_steps: n, refinements of the latent within one outer step; None takes the head's own (4 as
            published, 1 for v7).
        head_dropout: dropout probability on the pooled states in v7, linear and mlp.
        project_pooled: whether v1..v6 own a learned projection from `pooled_size` to `latent_size`; False passes the
            pooled states on as they are (then both sizes must be equal).
        token_attention: whether v7 reads the encoder's tokens again at every step.
        linear_skip: whether v7 adds a linear regression of the pooled states to every answer.
        history_attention, self_affect, rinse, soul_kernel: v7's mechanisms; each can be switched off for an ablation.
        memory_slots: how many entries a `ConversationMemory` holds; None takes the head's own (100 for v6, 8 for v7).
        loss: name in `LOSSES`: "mse", "huber", "ccc", "mse_ccc", "gaussian_nll".
        deep_supervision: share of the loss that falls on the intermediate answers, 0..1 (v7).
        uncertainty_weight: weight of the likelihood that trains `uncertainty` (v7).
        confidence_weight: weight of the loss that ties the confidences to the size of the error (v7).
        label_mean, label_std: mean and standard deviation of the training labels per dimension, in label units; the
            heads that predict z-scores are scaled back with them, so that `logits` are in label units.
        label_range: lowest and highest possible label; pipelines clamp to it.
        uncertainty_scale: factor per dimension on `uncertainty`, calibrated on a development set.
        prediction_quantiles: per dimension, evenly spaced quantiles of this model's own predictions on its training
            texts; pipelines turn a prediction into a percentile with them.
        max_seq_length: tokens per text in pipelines and recipes; longer texts are truncated there.
        encoder_name_or_path, encoder_revision: where the encoder came from (a Hub id and a commit); a head-only
            checkpoint needs them, a full one keeps them for the record.
        plugins: which installed distribution gave the head, the pooler or the loss, as 'name==version' by kind; the
            model writes it, and whoever lacks the plugin is told what to install.
        weights_format: "full", or "head_only" for a folder whose encoder weights must be fetched from
            `encoder_name_or_path`.

    Raises:
        ValueError: a field is out of its range, or a name is a misspelt one; the message names the field and what is
            allowed. Other unknown names are kept as transformers keeps them.

    Example:
        >>> config = LiminalConfig(pooled_size=768, head="v7", num_outer_steps=3)
        >>> config.text_config is None, config.num_labels, config.id2label[0]
        (True, 3, 'pleasure')
    """

    model_type = "liminal"
    sub_configs = {"text_config": AutoConfig}
    keys_to_ignore_at_inference = [
        "pad_trajectory",
        "step_attentions",
        "reflection",
        "memory",
        "answer",
        "latent",
        "log_variance",
        "last_hidden_state",
        "hidden_states",
        "attentions",
    ]

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        head: str = "v7",
        pooling: str | None = None,
        pooled_layers: str = "last",
        pooled_size: int | None = None,
        pooled_scale: float = 1.0,
        latent_size: int = 128,
        num_outer_steps: int = 5,
        num_inner_steps: int | None = None,
        head_dropout: float = 0.1,
        project_pooled: bool = True,
        token_attention: bool = False,
        linear_skip: bool = False,
        history_attention: bool = True,
        self_affect: bool = True,
        rinse: bool = True,
        soul_kernel: bool = True,
        memory_slots: int | None = None,
        loss: str = "mse",
        deep_supervision: float = 0.5,
        uncertainty_weight: float = 0.1,
        confidence_weight: float = 0.1,
        label_mean: list[float] | None = None,
        label_std: list[float] | None = None,
        label_range: list[float] | None = None,
        uncertainty_scale: list[float] | None = None,
        prediction_quantiles: list[list[float]] | None = None,
        max_seq_length: int = 128,
        encoder_name_or_path: str | None = None,
        encoder_revision: str | None = None,
        plugins: dict[str, str] | None = None,
        weights_format: str = "full",
        initializer_range: float = 0.02,
        config_version: int = CONFIG_VERSION,
        **kwargs: Any,
    ) -> None:
        encoder_config: Any = text_config
        if isinstance(text_config, dict):
            encoder_config = CONFIG_MAPPING[_known_model_type(text_config)](**text_config)
        elif text_config is None and pooled_size is None:
            encoder_config = CONFIG_MAPPING["bert"](
                hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
            )
        # Set before super().__init__, which reads attributes that pass through to it.
        self.text_config = encoder_config
        self.head = head
        self.pooling = pooling
        self.pooled_layers = pooled_layers
        self.pooled_size = pooled_size if encoder_config is None else None
        self.pooled_scale = pooled_scale
        self.latent_size = latent_size
        self.num_outer_steps = num_outer_steps
        self.num_inner_steps = _INNER_STEPS.get(head, 1) if num_inner_steps is None else num_inner_steps
        self.head_dropout = head_dropout
        self.project_pooled = project_pooled
        self.token_attention = token_attention
        self.linear_skip = linear_skip
        self.history_attention = history_attention
        self.self_affect = self_affect
        self.rinse = rinse
        self.soul_kernel = soul_kernel
        self.memory_slots = _MEMORY_SLOTS.get(head, 8) if memory_slots is None else memory_slots
        self.loss = loss
        self.deep_supervision = deep_supervision
        self.uncertainty_weight = uncertainty_weight
        self.confidence_weight = confidence_weight
        self.label_mean = [0.0] * 3 if label_mean is None else list(label_mean)
        self.label_std = [1.0] * 3 if label_std is None else list(label_std)
        self.label_range = [-1.0, 1.0] if label_range is None else list(label_range)
        self.uncertainty_scale = [1.0] * 3 if uncertainty_scale is None else list(uncertainty_scale)
        self.prediction_quantiles = prediction_quantiles
        self.max_seq_length = max_seq_length
        self.encoder_name_or_path = encoder_name_or_path
        self.encoder_revision = encoder_revision
        self.plugins = {} if plugins is None else dict(plugins)
        self.weights_format = weights_format
        self.initializer_range = initializer_range
        self.config_version = config_version
        kwargs.setdefault("id2label", dict(enumerate(DIMENSIONS)))
        kwargs.setdefault("label2id", {name: index for index, name in enumerate(DIMENSIONS)})
        kwargs.setdefault("problem_type", "regression")
        if __name__.startswith("liminal_hf."):
            # The installed package has registered the task itself. Left in, transformers would ask for
            # `trust_remote_code` although no code from the repository is going to run; saving writes it back.
            kwargs.pop("custom_pipelines", None)
        _refuse_misspelt(kwargs)
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        if not isinstance(self.config_version, int) or self.config_version > CONFIG_VERSION:
            raise ValueError(
                f"This checkpoint was written with config version {self.config_version!r}; this liminal_hf reads up to "
                f"{CONFIG_VERSION}. Upgrade it: pip install -U liminal_hf"
            )
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"LiminalConfig: {name} must be a whole number in {low}..{high}, got {value!r}.")
        if self.pooled_size is not None and not (isinstance(self.pooled_size, int) and 1 <= self.pooled_size <= 10**6):
            raise ValueError(
                f"LiminalConfig: pooled_size must be a whole number in 1..1000000, got {self.pooled_size!r}."
            )
        if self.pooled_layers not in _LAYERS:
            raise ValueError(f"LiminalConfig: pooled_layers must be one of {_LAYERS}, got {self.pooled_layers!r}.")
        if self.weights_format not in ("full", "head_only"):
            raise ValueError(
                f"LiminalConfig: weights_format must be 'full' or 'head_only', got {self.weights_format!r}."
            )
        for name in ("head_dropout", "deep_supervision"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"LiminalConfig: {name} must be a number in 0..1, got {value!r}.")
        for name in ("label_mean", "label_std", "uncertainty_scale"):
            value = getattr(self, name)
            if len(value) != 3 or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
                raise ValueError(f"LiminalConfig: {name} must hold three finite numbers (P, A, D), got {value!r}.")
        if min(self.label_std) <= 0 or min(self.uncertainty_scale) <= 0:
            raise ValueError("LiminalConfig: label_std and uncertainty_scale must be positive.")
        if len(self.label_range) != 2 or not self.label_range[0] < self.label_range[1]:
            raise ValueError(
                f"LiminalConfig: label_range must be [low, high] with low < high, got {self.label_range!r}."
            )
        self._check_sizes()

    def _check_sizes(self) -> None:
        """What would fill the memory is an error before anything is built."""
        for name, most in _ENCODER_LIMITS.items():
            value = getattr(self.text_config, name, None)
            if isinstance(value, int) and not 0 <= value <= most:
                raise ValueError(f"LiminalConfig: text_config.{name} must be in 0..{most}, got {value}.")
        width, layers = self.hidden_size, self.num_hidden_layers
        pooled = width * (layers + 1 if self.pooled_layers == "all" else 1)
        weights = {
            "text_config": layers * 4 * width**2 + self.vocab_size * width,
            "head": pooled * self.latent_size,
            "memory": self.memory_slots * self.latent_size,
        }
        for name, number in weights.items():
            if number > _MOST_WEIGHTS[name]:
                raise ValueError(
                    f"LiminalConfig: the sizes of the {name} ask for {number:.1e} numbers, more than the "
                    f"{_MOST_WEIGHTS[name]:.1e} that are taken. Lower hidden_size, latent_size or memory_slots."
                )

    # What callers of transformers expect to find on any model's config belongs to the encoder here.
    @property
    def hidden_size(self) -> int:
        """Width of the encoder's states, or of `pooled_embeds` where there is no encoder."""
        return self.pooled_size if self.text_config is None else self.text_config.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of the encoder's layers; 0 without an encoder."""
        return 0 if self.text_config is None else self.text_config.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        """Number of the encoder's attention heads; 0 without an encoder."""
        return 0 if self.text_config is None else self.text_config.num_attention_heads

    @property
    def vocab_size(self) -> int:
        """Size of the encoder's vocabulary; 0 without an encoder."""
        return 0 if self.text_config is None else self.text_config.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        if self.text_config is not None:
            self.text_config.vocab_size = value

    @property
    def pad_token_id(self) -> int | None:
        """Id of the encoder's padding token."""
        return getattr(self.text_config, "pad_token_id", None)

    @pad_token_id.setter
    def pad_token_id(self, value: int | None) -> None:
        if self.text_config is not None:
            self.text_config.pad_token_id = value


def _refuse_misspelt(given: dict[str, Any]) -> None:
    """transformers keeps any unknown name without a word; one that is nearly a field of ours is a mistake."""
    fields = [name for name in inspect.signature(LiminalConfig.__init__).parameters if name not in ("self", "kwargs")]
    for name in given:
        close = difflib.get_close_matches(name, fields, n=1, cutoff=0.85)
        if close:
            raise ValueError(f"LiminalConfig has no field {name!r}. Did you mean {close[0]!r}?")


def _known_model_type(text_config: dict[str, Any]) -> str:
    model_type = text_config.get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"LiminalConfig: text_config names the model_type {model_type!r}, which this version of transformers does "
            "not know. Upgrade transformers, or give the config object of the encoder itself."
        )
    return model_type
