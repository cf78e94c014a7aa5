"""Intermediate training on emotion categories: the loss and its measure."""

import numpy as np
import pytest
import torch
from conftest import tiny_config
from transformers import EvalPrediction

from liminal_hf.modeling.encoders import build_encoder
from liminal_hf.training.emotions import EmotionClassifier, macro_f1


def test_padding_changes_nothing_and_the_loss_is_a_mean() -> None:
    torch.manual_seed(0)
    model = EmotionClassifier(build_encoder(tiny_config("bert")), num_labels=5).eval()
    ids = torch.tensor([[1, 9, 8, 2]])
    labels = torch.tensor([[1.0, 0, 0, 1, 0]])
    alone = model(ids, torch.ones_like(ids), labels=labels)
    padded = torch.tensor([[1, 9, 8, 2, 0, 0]])
    beside = model(padded, (padded > 0).long(), labels=labels, num_items_in_batch=10)
    torch.testing.assert_close(alone["logits"], beside["logits"], atol=1e-6, rtol=0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(alone["logits"], labels)
    torch.testing.assert_close(alone["loss"], expected)
    torch.testing.assert_close(beside["loss"], expected / 2)
    assert model(ids, torch.ones_like(ids)).keys() == {"logits"}


def test_macro_f1_is_the_mean_of_each_labels_f1() -> None:
    truth = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    guess = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
    logits = np.where(guess == 1, 2.0, -2.0)
    # By hand: label 0 has 1 hit of 2 + 2; label 1 is perfect; label 2 was only guessed.
    expected = (2 * 1 / 4 + 1 + 0) / 3
    assert macro_f1(EvalPrediction(logits, truth))["macro_f1"] == pytest.approx(expected)
    assert macro_f1(EvalPrediction((logits,), truth))["macro_f1"] == pytest.approx(expected)
    assert macro_f1(EvalPrediction(logits, truth), threshold=0.99)["macro_f1"] == 0
