"""The one reader of texts: from a list of texts to arrays in the same order.

Requires numpy, torch and transformers.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from .modeling.encoders import mixes_padding
from .modeling.processors import is_processor
from .modeling.texts import as_list, checked_max_length, prepared, with_padding

__all__ = ["TextBatch", "batches_by_length", "encode_batches", "mixes_padding", "read", "with_padding"]

Progress = Callable[[Sequence["TextBatch"]], Iterable["TextBatch"]]


@dataclass
class TextBatch:
    """Some of the texts as one batch for a model.

    Args:
        rows: `(n,)` int64, the indices of the texts.
        inputs: padded tensors, `(n, length)` int64, for `model(**inputs)`.
        truncated: `(n,)` bool, whether the end of a text was left out.
        unreadable: `(n,)` bool, whether a text has no token that the model knows.
    """

    rows: np.ndarray
    inputs: BatchEncoding
    truncated: np.ndarray
    unreadable: np.ndarray


def batches_by_length(
    lengths: Sequence[int], batch_size: int | None = None, *, tokens: int | None = None, one_length: bool = False
) -> Iterator[list[int]]:
    """Indices of texts of about one length, the longest first, so that a lack of memory shows at once.

    Args:
        lengths: tokens of each text.
        batch_size: most texts in a batch; None is no bound.
        tokens: most tokens in a batch, padding included, but never less than one text; None is no bound.
        one_length: no batch mixes lengths, so that none needs padding.

    Example:
        >>> list(batches_by_length([3, 9, 3, 8], 2))
        [[1, 3], [0, 2]]
        >>> list(batches_by_length([3, 9, 3, 8], one_length=True))
        [[1], [3], [0, 2]]
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[batch[0]] if batch else 0
        is_full = (
            len(batch) == batch_size
            or (tokens is not None and (len(batch) + 1) * longest > tokens)
            or (one_length and longest != lengths[index])
        )
        if batch and is_full:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def encode_batches(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    *,
    max_length: int,
    batch_size: int | None = 32,
    tokens: int | None = None,
    one_length: bool = False,
) -> Iterator[TextBatch]:
    """Texts as padded batches, sorted by their number of tokens; each text is tokenized once.

    Args:
        tokenizer: of the encoder; its processor, where it reads sounds or images.
        texts: any container of texts (see `as_list`), or of sounds or images (see `read_signal`).
        max_length: tokens per text, from `checked_max_length`; longer texts are truncated, and marked so.
        batch_size, tokens, one_length: see `batches_by_length`.

    Raises:
        LiminalError: a text that can't be read; the message has its index.

    Example:
        >>> import liminal_hf
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
        >>> for batch in encode_batches(tokenizer, ["Yes", "Good morning, dear", "No"], max_length=5, batch_size=2):
        ...     print(batch.rows.tolist(), tuple(batch.inputs["input_ids"].shape), batch.truncated.tolist())
        [1, 0] (2, 5) [True, False]
        [2] (1, 3) [False]
    """
    encoded = prepared(tokenizer, texts, max_length)
    for rows in batches_by_length(encoded.lengths, batch_size, tokens=tokens, one_length=one_length):
        inputs = encoded.batch(tokenizer, rows)
        # Of a sound it is known by now.
        truncated, unreadable = ([values[row] for row in rows] for values in (encoded.truncated, encoded.unreadable))
        yield TextBatch(
            np.array(rows, dtype=np.int64), inputs, np.array(truncated, dtype=bool), np.array(unreadable, dtype=bool)
        )


@torch.inference_mode()
def read(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Any],
    *,
    max_length: int | None = None,
    batch_size: int | None = 32,
    tokens: int | None = None,
    outputs: Sequence[str] = ("logits", "uncertainty"),
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """What a model says of texts, in their order; no row depends on the others, beyond rounding.

    Args:
        model: ours or any other one with `logits`; it is put into evaluation mode meanwhile.
        tokenizer: of the model.
        texts: any container of texts (see `as_list`).
        max_length: tokens per text; None is the config's `max_seq_length`.
        batch_size, tokens: most texts, and most tokens with padding, in a batch; None is no bound.
        outputs: names of the model's outputs to return.
        progress: wraps the batches that are to be read, for example in a bar.

    Returns:
        Each of `outputs` that the model has, `(N, ...)` float32 (float64 of a float64 model): `logits` and
        `uncertainty` are `(N, T)` in label units. Also `truncated` and `unreadable`, `(N,)` bool.

    Raises:
        LiminalError: a text that can't be read, or a `max_length` that the encoder does not take.

    Example:
        >>> import liminal_hf
        >>> from transformers import AutoModelForSequenceClassification, AutoTokenizer
        >>> model = AutoModelForSequenceClassification.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
        >>> tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
        >>> values = read(model, tokenizer, ["What a lovely surprise!", "Go away!"])
        >>> values["logits"].shape, values["truncated"].tolist()
        ((2, 3), [False, False])
    """
    length = checked_max_length(max_length, model.config, tokenizer)
    texts = as_list(texts) if not is_processor(tokenizer) else list(texts)
    batches: Any = encode_batches(
        tokenizer,
        texts,
        max_length=length,
        batch_size=batch_size,
        tokens=tokens,
        one_length=mixes_padding(model.config),
    )
    if progress is not None or not is_processor(tokenizer):  # the samples of all sounds may not fit the memory
        batches = list(batches)
    total = len(texts)
    values = {"truncated": np.zeros(total, dtype=bool), "unreadable": np.zeros(total, dtype=bool)}
    was_training = model.training
    model.eval()
    try:
        for batch in batches if progress is None else progress(batches):
            output = model(**batch.inputs.to(model.device))
            for name in outputs:
                if output.get(name) is not None:
                    part = output[name]
                    part = (part if part.dtype == torch.float64 else part.float()).cpu().numpy()
                    values.setdefault(name, np.empty((total, *part.shape[1:]), part.dtype))[batch.rows] = part
            values["truncated"][batch.rows] = batch.truncated
            values["unreadable"][batch.rows] = batch.unreadable
    finally:
        model.train(was_training)
    return values
