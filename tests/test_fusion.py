"""Late fusion: the formula, what may be missing, audeering's order and scale, and a simulation with a known answer."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

import liminal_hf
from liminal_hf import LiminalConfig, LiminalForPADRegression, fuse
from liminal_hf.modeling.errors import LiminalError

NAMES = ("pleasure", "arousal", "dominance")


def test_the_one_line_formula() -> None:
    values = np.array([[0.2, -0.4, 0.6], [0.5, 0.1, -0.3], [-0.1, 0.3, 0.2]])
    deviations = np.array([[0.1, 0.2, 0.3], [0.2, 0.2, 0.1], [0.4, 0.1, 0.2]])
    both = fuse(list(values), list(deviations))
    for index, name in enumerate(NAMES):
        weights = deviations[:, index] ** -2.0
        assert both[name] == pytest.approx(float(np.average(values[:, index], weights=weights)))
        assert both["uncertainty"][name] == pytest.approx(float(weights.sum() ** -0.5))
        assert list(both["weights"][name].values()) == pytest.approx(list(weights / weights.sum()))


def test_correlated_errors_against_the_covariance() -> None:
    values, deviations, rho = np.array([0.2, 0.5, -0.1]), np.array([0.1, 0.2, 0.4]), 0.3
    covariance = np.outer(deviations, deviations) * (rho + (1 - rho) * np.eye(3))
    weights = np.linalg.solve(covariance, np.ones(3))
    both = fuse([[value] * 3 for value in values], list(deviations), rho=rho)
    assert both["pleasure"] == pytest.approx(float(weights @ values / weights.sum()))
    assert both["uncertainty"]["arousal"] == pytest.approx(float(weights.sum() ** -0.5))
    assert sum(both["weights"]["dominance"].values()) == pytest.approx(1)
    alone = fuse([[0.1] * 3, [0.1] * 3], [0.2, 0.2])["uncertainty"]["pleasure"]
    tied = fuse([[0.1] * 3, [0.1] * 3], [0.2, 0.2], rho=0.999)["uncertainty"]["pleasure"]
    assert alone == pytest.approx(0.2 / 2**0.5) and tied == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_a_simulation_with_a_known_answer(rho: float) -> None:
    chance = np.random.default_rng(0)
    truth = chance.uniform(-0.4, 0.4, (20_000, 3))
    deviations = np.array([0.1, 0.12, 0.15])
    shared, own = chance.standard_normal((1, 20_000, 3)), chance.standard_normal((3, 20_000, 3))
    errors = deviations[:, None, None] * (rho**0.5 * shared + (1 - rho) ** 0.5 * own)
    both = fuse(list(truth + errors), list(deviations), rho=rho)
    found = np.stack([both[name] for name in NAMES], axis=1) - truth
    claimed = both["uncertainty"]["pleasure"][0]
    assert found.std() < 0.97 * deviations.min(), "better than the best single reading"
    assert found.std() == pytest.approx(claimed, rel=0.02)
    assert np.mean(np.abs(found) < 1.2816 * claimed) == pytest.approx(0.8, abs=0.01)
    if rho:
        naive = fuse(list(truth + errors), list(deviations))
        assert naive["uncertainty"]["pleasure"][0] < 0.75 * claimed, "what rho is there for"


def test_audeering_has_another_order_and_scale() -> None:
    both = fuse([[0.9, 0.25, 0.5]], [[0.1, 0.2, 0.3]], scale="audeering")
    assert [both[name] for name in NAMES] == pytest.approx([0.0, 0.8, -0.5])
    assert [both["uncertainty"][name] for name in NAMES] == pytest.approx([0.6, 0.2, 0.4])
    row = {
        "valence": 0.5,
        "arousal": 0.9,
        "dominance": 0.25,
        "uncertainty": {"arousal": 0.1, "dominance": 0.2, "valence": 0.3},
    }
    assert fuse([row], scale=["audeering"]) == both


def test_what_is_missing_is_left_out() -> None:
    text = {"pleasure": 0.4, "arousal": None, "uncertainty": {"pleasure": 0.1}}
    both = fuse({"text": text, "voice": [np.nan, 0.2, np.nan], "face": None}, {"voice": 0.1})
    assert (both["pleasure"], both["arousal"], both["dominance"]) == (pytest.approx(0.4), pytest.approx(0.2), None)
    assert both["weights"]["pleasure"] == {"text": 1.0, "voice": 0.0, "face": 0.0}
    assert both["uncertainty"]["dominance"] is None and sum(both["weights"]["dominance"].values()) == 0
    batch = fuse([np.array([[0.1, np.nan, 0.3], [0.1, 0.2, 0.3]]), [0.3, 0.2, 0.1]], [0.1, 0.1])
    np.testing.assert_allclose(batch["pleasure"], [0.2, 0.2])
    np.testing.assert_allclose(batch["weights"]["arousal"][1], [1, 0.5])


def test_rows_of_the_pipeline_and_outputs_of_the_model(minilm: Any) -> None:
    row = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)("What a lovely surprise!")
    both = fuse([row, row])
    assert both["pleasure"] == pytest.approx(row["pleasure"])
    assert both["uncertainty"]["pleasure"] == pytest.approx(row["uncertainty"]["pleasure"] / 2**0.5)
    model = LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16)).eval()
    output = model(pooled_embeds=torch.randn(4, 8))
    assert fuse([output])["pleasure"] == pytest.approx(output.logits[:, 0].detach().numpy().clip(-1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.1, 0.2, 0.3]],), r"Reading 0 has no uncertainty.*uncertainty=\{0: 0.2\}"),
        (({"text": {"pleasure": 0.1}},), r"Reading 'text' has no uncertainty"),
        (([],), "takes several readings"),
        (({"pleasure": 0.1},), "takes several readings"),
        (([None, None],), "all are None"),
        (([[0.1, 0.2]], [0.1]), "3 finite numbers"),
        (([[0.1, 0.2, np.inf]], [0.1]), "3 finite numbers"),
        (([["a", "b", "c"]], [0.1]), "must hold numbers"),
        (([[0.1] * 3], [0.0]), "above 0"),
        (([[0.1] * 3], [0.1, 0.2]), "for each of the 1 readings"),
        (({"a": [0.1] * 3}, {"b": 0.1}), "names 'b'"),
        (([np.ones((2, 3)), np.ones((3, 3))], [0.1, 0.1]), "different numbers of rows"),
    ],
)
def test_bad_readings_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(LiminalError, match=message):
        fuse(*arguments)
    with pytest.raises(LiminalError, match="scale must be one of pad, audeering"):
        fuse([[0.1] * 3], [0.1], scale="nrc")
    for rho in (1.0, -0.1):
        with pytest.raises(LiminalError, match="rho"):
            fuse([[0.1] * 3], [0.1], rho=rho)
