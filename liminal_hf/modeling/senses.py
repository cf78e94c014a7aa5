"""What an encoder reads, texts, sounds or images: which part of a model it is, and which of its states are real.

Requires torch and transformers. Sounds come as `input_values` (samples) or `input_features` (spectra), images as
`pixel_values`. No speech and no pretrained weights of such encoders were at hand: nothing here is measured on affect.
"""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedConfig, PreTrainedModel

from .configuration_liminal import check_encoder_config
from .errors import LiminalError

# What each input of an encoder is, and what makes it.
INPUTS = {"input_ids": "text", "input_values": "audio", "input_features": "audio", "pixel_values": "image"}
_MADE_BY = {
    "text": "model(**tokenizer(texts, padding=True, return_tensors='pt'))",
    "audio": "model(**feature_extractor(clips, sampling_rate=..., padding=True, return_tensors='pt'))",
    "image": "model(**image_processor(images, return_tensors='pt'))",
}


def main_input(config: Any) -> str:
    """The name of what the encoder reads, one of `INPUTS`; "input_ids" where there is no encoder.

    Args:
        config: of a model of ours or of an encoder; None is no encoder.

    Example:
        >>> from transformers import BertConfig, ViTConfig, Wav2Vec2Config, WhisperConfig
        >>> [main_input(config()) for config in (BertConfig, ViTConfig, Wav2Vec2Config, WhisperConfig)]
        ['input_ids', 'pixel_values', 'input_values', 'input_features']
    """
    config = config.text_config if getattr(config, "model_type", None) == "liminal" else config
    if config is None or type(config) in AutoModelForTextEncoding._model_mapping:
        return "input_ids"
    return str(getattr(_model_class(AutoModel, config), "main_input_name", "input_ids"))


def sense(config: Any) -> str:
    """What the encoder reads: "text", "audio" or "image". Arguments as in `main_input`.

    Example:
        >>> from transformers import CLIPVisionConfig
        >>> sense(CLIPVisionConfig()), sense(None)
        ('image', 'text')
    """
    return INPUTS.get(main_input(config), main_input(config))


def _model_class(auto: Any, config: PreTrainedConfig) -> Any:
    found = auto._model_mapping.get(type(config), None)
    return found[0] if isinstance(found, tuple | list) else found


def encoder_part(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the part that is read: of CLIP, SigLIP and kin the image's, else the config itself.

    Example:
        >>> from transformers import BertConfig, CLIPConfig
        >>> encoder_part(CLIPConfig()).model_type, encoder_part(BertConfig()).model_type
        ('clip_vision_model', 'bert')
    """
    vision = getattr(config, "vision_config", None)
    if vision is not None and not hasattr(config, "hidden_size") and type(vision) in AutoModel._model_mapping:
        config = vision
    if getattr(config, "vision_use_head", False):  # SigLIP's pooling, which nothing reads
        config = copy.deepcopy(config)
        config.vision_use_head = False
    return config


def encoder_class(text_config: PreTrainedConfig) -> Any:
    """`AutoModelForTextEncoding` where it knows the config (T5's encoder half), else `AutoModel`."""
    # Not by `is_encoder_decoder`: T5EncoderModel sets that flag to False in place.
    return AutoModelForTextEncoding if type(text_config) in AutoModelForTextEncoding._model_mapping else AutoModel


def encoder_half(model: PreTrainedModel) -> PreTrainedModel:
    """Whisper's encoder out of the whole; any other model as it is."""
    if INPUTS.get(model.main_input_name) == "audio" and model.config.is_encoder_decoder and hasattr(model, "decoder"):
        return model.get_encoder()
    return model


def build_encoder(text_config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder with fresh weights, without the pooling layer that some families bring.

    Args:
        text_config: config of the encoder.

    Raises:
        LiminalError: the family reads neither texts nor sounds nor images.

    Example:
        >>> from transformers import BertConfig
        >>> size = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> build_encoder(BertConfig(vocab_size=9, **size)).pooler is None
        True
    """
    auto = encoder_class(text_config)
    return encoder_half(auto.from_config(text_config, **encoder_options(auto, text_config)))


def load_config(source: str, **kwargs: Any) -> PreTrainedConfig:
    """The config of a pretrained encoder, of a model with several parts that of the part that is read."""
    return encoder_part(AutoConfig.from_pretrained(source, **kwargs))


def encoder_options(auto: Any, text_config: PreTrainedConfig) -> dict[str, bool]:
    """What the family's class is built with, once it is clear that it reads something that we can give."""
    check_encoder_config(text_config)
    family, model_class = text_config.model_type, _model_class(auto, text_config)
    if model_class is None:
        raise LiminalError(f"transformers has no AutoModel for the family {family!r}: it can't be an encoder.")
    if model_class.main_input_name not in INPUTS:
        raise LiminalError(
            f"The encoder family {family!r} reads {model_class.main_input_name}. Allowed: "
            "encoders and decoders of text, and encoders of sounds and images, such as BERT, Qwen, wav2vec2 or ViT."
        )
    accepts = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if accepts else {}


def check_sense(wanted: str, inputs: dict[str, Any], has_encoder: bool = True) -> None:
    """Raises a LiminalError where the model is given the input of another kind of encoder.

    Args:
        wanted: the model's own input, see `main_input`.
        inputs: those that were given, by name.
        has_encoder: whether there is an encoder at all.
    """
    wrong = [name for name in INPUTS if name != wanted and inputs.get(name) is not None]
    if wanted != "input_ids" and inputs.get("inputs_embeds") is not None:
        wrong.append("inputs_embeds")
    kind = INPUTS[wanted]
    if wrong and has_encoder:
        reads = {"text": "texts", "audio": "sounds", "image": "images"}[kind]
        raise LiminalError(f"This model reads {reads}: give {wanted}, not {wrong[0]}. Type: {_MADE_BY[kind]}")
    if kind != "text" and inputs.get(wanted) is None:
        raise LiminalError(f"Give exactly one of {wanted} and pooled_embeds. Type: {_MADE_BY[kind]}")


def signal_inputs(
    encoder: PreTrainedModel, wanted: str, inputs: dict[str, Any], mask: Tensor | None
) -> tuple[dict[str, Any], Tensor | None]:
    """Checks what an encoder of sounds or images is given; returns it in the encoder's precision, and the mask.

    Args:
        encoder: the encoder.
        wanted: the name of its input.
        inputs: as given to the model, the padding of samples on the right.
        mask: `(batch, length)`, 1 on real samples or spectra; None: all are real.

    Raises:
        LiminalError: a wrong shape; padding that is not on the right; a clip with nothing in it, or too short for one
            frame; numbers that are not finite.
    """
    signal = inputs[wanted]
    if not isinstance(signal, Tensor) or signal.dim() not in {"pixel_values": (4,)}.get(wanted, (2, 3)):
        shape = tuple(signal.shape) if isinstance(signal, Tensor) else type(signal).__name__
        raise LiminalError(f"{wanted} must be a tensor of a batch, got {shape}. Type: {_MADE_BY[INPUTS[wanted]]}")
    if mask is not None and INPUTS[wanted] == "image":
        raise LiminalError("An image has no padding: leave attention_mask out.")
    is_spectrum = wanted == "input_features" and hasattr(encoder.config, "num_mel_bins")  # (batch, bins, length)
    length = signal.shape[2 if is_spectrum else 1]
    if mask is not None and mask.shape != (signal.shape[0], length):  # `len` would fix the size of an exported batch
        raise LiminalError(
            f"attention_mask must have the shape (batch, length) of {wanted}, got {tuple(mask.shape)} for "
            f"{tuple(signal.shape)}. Ask the feature extractor for it: return_attention_mask=True"
        )
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
        if not bool(torch.isfinite(signal).all()):
            raise LiminalError(f"{wanted} hold NaN or infinite numbers. Look at the files that they came from.")
        if mask is not None and bool((mask[:, 1:] > mask[:, :-1]).any()):
            raise LiminalError("Clips must be padded on the right: set feature_extractor.padding_side = 'right'.")
        samples = torch.full((signal.shape[0],), length) if mask is None else mask.sum(1)
        frames = frame_counts(encoder, samples) if INPUTS[wanted] == "audio" else samples
        if bool((frames < 1).any()):
            row = int((frames < 1).nonzero()[0])
            raise LiminalError(
                f"Row {row} is too short: {int(samples[row])} samples make no frame of this "
                f"{encoder.config.model_type!r} encoder. Leave the clip out, or give more of it."
            )
    return {**inputs, wanted: signal.to(encoder.dtype)}, mask


def frame_counts(encoder: PreTrainedModel, samples: Tensor) -> Tensor:
    """How many states the encoder gives for so many samples (or spectra), `(batch,)`; as many, where it says nothing.

    Example:
        >>> from transformers import Wav2Vec2Config
        >>> config = Wav2Vec2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        >>> frame_counts(build_encoder(config), torch.tensor([399, 400, 16000])).tolist()
        [0, 1, 49]
    """
    counts = getattr(encoder, "_get_feat_extract_output_lengths", None)
    return samples if counts is None else counts(samples).to(torch.long)


def frame_mask(encoder: PreTrainedModel, mask: Tensor | None, states: Tensor) -> Tensor:
    """Which states of an encoder stand for something real, `(batch, frames)` int64.

    Args:
        encoder: that has given the states.
        mask: of its input, `(batch, length)`, padding on the right; None: all are real, as with images.
        states: `(batch, frames, hidden)`.

    Raises:
        LiminalError: the encoder does not say how its frames follow from its input.
    """
    if mask is None:
        return torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    counts = frame_counts(encoder, mask.sum(1))
    if not hasattr(encoder, "_get_feat_extract_output_lengths") and mask.shape[1] != states.shape[1]:
        raise LiminalError(
            f"A {encoder.config.model_type!r} encoder does not say which of its states are padding: give clips one by "
            "one, without attention_mask."
        )
    return (torch.arange(states.shape[1], device=states.device) < counts[:, None].to(states.device)).long()


def sample_inputs(config: PreTrainedConfig, rows: int = 1, frames: int = 12) -> dict[str, Tensor]:
    """Noise that an encoder of sounds or images can read, for a first try and for an export.

    Args:
        config: of the encoder.
        rows: in the batch.
        frames: about so many states for each row, where the encoder takes any number.

    Example:
        >>> from transformers import Wav2Vec2Config
        >>> {name: tuple(value.shape) for name, value in sample_inputs(Wav2Vec2Config(), rows=2).items()}
        {'input_values': (2, 3920)}
    """
    wanted, generator = main_input(config), torch.Generator().manual_seed(frames)
    shape: tuple[int, ...]
    if wanted == "pixel_values":
        size = getattr(config, "image_size", 224)
        shape = (getattr(config, "num_channels", 3), *((size, size) if isinstance(size, int) else size))
    elif hasattr(config, "conv_stride"):
        samples = frames
        for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
            samples = (samples - 1) * stride + kernel
        shape = (samples,)
    elif hasattr(config, "num_mel_bins"):
        if wanted == "input_features":
            shape = (config.num_mel_bins, 2 * config.max_source_positions)
        else:
            shape = (config.max_length, config.num_mel_bins)
    else:
        shape = (frames, getattr(config, "feature_projection_input_dim", 80))
    return {wanted: torch.randn(rows, *shape, generator=generator)}
