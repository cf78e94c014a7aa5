"""Encoders that end after their first layers: the same states, saved, reloaded and pushed through every road."""

from pathlib import Path

import pytest
import torch
from conftest import FAMILIES
from training_kit import encoder_with_tokenizer

from liminal_hf import LiminalForPADRegression
from liminal_hf.modeling.errors import LiminalError

TOKENS = {"input_ids": torch.tensor([[1, 5, 6, 7, 2]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}


def cut_model(folder: Path, layers: int | None = 1) -> LiminalForPADRegression:
    torch.manual_seed(0)
    return LiminalForPADRegression.from_encoder_pretrained(
        str(folder), pooled_layers="all", latent_size=16, encoder_layers=layers
    ).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_are_those_of_the_lower_layers_of_the_whole_encoder(family: str, tmp_path: Path) -> None:
    encoder = encoder_with_tokenizer(tmp_path / "encoder", family)
    half, whole = cut_model(encoder), cut_model(encoder, None)
    with torch.no_grad():
        lower, all_states = half.liminal.pool(**TOKENS), whole.liminal.pool(**TOKENS)
    # Some families normalise the last layer's state; the layers below it are the same to the bit.
    assert torch.equal(lower[:, :32], all_states[:, :32])
    assert lower.shape[1] == 64 and all_states.shape[1] == 96
    if family in ("bert", "roberta", "distilbert"):
        assert torch.equal(lower, all_states[:, :64])
    assert sum(p.numel() for p in half.parameters()) < sum(p.numel() for p in whole.parameters())


@pytest.mark.parametrize("head_only", [False, True])
def test_a_cut_encoder_comes_back_cut(head_only: bool, tmp_path: Path) -> None:
    model = cut_model(encoder_with_tokenizer(tmp_path / "encoder"))
    (model.save_head_only if head_only else model.save_pretrained)(tmp_path / "saved")
    again = LiminalForPADRegression.from_pretrained(tmp_path / "saved").eval()
    assert again.config.encoder_layers == 1 and again.config.num_hidden_layers == 1
    assert len(again.liminal.encoder.encoder.layer) == 1
    assert torch.equal(model(**TOKENS).logits, again(**TOKENS).logits)


@pytest.mark.parametrize("layers", [0, 3, -1, 1.5, "2"])
def test_a_number_of_layers_that_the_encoder_does_not_have_is_refused(layers: object, tmp_path: Path) -> None:
    encoder = encoder_with_tokenizer(tmp_path / "encoder")
    with pytest.raises(LiminalError, match=r"encoder_layers must be a whole number in 1\.\.2"):
        LiminalForPADRegression.from_encoder_pretrained(str(encoder), encoder_layers=layers)
