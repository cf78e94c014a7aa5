"""The loss: the same in parts, blind to missing labels, the likelihood counted once and in the units it is read in."""

import pytest
import torch
from conftest import padded, tiny_model, tokens
from torch import Tensor, nn

from liminal_hf import HEADS, LOSSES, Head, HeadInput, HeadOutput, LiminalConfig, LiminalForPADRegression
from liminal_hf.modeling.errors import LiminalError


def bare(**fields: object) -> LiminalForPADRegression:
    """A model with no encoder and no dropout."""
    torch.manual_seed(0)
    model = LiminalForPADRegression(LiminalConfig(**{"pooled_size": 8, "latent_size": 16, **fields})).eval()
    with torch.no_grad():
        for parameter in model.liminal.head.spread_head.parameters():
            parameter.normal_(std=0.3)
    return model


def test_item_wise_loss_is_the_same_in_parts() -> None:
    for name in ("mse", "huber", "gaussian_nll"):
        model = tiny_model("bert", loss=name, head_dropout=0.0)
        batch = padded(tokens(), "right", 9, 0)
        labels = torch.rand(4, 3)
        labels[0, 1] = labels[2, 0] = -100
        count = labels.ne(-100).sum()
        model(**batch, labels=labels, num_items_in_batch=count).loss.backward()
        whole = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        for part in (slice(0, 1), slice(1, 4)):
            some = {n: value[part] for n, value in batch.items()}
            model(**some, labels=labels[part], num_items_in_batch=count).loss.backward()
        for n, parameter in model.named_parameters():
            if n in whole:
                torch.testing.assert_close(parameter.grad, whole[n], atol=1e-6, rtol=1e-5)


def test_a_missing_label_has_no_influence() -> None:
    model = tiny_model("bert", head_dropout=0.0)
    batch = padded(tokens(), "right", 9, 0)
    labels = torch.rand(4, 3)
    labels[1] = -100
    rest = torch.tensor([0, 2, 3])
    whole = model(**batch, labels=labels).loss
    part = model(**{n: v[rest] for n, v in batch.items()}, labels=labels[rest]).loss
    torch.testing.assert_close(whole, part)
    labels[0, 0] = float("nan")
    with pytest.raises(LiminalError, match="NaN"):
        model(**batch, labels=labels)


def test_the_likelihood_counts_once() -> None:
    states, labels = torch.randn(5, 8), torch.randn(5, 3)
    model = bare(loss="gaussian_nll", confidence_weight=0.0)
    losses = []
    for weight in (0.0, 0.1, 1.0):
        model.config.uncertainty_weight = weight
        losses.append(model(pooled_embeds=states, labels=labels).loss.item())
    assert losses[0] == losses[1] == losses[2]


def test_each_step_is_measured_with_its_own_variance() -> None:
    states, labels = torch.randn(5, 8), torch.randn(5, 3)
    model = bare(loss="gaussian_nll", confidence_weight=0.0, deep_supervision=0.7, num_outer_steps=3)
    base = model.liminal(pooled_embeds=states)
    assert base.log_variance.shape == (5, 3, 3) and base.log_variance.std(dim=1).min() > 1e-4

    def likelihood(step: int) -> Tensor:
        variance = base.log_variance[:, step].exp()
        return 0.5 * (variance.log() + (base.pad_trajectory[:, step] - labels).square() / variance).mean()

    expected = 0.3 * likelihood(2) + 0.7 * sum((k + 1) / 6 * likelihood(k) for k in range(3))
    torch.testing.assert_close(model(pooled_embeds=states, labels=labels).loss, expected)
    # Each step's variance is that of a call that ends there.
    short = model.liminal(pooled_embeds=states, num_outer_steps=2)
    torch.testing.assert_close(short.log_variance, base.log_variance[:, :2])


def test_uncertainty_is_read_in_the_units_it_was_trained_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class InLabelUnits(Head):
        """It predicts labels, and one variance for all texts, of the last answer alone."""

        z_scored = False
        supervises_steps = True

        def __init__(self, config: LiminalConfig, pooled_size: int) -> None:
            super().__init__(config, pooled_size)
            self.mean, self.log_variance = nn.Linear(pooled_size, 3), nn.Parameter(torch.zeros(3))

        def forward(self, inputs: HeadInput) -> HeadOutput:
            steps = torch.stack([self.mean(inputs.pooled) + 1, self.mean(inputs.pooled)], dim=1)
            return HeadOutput(steps, log_variance=self.log_variance.expand(len(inputs.pooled), 3))

    monkeypatch.setitem(HEADS, "in_label_units", InLabelUnits)
    torch.manual_seed(0)
    states, labels = torch.randn(2000, 8), 0.1 * torch.randn(2000, 3)
    fields = {"head": "in_label_units", "label_std": [0.1] * 3, "loss": "gaussian_nll"}
    model = LiminalForPADRegression(LiminalConfig(pooled_size=8, **fields))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(250):
        optimizer.zero_grad()
        model(pooled_embeds=states, labels=labels).loss.backward()
        optimizer.step()
    assert model(pooled_embeds=states[:1]).uncertainty.mean().item() == pytest.approx(0.1, abs=0.01)


def test_confidences_are_trained_only_where_the_head_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    states, labels = torch.randn(5, 8), torch.randn(5, 3)
    model = bare(uncertainty_weight=0.0)
    with_confidences = model(pooled_embeds=states, labels=labels).loss
    monkeypatch.setattr(model.liminal.head, "trains_confidences", False)
    without = model(pooled_embeds=states, labels=labels).loss
    assert with_confidences > without
    monkeypatch.setattr(model.liminal.head, "supervises_steps", False)
    last = model(pooled_embeds=states, labels=labels)
    torch.testing.assert_close(last.loss, (last.logits - labels).square().mean())


def test_a_head_without_variance_is_refused_the_likelihood() -> None:
    model = LiminalForPADRegression(LiminalConfig(pooled_size=8, head="linear", loss="gaussian_nll"))
    with pytest.raises(LiminalError, match="head='v7'"):
        model(pooled_embeds=torch.rand(2, 8), labels=torch.rand(2, 3))
    assert set(LOSSES) >= {"mse", "huber", "ccc", "mse_ccc", "gaussian_nll"}
