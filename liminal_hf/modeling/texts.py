"""The door for texts: any container becomes a list, each text is checked, and tokens say what was left out.

Requires torch and transformers. What pandas, numpy, pyarrow and datasets bring is recognised by how it behaves.
"""

import operator
import os
import threading
import unicodedata
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from transformers import BatchEncoding
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from .encoders import max_tokens
from .errors import LiminalError
from .processors import Signals, is_processor
from .senses import sense

UNREADABLE = "no token of this text is known to the model"
NOT_FINITE = "the model gave a number that is not finite"
_MISSING = "no text (missing value)"
# Separators, control and format characters (zero width), and letters that are drawn as nothing.
_BLANK_CATEGORIES = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})
_BLANK_LETTERS = frozenset("\u2800\u3164\u115f\u1160\uffa0")
# A fast tokenizer can't change its truncation in one thread while another reads with it.
_TOKENIZING = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_TOKENIZING.acquire, after_in_parent=_TOKENIZING.release, after_in_child=_TOKENIZING.release
    )
_FORKED = threading.Event()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_FORKED.set)


def is_container(values: Any) -> bool:
    """Whether something holds several texts, rather than being one: neither a string nor a mapping.

    Example:
        >>> is_container(["a"]), is_container("a"), is_container({"text": "a"}), is_container(None)
        (True, False, False, False)
    """
    if isinstance(values, str | bytes | Mapping):
        return False
    # A numpy number and a 0-dimensional array have `__iter__` too.
    return getattr(values, "shape", None) != () and (
        hasattr(values, "__iter__") or (hasattr(values, "__len__") and hasattr(values, "__getitem__"))
    )


def as_list(values: Any) -> list[Any]:
    """The texts of any container as a list, by position and never by label.

    Args:
        values: list, tuple, generator, pandas Series, Index or array, numpy array, Arrow array, `datasets.Column`,
            `KeyDataset`, or a torch `Dataset` with a length.

    Raises:
        LiminalError: one text, a mapping, a set or a whole table; the message says what to type.

    Example:
        >>> as_list(text.upper() for text in ("a", "b"))
        ['A', 'B']
        >>> as_list("a")
        Traceback (most recent call last):
        liminal_hf.modeling.errors.LiminalError: One text is not a list of texts. Put it in a list: [text]
    """
    if isinstance(values, str | bytes):
        raise LiminalError("One text is not a list of texts. Put it in a list: [text]")
    if isinstance(values, Mapping):
        raise LiminalError(f"A {type(values).__name__} is not a list of texts. Give one of its values: data['text']")
    if isinstance(values, Set):
        raise LiminalError("A set has no order, so that no row could be found again. Give a list: sorted(texts)")
    check_no_table(values)
    if not is_container(values):
        raise LiminalError(f"Texts must come in a list, got {type(values).__name__}: {str(values)[:40]!r}.")
    if hasattr(values, "to_pylist"):
        return list(values.to_pylist())
    if getattr(values, "ndim", 1) != 1:
        raise LiminalError(f"An array of texts must have one dimension, got the shape {tuple(values.shape)}.")
    rows = list(values) if hasattr(values, "__iter__") else [values[index] for index in range(len(values))]
    # An Arrow scalar holds its value.
    return [row.as_py() if hasattr(row, "as_py") else row for row in rows]


def check_no_table(values: Any) -> None:
    """Raises a `LiminalError` for a whole table (a data set, a data frame): it says how to give one column of it."""
    names = getattr(values, "column_names", None)
    names = getattr(values, "columns", None) if names is None else names
    if names is None or callable(names):
        return
    names = [str(name) for name in names]
    name = "text" if "text" in names or not names else names[0]
    raise LiminalError(
        f"A {type(values).__name__} with the columns {', '.join(names[:8])} is a table. Give the column with the "
        f"texts: data[{name!r}]"
    )


def is_missing(value: Any) -> bool:
    """Whether a value stands for no value: None, NaN, pandas' NA and NaT.

    Example:
        >>> is_missing(None), is_missing(float("nan")), is_missing("nan")
        (True, True, False)
    """
    if value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return True
    if isinstance(value, str):
        return False
    try:
        return bool(value != value)
    except (TypeError, ValueError, RuntimeError):  # an array has no single answer
        return False


def text_error(value: Any) -> str | None:
    """Why a value can't be read as a text; None if it can.

    Example:
        >>> text_error("Good morning"), text_error(" \\u200b"), text_error(None), text_error(3)
        (None, 'empty', 'no text (missing value)', 'not a text: int')
        >>> text_error("a\\ud83d")
        'half of a character at position 1'
    """
    if is_missing(value):
        return _MISSING
    if not isinstance(value, str):
        return f"not a text: {type(value).__name__}"
    if all(unicodedata.category(letter) in _BLANK_CATEGORIES or letter in _BLANK_LETTERS for letter in value):
        return "empty"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"half of a character at position {error.start}"
    return None


def checked_text(text: Any, where: str = "The text") -> str:
    """The text itself if it can be read.

    Args:
        text: what should be a text.
        where: what the error calls it.

    Raises:
        LiminalError: see `text_error`.

    Example:
        >>> checked_text("Good morning")
        'Good morning'
        >>> checked_text("", "Text 3")
        Traceback (most recent call last):
        liminal_hf.modeling.errors.LiminalError: Text 3 is empty. Give at least one word.
    """
    error = text_error(text)
    if error is None:
        return str(text)
    if error == _MISSING:
        raise LiminalError(f"{where} must be a string, got a missing value: {text!r}.")
    if error == "empty":
        raise LiminalError(f"{where} is empty. Give at least one word.")
    if not isinstance(text, str):
        raise LiminalError(f"{where} must be a string, got {type(text).__name__}: {str(text)[:40]!r}.")
    raise LiminalError(
        f"{where} holds {error} (a lone surrogate). Decode the source as UTF-8, or clean it: "
        "text.encode('utf-8', 'replace').decode()"
    )


def one_thread_after_a_fork() -> None:
    """OpenMP's threads do not come through a fork, and a process that waits for them waits for ever."""
    if _FORKED.is_set():
        _FORKED.clear()
        torch.set_num_threads(1)


def with_padding(tokenizer: Any) -> Any:
    """The tokenizer itself, with a padding token; GPT-2 has none, and the mask hides it, so that any token will do."""
    if not is_processor(tokenizer) and tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def checked_max_length(max_length: Any, config: Any, tokenizer: Any) -> int:
    """How many tokens of a text, or seconds of a sound, are read.

    Args:
        max_length: what a caller asks for; None is the config's `max_seq_length`, or what the encoder takes.
        config: of the model (or of any other encoder).
        tokenizer: tells how many special tokens a text gets; not needed for sounds and images.

    Raises:
        LiminalError: not a whole number, less than a single token of text, or more than the encoder takes.

    Example:
        >>> from transformers import AutoTokenizer, AutoConfig
        >>> import liminal_hf
        >>> source = liminal_hf.DEFAULT_CHECKPOINT
        >>> tokenizer = AutoTokenizer.from_pretrained(source)
        >>> checked_max_length(None, AutoConfig.from_pretrained(source), tokenizer)
        128
    """
    if sense(config) != "text":
        seconds = getattr(config, "max_seq_length", 128) if max_length is None else max_length
        if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
            raise LiminalError(f"max_length must be a whole number of seconds, at least 1, got {max_length!r}.")
        return seconds
    limit = max_tokens(config)
    if max_length is None:
        wanted = getattr(config, "max_seq_length", None) or limit or tokenizer.model_max_length
        return int(wanted if limit is None else min(wanted, limit))
    least = tokenizer.num_special_tokens_to_add() + 1
    try:
        length = None if isinstance(max_length, bool) else operator.index(max_length)
    except TypeError:
        length = None
    if length is None or length < least:
        raise LiminalError(
            f"max_length must be a whole number of tokens, at least {least} (one of the text and "
            f"{least - 1} special), got {max_length!r}."
        )
    if limit is not None and length > limit:
        raise LiminalError(f"max_length is {length}, and this encoder takes at most {limit} tokens: max_length={limit}")
    return length


def unreadable(tokenizer: Any, ids: list[int]) -> bool:
    """Whether tokens hold nothing that the model knows: no token, or only unknown and special ones.

    Example:
        >>> from transformers import AutoTokenizer
        >>> import liminal_hf
        >>> tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
        >>> [unreadable(tokenizer, tokenizer(text)["input_ids"]) for text in ("\\U0001f600", "\\U0001f600 yes")]
        [True, False]
    """
    special = tokenizer.all_special_ids
    # SentencePiece has a known token for the space before an unknown word.
    return not any(
        token not in special and (tokenizer.convert_ids_to_tokens(token) or "").strip("\u2581\u0120 ") for token in ids
    )


@dataclass
class Tokens:
    """Texts as tokens, a list per text, unpadded.

    Args:
        inputs: what the tokenizer gives (`input_ids`, `attention_mask`, ...), each a list of lists of integers.
        truncated: whether tokens at the end of a text were left out.
        unreadable: see `unreadable`.
    """

    inputs: dict[str, list[list[int]]]
    truncated: list[bool]
    unreadable: list[bool]

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each text."""
        return [len(ids) for ids in self.inputs["input_ids"]]

    def batch(self, tokenizer: Any, indices: list[int]) -> Any:
        """The inputs of some texts, in that order, as padded tensors, `(n, length)` int64."""
        rows = {name: [values[index] for index in indices] for name, values in self.inputs.items()}
        if len({len(ids) for ids in rows["input_ids"]}) == 1:
            return BatchEncoding(rows, tensor_type="pt")
        return pad_without_fast_tokenizer_warning(tokenizer, rows, padding=len(indices) > 1, return_tensors="pt")


def tokenize(tokenizer: Any, texts: list[str], max_length: int) -> Tokens:
    """Tokens of texts, each read once; safe with several threads.

    Args:
        tokenizer: of the encoder.
        texts: each checked by `text_error`.
        max_length: tokens per text; what is longer is truncated, and marked so.

    Returns:
        At least one token per text: one that has none gets a token that it does not hold, and is marked unreadable.

    Example:
        >>> from transformers import AutoTokenizer
        >>> import liminal_hf
        >>> tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
        >>> tokens = tokenize(tokenizer, ["Good morning.", "Yes"], 4)
        >>> tokens.lengths, tokens.truncated
        ([4, 3], [True, False])
    """
    if not texts:
        return Tokens({"input_ids": []}, [], [])
    options = {"padding": False, "verbose": False}
    with _TOKENIZING:
        encoded = tokenizer(texts, truncation=True, max_length=max_length, **options)
        if encoded.encodings is not None:
            truncated = [bool(one.overflowing) for one in encoded.encodings]
        else:  # a tokenizer in Python does not say, so that a text of just this length is read again
            truncated = [
                len(ids) >= max_length and len(tokenizer(text, **options)["input_ids"]) > max_length
                for ids, text in zip(encoded["input_ids"], texts, strict=True)
            ]
    nothing_known = [unreadable(tokenizer, ids) for ids in encoded["input_ids"]]
    inputs = {name: [row or [int(name == "attention_mask")] for row in values] for name, values in encoded.items()}
    return Tokens(inputs, truncated, nothing_known)


def prepared(tokenizer: Any, items: Any, max_length: int) -> "Tokens | Signals":
    """Texts as tokens; what goes to a processor instead is read when its batch is.

    Args:
        tokenizer: of the encoder, or its processor.
        items: any container of texts (see `as_list`), or of sounds or images (see `read_signal`).
        max_length: from `checked_max_length`.

    Raises:
        LiminalError: a text that can't be read; the message has its index.
    """
    if is_processor(tokenizer):
        return Signals(tokenizer, list(items), max_length)
    checked = [checked_text(text, f"Text {index}") for index, text in enumerate(as_list(items))]
    return tokenize(with_padding(tokenizer), checked, max_length)


def bare(item: Any) -> Any:
    """The text of `{"text": ...}`; anything else, and a pair of texts, as it is.

    Example:
        >>> bare({"text": "Yes."}), bare("No.")
        ('Yes.', 'No.')
    """
    if isinstance(item, Mapping) and "text" in item and item.get("text_pair") is None:
        return item["text"]
    return item.as_py() if hasattr(item, "as_py") else item
