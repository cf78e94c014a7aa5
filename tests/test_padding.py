"""Padding changes nothing, on whatever side it is; where it does (FNet, ConvBERT), the model says so."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import FAMILIES, VOCABULARY, padded, tiny_model, tokens
from transformers import CanineConfig, ConvBertConfig, FNetConfig, XLNetConfig, YosoConfig

from liminal_hf import LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.padding import justified_index, justify, restore_outputs

SIZE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 37}
MIXING = {
    "fnet": FNetConfig(**SIZE, max_position_embeddings=64, tpu_short_seq_length=16),
    "canine": CanineConfig(**SIZE, num_attention_heads=4, max_position_embeddings=512),
    "yoso": YosoConfig(**SIZE, num_attention_heads=4, max_position_embeddings=64),
    "convbert": ConvBertConfig(**SIZE, num_attention_heads=4, embedding_size=32, max_position_embeddings=64),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", ["last", "mix", "all"])
@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours(family: str, layers: str) -> None:
    model = tiny_model(family, pooled_layers=layers, token_attention=layers == "mix")
    rows = tokens()
    alone = torch.cat([model(input_ids=row[None], attention_mask=torch.ones_like(row[None])).logits for row in rows])
    assert alone.std(0).min() > 1e-4  # rows differ, so that equality below means something
    for side, length, filler in [("right", 9, 0), ("left", 14, 5), ("right", 20, 7)]:
        batch = padded(rows, side, length, filler)
        torch.testing.assert_close(model(**batch).logits, alone, atol=1e-5, rtol=0)
        order = torch.tensor([2, 0, 3, 1])
        shuffled = model(**{name: value[order] for name, value in batch.items()}).logits
        torch.testing.assert_close(shuffled, alone[order], atol=1e-5, rtol=0)
    assert torch.equal(model(**batch).logits, model(**batch).logits)


@torch.no_grad()
def test_an_encoder_without_a_limit_is_no_damaged_one() -> None:
    """XLNet says so by a limit of -1."""
    torch.manual_seed(0)
    encoder = XLNetConfig(vocab_size=VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=37)
    model = LiminalForPADRegression(LiminalConfig(text_config=encoder, latent_size=16)).eval()
    left, right = (model(**padded(tokens(), side, 12, 0)).logits for side in ("left", "right"))
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("pooling", ["mean", "mean_after_first", "cls", "max", "last_token", "attention"])
@torch.no_grad()
def test_every_pooler_ignores_padding(family: str, pooling: str) -> None:
    model = tiny_model(family, pooling=pooling, pooled_layers="all")
    left, right = (model(**padded(tokens(), side, 12, 0)).logits for side in ("left", "right"))
    torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "qwen3"])
@torch.no_grad()
def test_positions_move_with_their_tokens(family: str) -> None:
    model, rows = tiny_model(family), tokens()
    first = 1 if family == "roberta" else 0  # its positions count from the padding token's id

    def positions(mask: torch.Tensor) -> torch.Tensor:
        # Not the encoder's own: they go down, so that positions which are lost or left behind change the answer.
        count = mask.sum(1, keepdim=True)
        return (count - mask.cumsum(1)).clamp_min(0) + first

    alone = []
    for row in rows:
        mask = torch.ones_like(row[None])
        alone.append(model(input_ids=row[None], attention_mask=mask, position_ids=positions(mask)).logits)
    expected = torch.cat(alone)
    for side in ("left", "right"):
        batch = padded(rows, side, 12, 0)
        ids = positions(batch["attention_mask"])
        torch.testing.assert_close(model(**batch, position_ids=ids).logits, expected, atol=1e-5, rtol=0)
        pooled = model.liminal.pool(**batch, position_ids=ids)
        torch.testing.assert_close(model(pooled_embeds=pooled).logits, expected, atol=1e-5, rtol=0)
    assert (model(**batch).logits - expected).abs().max() > 1e-4


@torch.no_grad()
def test_positions_that_all_rows_share_are_taken_for_each() -> None:
    model, batch = tiny_model("gpt2"), padded(tokens(), "left", 9, 0)
    shared = torch.arange(9)[None]
    each = model(**batch, position_ids=shared.expand(4, -1)).logits
    torch.testing.assert_close(model(**batch, position_ids=shared).logits, each, atol=0, rtol=0)


def test_whatever_has_a_value_per_token_moves() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 0, 1]])
    index = justified_index(mask)
    inputs = {
        "mask": mask,
        "boxes": torch.arange(12).view(2, 3, 2),
        "bias": torch.arange(4.0).view(2, 2),
        "of_the_batch": torch.arange(2),
        "flag": True,
    }
    moved = justify(inputs, index)
    assert moved["mask"].tolist() == [[1, 1, 0], [1, 1, 0]]
    assert moved["boxes"].tolist() == [[[2, 3], [4, 5], [0, 1]], [[6, 7], [10, 11], [8, 9]]]
    assert all(moved[name] is inputs[name] for name in ("bias", "of_the_batch", "flag"))
    assert justify(inputs, None) is inputs and justified_index(torch.tensor([[1, 1, 0]])) is None


@torch.no_grad()
def test_the_encoders_outputs_come_back_where_the_tokens_stood() -> None:
    model = tiny_model("bert")
    model.set_attn_implementation("eager")
    rows = tokens()
    batch = padded(rows, "left", 9, 0)
    output = model.liminal(**batch, output_hidden_states=True, output_attentions=True)
    for number, row in enumerate(rows):
        alone = model.liminal(input_ids=row[None], output_hidden_states=True, output_attentions=True)
        real = slice(9 - len(row), 9)
        torch.testing.assert_close(output.last_hidden_state[number, real], alone.last_hidden_state[0])
        torch.testing.assert_close(output.hidden_states[1][number, real], alone.hidden_states[1][0])
        torch.testing.assert_close(output.attentions[1][number, :, real, real], alone.attentions[1][0])
    some = restore_outputs(model.liminal.encoder(**batch, output_hidden_states=True), None, [-1], False)
    assert [state is None for state in some["hidden_states"]] == [True, True, False] and some["attentions"] is None


@contextmanager
def heard(name: str) -> Iterator[list[str]]:
    """What is logged meanwhile."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    listener, logger = Listener(), logging.getLogger(name)
    logger.addHandler(listener)
    try:
        yield messages
    finally:
        logger.removeHandler(listener)


@pytest.mark.parametrize("family", sorted(MIXING))
@torch.no_grad()
def test_an_encoder_that_reads_padding_says_so_once(family: str) -> None:
    torch.manual_seed(0)
    logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]  # transformers', of the whole process
    model = LiminalForPADRegression(LiminalConfig(text_config=MIXING[family], latent_size=16)).eval()
    short, long = torch.arange(5, 10)[None], torch.arange(10, 22)[None]
    with heard("liminal_hf.modeling.padding") as messages:
        alone = model(input_ids=short).logits
        assert model(input_ids=short.repeat(2, 1)).logits.shape == (2, 3)
        assert not messages
        batch = padded([short[0], long[0]], "right", 12, 0)
        beside = model(**batch).logits[:1]
        model(**batch)
    assert (beside - alone).abs().max() > 1e-5  # it is true
    assert len(messages) == 1 and re.search(rf"'{family}' encoder reads padding.*one length", messages[0])


def test_bad_tokens_are_named() -> None:
    model = tiny_model("bert")
    ids = torch.full((2, 4), 5)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]])}, "Row 1 has no token"),
        ({}, "exactly one of"),
        ({"input_ids": ids, "pooled_embeds": torch.rand(2, 32)}, "exactly one of"),
        ({"input_ids": ids, "inputs_embeds": torch.rand(2, 4, 32)}, "exactly one of"),
        ({"input_ids": ids, "attention_mask": torch.ones(2, 5)}, "attention_mask must have the shape"),
        ({"input_ids": torch.tensor([[5, 6, 0, 0]])}, "there is no attention_mask"),
        ({"input_ids": torch.full((1, 65), 5)}, "takes at most 64"),
        ({"input_ids": ["hello"]}, r"got list. For texts: model\(\*\*tokenizer"),
        ({"input_ids": ids[0]}, r"got a tensor of shape \(4,\)"),
        ({"input_ids": ids + VOCABULARY}, "the tokenizer is that of another model"),
        ({"pooled_embeds": torch.rand(2, 31)}, re.escape("pooled_embeds must have shape (batch, 32)")),
    ]
    for inputs, message in wrong:
        with pytest.raises(LiminalError, match=message):
            model(**inputs)
    with pytest.raises(LiminalError, match="no encoder"):
        LiminalForPADRegression(LiminalConfig(pooled_size=8))(input_ids=ids)
