"""A text that is longer than the model reads: read in windows, sentence by sentence, and put together again.

Requires torch and transformers.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .encoders import mixes_padding
from .sentences import Span, fitting, sentences
from .texts import UNREADABLE, tokenize

# What a model says of a text, by the names of its outputs.
ANSWERS = ("logits", "uncertainty", "in_domain")
_AT_ONCE = 32

# The correlation of the model's errors with two sentences of a text; chosen on EmoBank's development documents by
# scripts/long_texts.py. With it 80% intervals of whole texts hold at least that share there.
SHARED_ERROR = 0.2


def windows(text: str, tokenizer: Any, max_length: int) -> list[Span]:
    """Where the windows of a text begin and end: its sentences, with those divided that are too long.

    Args:
        text: any length.
        tokenizer: of the model.
        max_length: tokens per window, from `checked_max_length`.

    Example:
        >>> import liminal_hf
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
        >>> windows("It rains. I stay at home, and read.", tokenizer, 8)
        [(0, 9), (10, 25), (26, 35)]
    """
    return fitting(text, sentences(text), tokenizer, max_length)


def split(text: str, tokenizer: Any, max_length: int) -> dict[str, Any]:
    """The windows of a text as `spans`, and their `tokens`."""
    spans = windows(text, tokenizer, max_length)
    return {"spans": spans, "tokens": tokenize(tokenizer, [text[start:end] for start, end in spans], max_length)}


def read_windows(parts: dict[str, Any], model: Any, tokenizer: Any, options: dict[str, Any]) -> dict[str, Any]:
    """What a model says of a text in windows.

    Args:
        parts: from `split`.
        model, tokenizer: those that the windows were made for.
        options: of the model's forward pass.

    Returns:
        See `put_together`.
    """
    tokens, config = parts["tokens"], model.config
    known = [index for index, unknown in enumerate(tokens.unreadable) if not unknown]
    known.sort(key=lambda index: tokens.lengths[index])  # little padding
    size = 1 if mixes_padding(config) else _AT_ONCE
    read: dict[int, dict[str, Any]] = {}
    for start in range(0, len(known), size):
        some = known[start : start + size]
        output = model(**tokens.batch(tokenizer, some).to(model.device), **options)
        answers = {name: output[name].double().tolist() for name in ANSWERS if output.get(name) is not None}
        for position, index in enumerate(some):
            read[index] = {name: answers[name][position] if name in answers else None for name in ANSWERS}
    return put_together(parts["spans"], read, config)


def put_together(spans: Sequence[Span], read: Mapping[int, Mapping[str, Any]], config: Any) -> dict[str, Any]:
    """The answer for a text from those of its windows.

    Args:
        spans, read: as in `whole`.
        config: of the model.

    Returns:
        `whole` (see there; empty where nothing could be read), `windows` (`start`, `end` and the targets of each, None
        where it could not be read) and `error`.
    """
    low, high = config.label_range
    rows = []
    for index, (start, end) in enumerate(spans):
        row: dict[str, Any] = {"start": start, "end": end, **dict.fromkeys(config.targets)}
        if index in read:
            values = zip(config.targets, read[index]["logits"], config.trained_targets, strict=True)
            row |= {name: min(max(value, low), high) for name, value, is_trained in values if is_trained}
        rows.append(row)
    found = whole(spans, read, config.label_range) or {}
    # A tuple: a list would be taken for one value per row of a batch.
    return {"whole": found, "windows": tuple(rows), "error": None if read else UNREADABLE}


def whole(
    spans: Sequence[Span], read: Mapping[int, Mapping[str, Any]], label_range: Sequence[float]
) -> dict[str, Any] | None:
    """What becomes of a whole text: the mean of its windows, each weighted by its number of characters.

    Its uncertainty follows from theirs: errors with two windows of a text correlate by `SHARED_ERROR`, so that many
    windows make it smaller, but never less than .45 of theirs.

    Args:
        spans: of all windows.
        read: by index, those that could be read: `logits` and `uncertainty` (a float per target, in label units; the
            latter may be None) and `in_domain` (a float or None).
        label_range: the logits are clamped to it first.

    Returns:
        The same three for the whole text; None where nothing could be read.

    Example:
        >>> one, two = ({"logits": [x], "uncertainty": [0.1], "in_domain": 1.0} for x in (0.4, -0.2))
        >>> found = whole([(0, 10), (11, 31)], {0: one, 1: two}, (-1.0, 1.0))
        >>> [round(value, 3) for value in (*found["logits"], *found["uncertainty"], found["in_domain"])]
        [0.0, 0.08, 1.0]
    """
    if not read:
        return None
    low, high = label_range
    lengths = {index: spans[index][1] - spans[index][0] for index in read}
    total = sum(lengths.values())
    shares = {index: length / total for index, length in lengths.items()}
    first = next(iter(read.values()))

    def parts(name: str, target: int) -> list[float]:
        return [share * read[index][name][target] for index, share in shares.items()]

    def deviation(target: int) -> float:
        values = parts("uncertainty", target)
        alone, together = math.hypot(*values), sum(values)
        return math.sqrt((1 - SHARED_ERROR) * alone**2 + SHARED_ERROR * together**2)

    targets = range(len(first["logits"]))
    clamped = {index: [min(max(value, low), high) for value in answer["logits"]] for index, answer in read.items()}
    return {
        "logits": [sum(share * clamped[index][target] for index, share in shares.items()) for target in targets],
        "uncertainty": None if first["uncertainty"] is None else [deviation(target) for target in targets],
        "in_domain": None
        if first["in_domain"] is None
        else sum(share * read[index]["in_domain"] for index, share in shares.items()),
    }
