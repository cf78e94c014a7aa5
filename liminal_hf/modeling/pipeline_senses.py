"""The task "pad-regression" for a model that reads sounds or images: the rows are those of a text.

Requires torch and transformers.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset

from .encoders import load_tokenizer, mixes_padding
from .errors import LiminalError
from .pipeline_liminal import PADRegressionPipeline
from .processors import Signals, processor_of, read_signal
from .senses import frame_counts, sense
from .texts import check_no_table, checked_max_length, is_container

_GIVEN = ("feature_extractor", "image_processor", "processor", "tokenizer")
_AT_ONCE = 8


class SignalRegressionPipeline(PADRegressionPipeline):
    """`pipeline("pad-regression")` of a model whose encoder reads sounds or images; it is chosen by the model.

    Rows have the keys of `PADRegressionPipeline`; `windows` is None. A sound is a path, an array at the sampling rate
    of the model, or a dict of `array` (or `raw`) and `sampling_rate`; an image is a path, an image of Pillow or an
    array (see `read_signal`). What can't be read has a row with an `error`: empty, silent, NaN, another sampling rate,
    too short, no such file. No row depends on the others: clips whose encoder mixes padding are read one by one, the
    frames behind the end of a clip are never pooled. A sound that is longer than `max_length` seconds is truncated.

    The stock tasks "audio-classification" and "image-classification" do not know our models: they rank targets by their
    value as if these were classes, and read Whisper's padding as speech. No real speech, images or weights were at hand
    for this class; the tests prove the plumbing, and nothing is measured on affect.

    Args of a call:
        inputs: a sound or an image, or several (a list, a Series, a `Dataset`, a generator).
        batch_size: so many at a time; default 8.
        max_length: seconds of a sound; default the config's `max_seq_length`.
        num_outer_steps: K of this call.
        num_workers, truncation: taken, and not used.

    Raises:
        LiminalError: a single sound or image that can't be read, a whole table, an unknown argument.
        ImportError: a file needs the extra `audio` or `image`.

    Example:
        >>> from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, pipeline
        >>> from liminal_hf import LiminalConfig, LiminalForPADRegression
        >>> size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> model = LiminalForPADRegression(LiminalConfig(text_config=Wav2Vec2Config(**size), latent_size=8))
        >>> pad = pipeline("pad-regression", model=model, feature_extractor=Wav2Vec2FeatureExtractor())
        >>> [row["error"] for row in pad([torch.randn(16000), torch.zeros(16000)])]
        [None, 'silent: all samples are the same']
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        named = {
            **dict(zip(("model", "tokenizer", "feature_extractor", "image_processor"), args, strict=False)),
            **kwargs,
        }
        given = [named.pop(name, None) for name in _GIVEN]
        super().__init__(**named)
        self.reader: Any = next((processor_of(one) for one in given if one is not None), None)
        if self.reader is None or isinstance(self.reader, str):
            self.reader = load_tokenizer(self.reader or self.model)
        self.kind = sense(self.model.config)
        # By these names it is saved with the pipeline.
        if self.kind == "audio":
            self.feature_extractor = self.reader
        else:
            self.image_processor = self.reader

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """See the class."""
        size = kwargs.pop("batch_size", None) or self._batch_size or _AT_ONCE
        kwargs.pop("num_workers", None)
        preprocess, forward, _ = self._sanitize_parameters(**kwargs)
        options = {**self._preprocess_params, **preprocess}, {**self._forward_params, **forward}
        check_no_table(inputs)
        if _is_one(inputs):
            (row,) = self._rows([inputs], *options)
            if row["error"] is not None:
                raise LiminalError(f"The {self.kind} can't be read: {row['error']}.")
            return row
        items = inputs if hasattr(inputs, "__iter__") else (inputs[index] for index in range(len(inputs)))
        rows = self._some_rows(items, 1 if mixes_padding(self.model.config) else size, *options)
        return list(rows) if hasattr(inputs, "__len__") and not isinstance(inputs, Dataset) else rows

    def _some_rows(self, items: Iterable[Any], size: int, *options: Any) -> Iterator[dict[str, Any]]:
        rest = iter(items)
        while some := list(islice(rest, size)):
            yield from self._rows(some, *options)

    def _rows(self, items: list[Any], preprocess: dict[str, Any], forward: dict[str, Any]) -> list[dict[str, Any]]:
        """A row for each, in one call of the model."""
        read: dict[int, Any] = {}
        errors: dict[int, str] = {}
        for index, item in enumerate(items):
            try:
                read[index] = read_signal(item, self.reader)
                if self.kind == "audio":
                    self._check_length(len(read[index]))
            except LiminalError as error:
                read.pop(index, None)
                errors[index] = str(error)
        rows = {index: self._row(self._about([error])) for index, error in errors.items()}
        if read:
            seconds = preprocess.get("max_length") or checked_max_length(None, self.model.config, None)
            signals = Signals(self.reader, items, seconds)
            inputs = dict(signals.processed(list(read.values()), list(read)))
            output = self.forward({**inputs, **self._about([None] * len(read))}, **forward)
            for position, index in enumerate(read):
                one = {name: value[position : position + 1] for name, value in output.items()}
                rows[index] = self._row({**one, "truncated": [signals.truncated[index]]})
        return [rows[index] for index in range(len(items))]

    def _check_length(self, samples: int) -> None:
        if self.model.main_input_name == "input_values":
            frames = frame_counts(self.model.base.encoder, torch.tensor([samples]))
            if int(frames) < 1:
                raise LiminalError(f"too short: {samples} samples")

    def _about(self, errors: list[Any]) -> dict[str, Any]:
        count, size = len(errors), self.model.config.num_labels
        empty = {"truncated": [False] * count, "windows": [None] * count, "error": errors}
        return empty if errors[0] is None else {**empty, "logits": torch.zeros(count, size)}


def _is_one(inputs: Any) -> bool:
    """Whether something is one sound or image: a path, a dict, an image, an array of numbers."""
    if isinstance(inputs, str | os.PathLike | Mapping | torch.Tensor) or not is_container(inputs):
        return True
    kind = getattr(getattr(inputs, "dtype", None), "kind", "O")
    return hasattr(inputs, "__array__") and not hasattr(inputs, "iloc") and kind in "fiub"
