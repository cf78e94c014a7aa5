"""The door for sounds and images: each is read, checked and given to the encoder's own processor.

Requires torch and transformers. Files are read by transformers itself: sounds by `transformers.audio_utils.load_audio`
(the extra `audio`), images by `transformers.image_utils.load_image` (the extra `image`). Nothing is fetched from a URL.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoFeatureExtractor,
    AutoImageProcessor,
    FeatureExtractionMixin,
    ImageProcessingMixin,
    PreTrainedConfig,
)
from transformers.utils import cached_file

from .errors import LiminalError
from .senses import encoder_part, sense

MISSING_SIGNAL = "nothing (missing value)"
_LOADERS = {"audio": AutoFeatureExtractor, "image": AutoImageProcessor}
_MOST_CHANNELS = 8


def is_processor(tokenizer: Any) -> bool:
    """Whether something is the processor of sounds or images, and no tokenizer."""
    return isinstance(tokenizer, FeatureExtractionMixin | ImageProcessingMixin)


def processor_of(given: Any) -> Any:
    """The part of a `ProcessorMixin` (CLIP's, Whisper's) that reads sounds or images; anything else as it is."""
    parts = (getattr(given, name, None) for name in ("feature_extractor", "image_processor"))
    return next((part for part in parts if is_processor(part)), given)


def loader_of(content: Mapping[str, Any]) -> str:
    """The class that loads what goes with a model of ours or an encoder, from the content of its config.json.

    Example:
        >>> loader_of({"model_type": "clip"}), loader_of({"model_type": "bert"})
        ('AutoImageProcessor', 'AutoTokenizer')
    """
    # Without `AutoConfig`, which would run a checkpoint's own code.
    ours = content.get("model_type") == "liminal"
    kind = ((content.get("text_config") or {}) if ours else content).get("model_type")
    reads = sense(encoder_part(CONFIG_MAPPING[kind]())) if kind in CONFIG_MAPPING else "text"
    return _LOADERS[reads].__name__ if reads in _LOADERS else "AutoTokenizer"


def load_processor(source: str, revision: str | None = None, **kwargs: Any) -> Any:
    """The processor that lies with a checkpoint or an encoder of sounds or images; None for one of texts.

    Args:
        source: folder or Hub id.
        revision: branch, tag or commit on the Hub.
        kwargs: as for `AutoTokenizer.from_pretrained`.

    Raises:
        OSError: it can't be loaded.
    """
    kwargs = {name: value for name, value in kwargs.items() if name != "padding_side"}
    hub = {name: kwargs[name] for name in ("token", "cache_dir", "local_files_only") if name in kwargs}
    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    names = ("preprocessor_config.json", "processor_config.json")
    try:
        if not any(cached_file(source, name, revision=revision, **hub, **quiet) for name in names):
            return None
        content = PreTrainedConfig.get_config_dict(source, revision=revision, **hub)[0]
    except (OSError, ValueError):  # whoever loads the rest says what is wrong
        return None
    kind = next((kind for kind in _LOADERS.values() if kind.__name__ == loader_of(content)), None)
    return None if kind is None else kind.from_pretrained(source, revision=revision, **kwargs)


def read_signal(item: Any, processor: Any) -> Any:
    """One sound or image as the processor takes it.

    Args:
        item: of a sound a path, samples `(n,)` or `(channels, n)` (an array or tensor, at the processor's sampling
            rate), or a dict of `array` (or `raw`) and `sampling_rate`; of an image a path, an image of Pillow, or an
            array `(height, width)` or `(height, width, channels)`.
        processor: of the encoder.

    Returns:
        Samples `(n,)`, float32, numpy, several channels averaged; or an RGB image of Pillow.

    Raises:
        LiminalError: it can't be read; the message is short, as it stands in a row's `error`.
        ImportError: the extra is not installed.

    Example:
        >>> from transformers import Wav2Vec2FeatureExtractor
        >>> stereo = {"array": [[0.0, 1.0], [0.0, 0.0]], "sampling_rate": 16000}
        >>> read_signal(stereo, Wav2Vec2FeatureExtractor()).tolist()
        [0.0, 0.5]
    """
    if item is None or (isinstance(item, float) and item != item):
        raise LiminalError(MISSING_SIGNAL)
    if isinstance(item, Mapping) and item.get("path") and item.get("array", item.get("raw")) is None:
        item = item["path"]  # as `datasets` has them that are not decoded
    if isinstance(item, str | os.PathLike):
        if not Path(item).is_file():
            raise LiminalError(f"there is no file {str(item)[:80]!r}")
        item = str(item)
    return _sound(item, processor) if isinstance(processor, FeatureExtractionMixin) else _image(item)


def _sound(item: Any, processor: Any) -> Any:
    rate = processor.sampling_rate
    if isinstance(item, Mapping):
        values = item.get("array", item.get("raw"))
        given = item.get("sampling_rate")
        if values is None or given is None:
            raise LiminalError("a sound is a path, an array, or a dict of array and sampling_rate")
        if given != rate:
            raise LiminalError(
                f"sampled at {given} Hz, and the model wants {rate}: resample it, or give the path of the file"
            )
        item = values
    elif isinstance(item, str):
        item = _decoded(item, rate)
    return _checked_samples(item).numpy()


def _checked_samples(item: Any) -> Tensor:
    try:
        samples = torch.as_tensor(item)
    except (TypeError, ValueError, RuntimeError):
        raise LiminalError(f"not a sound: {type(item).__name__}") from None
    if samples.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise LiminalError(f"samples must be floating numbers, about -1..1, got {samples.dtype}")
    samples = samples.detach().float().cpu()
    if samples.dim() == 2 and min(samples.shape) <= _MOST_CHANNELS:
        samples = samples.mean(0 if samples.shape[0] <= samples.shape[1] else 1)
    if samples.dim() != 1:
        raise LiminalError(f"samples must have the shape (n,) or (channels, n), got {tuple(samples.shape)}")
    if not len(samples):
        raise LiminalError("empty")
    if not bool(torch.isfinite(samples).all()):
        raise LiminalError("holds NaN or infinite samples")
    if samples.min() == samples.max():
        raise LiminalError("silent: all samples are the same")
    return samples


def _decoded(path: str, rate: int) -> Any:
    from transformers.audio_utils import load_audio

    try:
        return load_audio(path, sampling_rate=rate)
    except ImportError as error:
        raise ImportError(f"Sound files need more packages: pip install 'liminal_hf[audio]' ({error})") from error
    except Exception as error:  # each decoder has errors of its own
        raise LiminalError(f"not a sound that can be read: {str(error).splitlines()[0][:120]}") from error


def _image(item: Any) -> Any:
    from transformers.image_transforms import to_pil_image
    from transformers.image_utils import load_image

    try:
        if not isinstance(item, str) and hasattr(item, "shape"):
            values = torch.as_tensor(item).detach().cpu()
            if not values.numel():
                raise LiminalError("empty")
            if values.is_floating_point() and not bool(torch.isfinite(values).all()):
                raise LiminalError("holds NaN or infinite numbers")
            item = to_pil_image((values[..., None] if values.dim() == 2 else values).numpy())
        return load_image(item)
    except ImportError as error:
        raise ImportError(f"Images need more packages: pip install 'liminal_hf[image]' ({error})") from error
    except LiminalError:
        raise
    except Exception as error:  # each decoder has errors of its own
        raise LiminalError(f"not an image that can be read: {str(error).splitlines()[0][:120]}") from error


@dataclass
class Signals:
    """Sounds or images that are read when their batch is, with the interface of `Tokens`.

    Args:
        processor: of the encoder.
        items: see `read_signal`.
        max_length: seconds of a sound that are read; what is longer is truncated, and marked so.

    Example:
        >>> from transformers import Wav2Vec2FeatureExtractor
        >>> clips = Signals(Wav2Vec2FeatureExtractor(return_attention_mask=True), [torch.randn(9), torch.randn(5)], 30)
        >>> batch = clips.batch(None, [0, 1])
        >>> batch["input_values"].shape, batch["attention_mask"].sum(1).tolist()
        (torch.Size([2, 9]), [9, 5])
    """

    processor: Any
    items: list[Any]
    max_length: float
    truncated: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.truncated = [False] * len(self.items)
        self.unreadable = [False] * len(self.items)
        self.inputs: dict[str, Any] = {}

    @property
    def lengths(self) -> list[int]:
        """Numbers that keep the order and differ, so that clips whose encoder mixes padding are read one by one."""
        return list(range(len(self.items), 0, -1))

    def batch(self, tokenizer: Any, indices: list[int]) -> Any:
        """What the processor makes of some of them, in that order, padded on the right; the first argument is unused.

        Raises:
            LiminalError: one can't be read; the message has its number.
        """
        signals = []
        for index in indices:
            try:
                signals.append(read_signal(self.items[index], self.processor))
            except LiminalError as error:
                raise LiminalError(f"Item {index}: {error}.") from error
        return self.processed(signals, indices)

    def processed(self, signals: list[Any], indices: list[int]) -> Any:
        """As `batch`, of signals that `read_signal` gave."""
        if not isinstance(self.processor, FeatureExtractionMixin):
            return self.processor(images=signals, return_tensors="pt")
        most = min(int(self.max_length * self.processor.sampling_rate), getattr(self.processor, "n_samples", 10**12))
        for index, samples in zip(indices, signals, strict=True):
            self.truncated[index] = len(samples) > most
        options = {"sampling_rate": self.processor.sampling_rate, "return_attention_mask": True, "return_tensors": "pt"}
        if not hasattr(self.processor, "n_samples"):  # Whisper pads to 30 seconds by itself
            options["padding"] = True
        return self.processor([samples[:most] for samples in signals], **options)

    def identity(self) -> list[str]:
        """A hash of each, and of the processor's settings: what a cache depends on."""
        settings = hashlib.sha256(self.processor.to_json_string().encode()).hexdigest()
        return [f"{settings} {self.max_length}", *map(_digest, self.items)]


def _digest(item: Any) -> str:
    if isinstance(item, Mapping):
        return " ".join([_digest(item.get("array", item.get("raw"))), str(item.get("sampling_rate"))])
    if isinstance(item, str | os.PathLike):
        with Path(item).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    content = item.tobytes() if hasattr(item, "tobytes") else torch.as_tensor(item).numpy().tobytes()
    about = f"{getattr(item, 'size', '')} {getattr(item, 'shape', '')} {getattr(item, 'dtype', '')}"
    return hashlib.sha256(content).hexdigest() + about


class SignalCollator:
    """Batches of rows with a column `audio` or `image`, or with what the processor has made of it, and labels.

    Args:
        processor: of the encoder.
        max_length: see `Signals`.
    """

    def __init__(self, processor: Any, max_length: float) -> None:
        self.processor, self.max_length = processor, max_length

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """The inputs of the model."""
        from transformers import default_data_collator

        column = next((name for name in _LOADERS if name in rows[0]), None)
        names = [name for name in rows[0] if name not in ("input_values", "attention_mask", column)]
        batch = default_data_collator([{name: row[name] for name in names} for row in rows])
        if column is not None:
            batch |= Signals(self.processor, [row[column] for row in rows], self.max_length).batch(
                None, [*range(len(rows))]
            )
        elif "input_values" in rows[0]:
            given = ("input_values", "attention_mask")
            values = [{name: row[name] for name in given if name in row} for row in rows]
            batch |= self.processor.pad(values, return_tensors="pt")
        return batch
