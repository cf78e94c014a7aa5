"""The one reader of texts: the numbers that the model gives each text alone, in order, whatever the batch."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ConvBertConfig,
    FNetConfig,
    pipeline,
)

from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.inference import batches_by_length, encode_batches, read
from liminal_hf.modeling.errors import LiminalError

# More characters, fewer tokens: sorted by characters, these two would change places.
TEXTS = ["Yes", "a b c d e f g h", "internationalization", "\U0001f600", "word " * 40, "No"]


@pytest.fixture(scope="module")
def tokenizer(minilm: Any) -> Any:
    return AutoTokenizer.from_pretrained(minilm)


@pytest.fixture(scope="module")
def model() -> LiminalForPADRegression:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    config = LiminalConfig(text_config=BertConfig(**size), latent_size=16, num_outer_steps=2, max_seq_length=16)
    return LiminalForPADRegression(config).eval()


def test_rows_are_those_of_each_text_alone(model: LiminalForPADRegression, tokenizer: Any) -> None:
    names = ("logits", "uncertainty", "pad_trajectory", "confidences", "loss")
    for options in ({}, {"batch_size": 1}, {"batch_size": 2}, {"batch_size": None, "tokens": 20}):
        values = read(model, tokenizer, TEXTS, outputs=names, **options)
        assert values["logits"].shape == (6, 3) and values["pad_trajectory"].shape == (6, 2, 3)
        assert "loss" not in values and values["logits"].dtype == np.float32
        assert values["truncated"].tolist() == [False, False, False, False, True, False]
        assert values["unreadable"].tolist() == [False, False, False, True, False, False]
        for row, text in enumerate(TEXTS):
            with torch.no_grad():
                alone = model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt"))
            for name in names[:-1]:
                assert values[name][row] == pytest.approx(alone[name][0].numpy(), abs=1e-5)
    shuffled = pd.Series(TEXTS, index=range(6))[::-1]
    assert read(model, tokenizer, shuffled)["logits"] == pytest.approx(values["logits"][::-1], abs=1e-5)


def test_each_text_is_tokenized_once_and_batches_are_sorted_by_tokens(tokenizer: Any) -> None:
    class Counting:
        texts: list[str]

        def __init__(self) -> None:
            self.texts = []

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: list[str], **options: Any) -> Any:
            self.texts += texts
            return tokenizer(texts, **options)

    counting = Counting()
    batches = list(encode_batches(counting, TEXTS, max_length=16, batch_size=2))
    assert sorted(counting.texts) == sorted(TEXTS)
    lengths = [batch.inputs["input_ids"].shape[1] for batch in batches]
    assert lengths == sorted(lengths, reverse=True) and batches[0].rows.tolist() == [4, 1]
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(6))
    assert list(encode_batches(tokenizer, [], max_length=16)) == []


def test_batches_hold_no_more_than_asked_for() -> None:
    lengths = [5, 30, 7, 5, 2, 12, 5]
    for batch in batches_by_length(lengths, tokens=20):
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 20
    assert all(len({lengths[row] for row in batch}) == 1 for batch in batches_by_length(lengths, one_length=True))
    assert [len(batch) for batch in batches_by_length(lengths, 3)] == [3, 3, 1]


@pytest.mark.parametrize("config_class", [FNetConfig, ConvBertConfig])
def test_a_family_that_mixes_padding_is_read_one_length_at_a_time(tokenizer: Any, config_class: Any) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    sizes = {name: value for name, value in size.items() if hasattr(config_class(), name)}
    text_config = config_class(vocab_size=len(tokenizer), pad_token_id=0, **sizes)
    model = LiminalForPADRegression(LiminalConfig(text_config=text_config, latent_size=16, max_seq_length=16)).eval()
    pad = pipeline("pad-regression", model=model, tokenizer=tokenizer)
    texts = [text for text in TEXTS if text != "\U0001f600"]
    whole = [pad(text)["pleasure"] for text in texts]  # long ones in windows
    assert [row["pleasure"] for row in pad(texts, batch_size=4)] == pytest.approx(whole, abs=1e-5)
    expected = [pad(text, truncation=True)["pleasure"] for text in texts]
    assert read(model, tokenizer, texts)["logits"][:, 0] == pytest.approx(expected, abs=1e-5)
    talks = [[{"role": "user", "content": text}] for text in texts]
    assert [rows[0]["pleasure"] for rows in pad(talks)] == pytest.approx(expected, abs=1e-5)


def test_a_stock_model_and_a_half_precision_model_are_read(tokenizer: Any, model: LiminalForPADRegression) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 37}
    stock = BertForSequenceClassification(BertConfig(num_labels=3, **size)).train()
    assert read(stock, tokenizer, TEXTS, max_length=16)["logits"].shape == (6, 3)
    assert stock.training, "the mode is put back"
    half = LiminalForPADRegression(model.config).to(torch.bfloat16).eval()
    assert read(half, tokenizer, TEXTS)["logits"].dtype == np.float32


def test_what_is_wrong_is_said_before_anything_is_read(model: LiminalForPADRegression, tokenizer: Any) -> None:
    with pytest.raises(LiminalError, match="Text 1 is empty"):
        read(model, tokenizer, ["fine", " "])
    with pytest.raises(LiminalError, match="at most 512 tokens: max_length=512"):
        read(model, tokenizer, ["fine"], max_length=1000)
    with pytest.raises(LiminalError, match="One text is not a list"):
        read(model, tokenizer, "fine")
    assert read(model, tokenizer, []) == {"truncated": pytest.approx([]), "unreadable": pytest.approx([])}


def test_progress_sees_every_batch(model: LiminalForPADRegression, tokenizer: Any) -> None:
    seen: list[int] = []

    def bar(batches: Any) -> Any:
        for batch in batches:
            seen.append(len(batch.rows))
            yield batch

    read(model, tokenizer, TEXTS, batch_size=4, progress=bar)
    assert seen == [4, 2]
