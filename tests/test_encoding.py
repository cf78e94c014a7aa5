"""Texts to vectors: the same as the encoder alone gives, in the order of the texts, whatever the batch."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from liminal_hf import LiminalConfig, LiminalForPADRegression, create_embedder, encode

TEXTS = ["Good morning.", "No.", "A much longer text, so that the others have to be padded to its length.", "Yes!"]


def test_vectors_are_the_mean_of_the_encoders_states(minilm: Path) -> None:
    vectors = encode(TEXTS)
    assert vectors.shape == (4, 384) and vectors.dtype == torch.float32 and not vectors.requires_grad
    tokenizer, encoder = AutoTokenizer.from_pretrained(minilm), AutoModel.from_pretrained(minilm)
    with torch.no_grad():
        for text, vector in zip(TEXTS, vectors, strict=True):
            alone = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            torch.testing.assert_close(vector, alone, atol=1e-5, rtol=0)


def test_neither_the_batch_nor_the_order_matters(minilm: Path) -> None:
    vectors = encode(TEXTS)
    torch.testing.assert_close(encode(TEXTS, batch_size=1), vectors, atol=1e-5, rtol=0)
    torch.testing.assert_close(encode(TEXTS[::-1], batch_size=3).flip(0), vectors, atol=1e-5, rtol=0)
    torch.testing.assert_close(encode(TEXTS[0]), vectors[:1], atol=1e-5, rtol=0)


def test_all_layers_and_truncation(minilm: Path) -> None:
    assert encode(TEXTS[:1], pooled_layers="all").shape == (1, 7 * 384)
    long = "word " * 50
    torch.testing.assert_close(encode(long, max_length=8), encode("word " * 6, max_length=8), atol=1e-5, rtol=0)
    assert not torch.allclose(encode(long), encode(long, max_length=8), atol=1e-3)


def test_vectors_go_straight_into_a_head(minilm: Path) -> None:
    torch.manual_seed(0)
    model = LiminalForPADRegression(LiminalConfig(pooled_size=384, latent_size=16)).eval()
    assert model(pooled_embeds=encode(TEXTS)).logits.shape == (4, 3)


@pytest.mark.parametrize(("texts", "hint"), [(["fine", " "], "Text 1"), (["\ud800"], "surrogate"), ([3], "string")])
def test_what_is_no_text_is_named(texts: list, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        encode(texts)


def test_an_encoder_that_is_not_there_is_named() -> None:
    with pytest.raises(OSError, match="nobody/nothing"):
        encode("x", "nobody/nothing")


def test_an_embedder_reads_again_and_again(minilm: Path) -> None:
    embed = create_embedder(str(minilm), pooled_layers="all", max_length=16)
    assert embed.size == 7 * 384
    for texts in (TEXTS, TEXTS[:1], "No."):
        torch.testing.assert_close(embed(texts), encode(texts, str(minilm), pooled_layers="all", max_length=16))
    assert embed([]).shape == (0, embed.size)
    with pytest.raises(ValueError, match="Text 1"):
        embed(["fine", None])
