"""The door for texts: every container gives the same numbers by position, and what can't be read is said."""

import math
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import tiny_model
from container_kit import CONTAINERS, TEXTS
from transformers import AutoTokenizer

import liminal_hf
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.texts import as_list, checked_max_length, checked_text, text_error, tokenize, unreadable


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_becomes_a_list_by_position(name: str) -> None:
    rows = as_list(CONTAINERS[name](TEXTS))
    assert rows == TEXTS and all(isinstance(row, str) for row in rows)
    assert as_list(CONTAINERS[name](TEXTS[:1])) == TEXTS[:1]


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "numpy of strings"])
def test_a_gap_in_any_container_is_a_missing_value(name: str) -> None:
    rows = as_list(CONTAINERS[name](["fine", None]))
    assert [text_error(row) for row in rows] == [None, "no text (missing value)"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("one text", r"One text is not a list of texts\. Put it in a list: \[text\]"),
        (b"bytes", "One text is not a list"),
        ({"text": ["a"]}, r"A dict is not a list of texts\. Give one of its values: data\['text'\]"),
        ({"a", "b"}, "A set has no order"),
        (pd.DataFrame({"id": [1], "text": ["a"]}), r"columns id, text is a table.*data\['text'\]"),
        (pa.table({"said": ["a"]}), r"data\['said'\]"),
        (datasets.Dataset.from_dict({"text": ["a"], "label": [1]}), r"A Dataset with .* data\['text'\]"),
        (np.array([["a"], ["b"]]), r"one dimension, got the shape \(2, 1\)"),
        (np.array("a"), "must come in a list, got ndarray"),
        (None, "must come in a list, got NoneType"),
        (3.5, "must come in a list, got float"),
    ],
)
def test_what_is_no_container_says_what_to_type(values: Any, said: str) -> None:
    with pytest.raises(LiminalError, match=said):
        as_list(values)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("fine", None),
        (np.str_("fine"), None),
        ("\U0001f600", None),
        ("", "empty"),
        (" \t\n\u00a0\u2003\u3000\u2028", "empty"),
        ("\u200b\u200c\u200d\ufeff\u2060\u00ad", "empty"),
        ("\x00\x01\x1b\x7f\x9b", "empty"),
        ("\u202e", "empty"),
        ("\u2800\u3164", "empty"),
        (None, "no text (missing value)"),
        (math.nan, "no text (missing value)"),
        (np.float32("nan"), "no text (missing value)"),
        (pd.NA, "no text (missing value)"),
        (pd.NaT, "no text (missing value)"),
        (np.ma.masked, "no text (missing value)"),
        (3, "not a text: int"),
        (b"bytes", "not a text: bytes"),
        (["nested"], "not a text: list"),
        (np.array(["a", "b"]), "not a text: ndarray"),
        (torch.zeros(2), "not a text: Tensor"),
        ("ab \ud83d", "half of a character at position 3"),
        ("\udc80", "half of a character at position 0"),
    ],
)
def test_what_cannot_be_read_has_a_reason(value: Any, error: str | None) -> None:
    assert text_error(value) == error
    if error is None:
        assert checked_text(value) == value
    else:
        with pytest.raises(LiminalError, match=r"^Row 7 (is empty|must be a string, got|holds half of a character)"):
            checked_text(value, "Row 7")


@pytest.fixture(scope="module")
def tokenizer(minilm: Any) -> Any:
    return AutoTokenizer.from_pretrained(minilm)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\U0001f600\U0001f621", True),
        ("[UNK] [CLS]", True),
        ("\u0301", True),
        ("\U0001f600 yes", False),
        ("-", False),
    ],
)
def test_a_text_of_unknown_tokens_alone_is_unreadable(tokenizer: Any, text: str, expected: bool) -> None:
    assert unreadable(tokenizer, tokenizer(text)["input_ids"]) == expected
    assert tokenize(tokenizer, ["fine", text], 16).unreadable == [False, expected]


def test_truncation_is_marked_by_fast_and_by_slow_tokenizers(tokenizer: Any) -> None:
    class InPython:
        """The same tokenizer as one that is written in Python gives it: without encodings."""

        all_special_ids = tokenizer.all_special_ids
        convert_ids_to_tokens = tokenizer.convert_ids_to_tokens

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            from transformers import BatchEncoding

            return BatchEncoding(dict(tokenizer(*args, **kwargs)))

    texts = ["a b c d", "a b c", "a", "a b c d e f"]
    for one in (tokenizer, InPython()):
        tokens = tokenize(one, texts, 5)
        assert tokens.lengths == [5, 5, 3, 5] and tokens.truncated == [True, False, False, True]
    assert tokenize(tokenizer, [], 5).lengths == []


def test_texts_of_one_length_make_the_batch_that_padding_makes(tokenizer: Any) -> None:
    texts = ["Good morning.", "I am fine", "Not at all, thank you"]
    tokens = tokenize(tokenizer, texts, 16)
    assert tokens.lengths[0] != tokens.lengths[2]
    for some in ([0], [0, 0], [1, 0], [2, 0, 1]):
        expected = tokenizer([texts[index] for index in some], padding=True, return_tensors="pt")
        found = tokens.batch(tokenizer, some)
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("value", [0, -1, 2, True, False, 1.5, "128", [8], math.nan])
def test_a_max_length_that_holds_no_text_is_refused(tokenizer: Any, value: Any) -> None:
    with pytest.raises(LiminalError, match=r"max_length must be a whole number of tokens, at least 3 .* got"):
        checked_max_length(value, tiny_model("bert").config, tokenizer)


def test_a_max_length_beyond_the_encoder_is_refused_and_the_default_stays_below(tokenizer: Any) -> None:
    config = tiny_model("gpt2", max_seq_length=128).config
    assert config.text_config.n_positions == 64
    with pytest.raises(LiminalError, match=r"takes at most 64 tokens: max_length=64"):
        checked_max_length(65, config, tokenizer)
    assert checked_max_length(None, config, tokenizer) == 64 == checked_max_length(np.int64(64), config, tokenizer)
    assert checked_max_length(None, config.text_config, tokenizer) == 64, "an encoder's own config does, too"
    # Relative positions: nothing breaks.
    assert checked_max_length(100_000, tiny_model("t5").config, tokenizer) == 100_000


# ---- every container through every door: the numbers of the list ----


@pytest.fixture(scope="module")
def expected_vectors() -> torch.Tensor:
    return liminal_hf.encode(TEXTS)


@pytest.mark.parametrize("name", ["Series in another order", "generator", "Arrow chunks", "torch data set"])
def test_encode_takes_containers(name: str, expected_vectors: torch.Tensor) -> None:
    torch.testing.assert_close(liminal_hf.encode(CONTAINERS[name](TEXTS)), expected_vectors)
