"""The configuration of a LIMINAL model: a nested encoder config and everything that the head needs.

Requires transformers. All values are plain JSON, so that `config.json` alone describes the model.
"""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto import CONFIG_MAPPING

from .config_checks import check_fields
from .errors import LiminalError
from .targets import DIMENSIONS as DIMENSIONS
from .targets import MISSING_LABEL as MISSING_LABEL
from .targets import checked_names, find_pad, target_names

CONFIG_VERSION = 2
# Version 1 read these decoders by their last token where a config names no pooler; since then it is the mean.
_LAST_TOKEN_IN_VERSION_1 = ("bloom", "gemma3_text", "gpt2", "llama", "mistral", "qwen2", "qwen3")
# The published heads refine the latent four times between answers; ours was measured to need one.
_INNER_STEPS = {"v1": 4, "v2": 4, "v3": 4, "v4": 4, "v6": 4}
# The published heads refine the answer five times; on pooled states one step is as good (scripts/results/ablations.md).
_OUTER_STEPS = {"v1": 5, "v2": 5, "v3": 5, "v4": 5, "v6": 5}
# v6 as published remembers 100 outer steps; ours remembers turns.
_MEMORY_SLOTS = {"v6": 100}


class LiminalConfig(PreTrainedConfig):
    """Describes a `LiminalModel`.

    Args:
        text_config: config of the encoder (a `PreTrainedConfig` or a dict with `model_type`), also where it reads
            sounds or images. None together with `pooled_size` means a model with no encoder, fed with `pooled_embeds`;
            None alone means the shape of all-MiniLM-L6-v2.
        head: name in `HEADS`: "v1", "v2", "v3", "v4", "v6" (as published), "v7", "v8" (ours), "linear", "mlp", or a
            plugin's.
        pooling: name in `POOLERS`: "mean", "mean_after_first", "cls", "max", "last_token", "attention"; None is "mean".
        pooled_layers: "last", "mix" (a learned weighted mean of all layers) or "all" (all layers concatenated); None is
            "last", and "all" for v8, whose steps read one layer each.
        pooled_size: width of `pooled_embeds`; only for a model with no encoder.
        pooled_scale: one global factor on the pooled states, so that their root mean square is near 1.
        latent_size: width d of the latent z and the answer y.
        num_outer_steps: K, refinements of the answer; may be overridden per call. None takes the head's own: 5 as
            published, 1 for v7, and for v8 as many as it reads layers of the encoder.
        num_inner_steps: n, refinements of the latent within one outer step; None takes the head's own (4 as
            published, 1 for v7 and v8).
        depth_every: v8 reads every so many layers of the encoder, and the last one.
        exit_threshold: v8 stops reading a text where it expects to gain no more than that by reading on (`gains`); None
            reads all of them. A text whose gain is that to the last digit may stop at another layer in a batch of
            another size.
        head_dropout: dropout probability on the pooled states in v7, v8, linear and mlp.
        project_pooled: whether v1..v6 own a learned projection from `pooled_size` to `latent_size`; False passes the
            pooled states on as they are (then both sizes must be equal).
        token_attention: whether v7 reads the encoder's tokens again at every step.
        linear_skip: whether v7 and v8 add a linear regression of the pooled states to every answer.
        history_attention, self_affect, rinse, soul_kernel: v7's mechanisms; each can be switched off for an ablation.
            With K = 1 no step reads RINSE's reflection, and it is not trained.
        memory_slots: how many entries a `ConversationMemory` holds; None takes the head's own (100 for v6, 8 for v7).
        loss: name in `LOSSES`: "mse", "huber", "ccc", "mse_ccc", "gaussian_nll".
        deep_supervision: share of the loss that falls on the intermediate answers, 0..1 (v7, v8).
        uncertainty_weight: weight of the likelihood that trains `uncertainty` (v7, v8).
        exit_weight: weight of the squared error of `gains` (v8); predictions do not move with it.
        confidence_weight: weight of the loss that ties the confidences to the size of the error (v7).
        targets: names of what the model predicts, in the order of the labels' columns; 1 or more. Default: pleasure,
            arousal, dominance. `num_labels`, `id2label` and `label2id` follow them.
        label_mean, label_std: mean and standard deviation of the training labels, a number per target, in label units;
            the heads that predict z-scores are scaled back with them, so that `logits` are in label units.
        labels_measured: whether `label_mean` and `label_std` hold measured values; None means: when they are given.
        trained_targets: per target, whether the training had any label of it; a target without one gets no answer.
        label_range: lowest and highest possible label; pipelines clamp to it.
        uncertainty_scale: factor per target on `uncertainty`, calibrated on a development set.
        prediction_quantiles: per target, evenly spaced quantiles of this model's own predictions on its training
            texts; pipelines turn a prediction into a percentile with them.
        residual_quantiles: per target, quantiles of the standardised errors on a development set, at (i + .5) / n;
            intervals follow them. None takes the standard normal.
        neutral_point, neutral_width: per target, the zone `point - width` .. `point + width` where raters call a text
            neutral, in label units. None takes the middle of `label_range`, and 1.25 times `label_std`.
        person_prior: what a recipe's `data.person` has found out about how persons differ, as the fields of a
            `PersonPrior`, each a list of a number per target. None: `PersonPrior.of_model` is a guess.
        domain_gauge: whether the model says how much a text is like its training texts (`in_domain`).
        max_seq_length: tokens per text, or seconds per sound, in pipelines and recipes; the rest is truncated.
        encoder_name_or_path, encoder_revision: where the encoder came from (a Hub id and a commit); a head-only
            checkpoint needs them, a full one keeps them for the record.
        encoder_layers: how many of the encoder's layers are used, from the bottom; None means all. The layers above are
            not loaded, saved or run.
        plugins: which installed distribution gave the head, the pooler or the loss, as 'name==version' by kind; the
            model writes it, and whoever lacks the plugin is told what to install.
        weights_format: "full", or "head_only" for a folder whose encoder weights must be fetched from
            `encoder_name_or_path`.

    Raises:
        LiminalError: a field is out of its range, two fields contradict each other, or a name is a misspelt one; the
            message names the field and what is allowed. Other unknown names are kept as transformers keeps them.

    Example:
        >>> config = LiminalConfig(pooled_size=768, head="v7", num_outer_steps=3)
        >>> config.text_config is None, config.num_labels, config.id2label[0]
        (True, 3, 'pleasure')
        >>> LiminalConfig(pooled_size=768, targets=["valence", "arousal"]).num_labels
        2
    """

    model_type = "liminal"
    sub_configs = {"text_config": AutoConfig}
    keys_to_ignore_at_inference = [
        "pad_trajectory",
        "confidences",
        "uncertainty",
        "adjusted",
        "adjusted_uncertainty",
        "person",
        "in_domain",
        "step_attentions",
        "reflection",
        "memory",
        "answer",
        "latent",
        "log_variance",
        "gains",
        "depth",
        "last_hidden_state",
        "hidden_states",
        "attentions",
    ]

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        head: str = "v7",
        pooling: str | None = None,
        pooled_layers: str | None = None,
        pooled_size: int | None = None,
        pooled_scale: float = 1.0,
        latent_size: int = 128,
        num_outer_steps: int | None = None,
        num_inner_steps: int | None = None,
        depth_every: int = 1,
        exit_threshold: float | None = None,
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
        exit_weight: float = 0.1,
        targets: list[str] | None = None,
        label_mean: list[float] | None = None,
        label_std: list[float] | None = None,
        labels_measured: bool | None = None,
        trained_targets: list[bool] | None = None,
        label_range: list[float] | None = None,
        uncertainty_scale: list[float] | None = None,
        prediction_quantiles: list[list[float]] | None = None,
        residual_quantiles: list[list[float]] | None = None,
        neutral_point: list[float] | None = None,
        neutral_width: list[float] | None = None,
        person_prior: dict[str, list[float]] | None = None,
        domain_gauge: bool = False,
        max_seq_length: int = 128,
        encoder_name_or_path: str | None = None,
        encoder_revision: str | None = None,
        encoder_layers: int | None = None,
        plugins: dict[str, str] | None = None,
        weights_format: str = "full",
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
        if encoder_config is not None:
            check_encoder_config(encoder_config)
        if config_version == 1:
            if pooling is None and getattr(encoder_config, "model_type", None) in _LAST_TOKEN_IN_VERSION_1:
                pooling = "last_token"
            config_version = CONFIG_VERSION
        # Set before super().__init__, which reads attributes that pass through to it.
        self.text_config = encoder_config
        self.head = head
        self.pooling = pooling
        self.pooled_layers = pooled_layers or ("all" if head == "v8" and encoder_config is not None else "last")
        self.pooled_size = pooled_size if encoder_config is None else None
        self.pooled_scale = pooled_scale
        self.latent_size = latent_size
        self.depth_every = depth_every
        self.exit_threshold = exit_threshold
        if num_outer_steps is None:
            num_outer_steps = len(self.depth_layers) if head == "v8" else _OUTER_STEPS.get(head, 1)
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
        self.exit_weight = exit_weight
        names = target_names(targets, kwargs)
        self.label_mean = [0.0] * len(names) if label_mean is None else list(label_mean)
        self.label_std = [1.0] * len(names) if label_std is None else list(label_std)
        given = label_mean is not None or label_std is not None
        self.labels_measured = given if labels_measured is None else labels_measured
        self.trained_targets = [True] * len(names) if trained_targets is None else list(trained_targets)
        self.label_range = [-1.0, 1.0] if label_range is None else list(label_range)
        self.uncertainty_scale = [1.0] * len(names) if uncertainty_scale is None else list(uncertainty_scale)
        self.prediction_quantiles = prediction_quantiles
        self.residual_quantiles = residual_quantiles
        self.neutral_point = neutral_point
        self.neutral_width = neutral_width
        self.person_prior = None if person_prior is None else dict(person_prior)
        self.domain_gauge = domain_gauge
        self.max_seq_length = max_seq_length
        self.encoder_name_or_path = encoder_name_or_path
        self.encoder_revision = encoder_revision
        self.encoder_layers = encoder_layers
        self.plugins = {} if plugins is None else dict(plugins)
        self.weights_format = weights_format
        self.config_version = config_version
        kwargs["id2label"] = dict(enumerate(names))
        kwargs["label2id"] = {name: index for index, name in enumerate(names)}
        kwargs.setdefault("problem_type", "regression")
        kwargs.pop("initializer_range", None)  # older configs have it, and nothing reads it
        if __name__.startswith("liminal_hf."):
            # The installed package has registered the task itself. Left in, transformers would ask for
            # `trust_remote_code` although no code from the repository is going to run; saving writes it back.
            kwargs.pop("custom_pipelines", None)
        _refuse_misspelt(kwargs)
        super().__init__(**kwargs)
        self.check()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; of the tasks that the config names, `pipeline` sees the one that it asks for.

        It refuses to choose among several where it is given none; "pad-regression" is the one then.
        """
        task = kwargs.get("_from_pipeline")
        loaded = super().from_pretrained(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if tasks := getattr(config, "custom_pipelines", None):
            name = "text-classification" if task == "sentiment-analysis" else task or "pad-regression"
            config.custom_pipelines = {task or name: tasks[name]} if name in tasks else {}
        return loaded

    def __setattr__(self, name: str, value: Any) -> None:
        """Keeps what belongs together in step, also when a field is set later."""
        super().__setattr__(name, value)
        if name == "id2label" and value:
            super().__setattr__("label2id", {label: int(index) for index, label in value.items()})
        if name in ("label_mean", "label_std"):
            super().__setattr__("labels_measured", True)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain JSON values, `targets` among them."""
        return {**super().to_dict(), "targets": self.targets}

    @property
    def targets(self) -> list[str]:
        """Names of what the model predicts, in the order of the labels' columns."""
        names = self.id2label  # looking a field up takes transformers a while
        return [names[index] for index in sorted(names)]

    @targets.setter
    def targets(self, names: list[str]) -> None:
        names = checked_names(names)
        if len(names) != self.num_labels:
            raise LiminalError(
                f"This model has {self.num_labels} targets ({', '.join(self.targets)}) and can't get the {len(names)} "
                f"names {names}. Give as many, or a new model: LiminalConfig(targets={names})."
            )
        self.id2label = dict(enumerate(names))

    @property
    def num_labels(self) -> int:
        """How many targets there are."""
        return len(self.id2label or ())

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        if value != self.num_labels:
            raise LiminalError(
                f"num_labels is the number of targets, {self.num_labels} ({', '.join(self.targets)}), and can't be set "
                f"to {value}. For other targets: LiminalConfig(targets=[...])."
            )

    @property
    def depth_layers(self) -> list[int]:
        """Numbers of the encoder's layers that v8 reads, from 1 (0 is the embeddings), one for each of its steps."""
        count = self.num_hidden_layers
        if count == 0:  # no encoder, so there is one state for all steps
            return [0] * getattr(self, "num_outer_steps", 1)
        every = max(int(self.depth_every), 1)
        return [min(layer, count) for layer in range(every, count + every, every)]

    @property
    def neutral_zone(self) -> list[tuple[float, float]]:
        """Per target, the lowest and the highest value that counts as neutral, in label units."""
        points = self.neutral_point or [sum(self.label_range) / 2] * self.num_labels
        widths = self.neutral_width or [1.25 * deviation for deviation in self.label_std]
        return [(point - width, point + width) for point, width in zip(points, widths, strict=True)]

    @property
    def pad_indices(self) -> tuple[int, int, int] | None:
        """Columns of pleasure (or valence), arousal and dominance; None where one of the three is no target."""
        return find_pad(self.targets)

    @classmethod
    def get_config_dict(  # type: ignore[override]
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers; another kind of model is refused, where transformers would read it as ours."""
        content, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        model_type = content.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            name = str(pretrained_model_name_or_path)
            raise LiminalError(
                f"{name} is no LIMINAL checkpoint but a {model_type!r} model. To put a fresh head on it: "
                f"LiminalForPADRegression.from_encoder_pretrained({name!r})"
            )
        return content, unused

    def check(self) -> None:
        """Raises a LiminalError for a field that is out of its range; a model does so for its config, too."""
        if not isinstance(self.config_version, int) or self.config_version > CONFIG_VERSION:
            raise LiminalError(
                f"This checkpoint was written with config version {self.config_version!r}; this liminal_hf reads up to "
                f"{CONFIG_VERSION}. Upgrade it: pip install -U liminal_hf"
            )
        check_fields(self)

    # What callers of transformers expect to find on any model's config belongs to the encoder here.
    @property
    def hidden_size(self) -> Any:
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
        # CANINE has no vocabulary: it reads every code point of Unicode.
        return 0 if self.text_config is None else getattr(self.text_config, "vocab_size", 0x110000)

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


def check_encoder_config(text_config: PreTrainedConfig) -> None:
    """Raises a LiminalError for the config of a model that is no encoder of texts, or that only holds one."""
    missing = [name for name in ("hidden_size", "num_hidden_layers") if not hasattr(text_config, name)]
    if missing:
        raise LiminalError(
            f"The family {text_config.model_type!r} can't be an encoder here: its config has no {missing[0]}. Allowed: "
            "encoders and decoders of text, such as BERT, T5 or Qwen, and encoders of sounds and images, such as "
            "wav2vec2 or ViT; of a model with several parts give the one to read (config.text_config, vision_config)."
        )


def _fields() -> list[str]:
    return [name for name in inspect.signature(LiminalConfig.__init__).parameters if name not in ("self", "kwargs")]


def _refuse_misspelt(unknown: dict[str, Any]) -> None:
    """transformers keeps any unknown name without a word; one that is nearly a field of ours is a mistake."""
    for name in unknown:
        if close := difflib.get_close_matches(name, _fields(), n=1, cutoff=0.85):
            raise LiminalError(f"LiminalConfig has no field {name!r}. Did you mean {close[0]!r}?")


def refuse_unknown(names: Iterable[str]) -> None:
    """Raises a LiminalError for a name that is a field neither of ours nor of any config of transformers.

    Example:
        >>> refuse_unknown(["latent_size", "problem_type"])
        >>> refuse_unknown(["pooled_layer"])
        Traceback (most recent call last):
        liminal_hf.modeling.errors.LiminalError: LiminalConfig has no field 'pooled_layer'. Near: pooled_layers, ...
    """
    fields = _fields()
    known = {*fields, "num_labels", *inspect.signature(PreTrainedConfig.__init__).parameters} - {"self", "kwargs"}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, fields, n=3, cutoff=0.4)
            said = f"Near: {', '.join(near)}" if near else f"Fields: {', '.join(fields)}"
            raise LiminalError(f"LiminalConfig has no field {name!r}. {said}.")


def _known_model_type(text_config: dict[str, Any]) -> str:
    model_type: str = text_config.get("model_type", "")
    if model_type not in CONFIG_MAPPING:
        raise LiminalError(
            f"LiminalConfig: text_config names the model_type {model_type!r}, which this version of transformers does "
            "not know. Upgrade transformers, or give the config object of the encoder itself."
        )
    return model_type
