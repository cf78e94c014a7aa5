"""Statements about one text: intervals, probabilities and verdicts against one-line formulas, in every row."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from transformers import pipeline

import liminal_hf
from liminal_hf import LiminalConfig
from liminal_hf.modeling.answers import above, classes, interval, standard_quantile, statements, verdict
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.training.calibration import Predicted, calibrate


def test_intervals_cover_what_they_say() -> None:
    draws = np.random.default_rng(0).standard_t(3, 20_000)
    quantiles = np.quantile(draws, (np.arange(41) + 0.5) / 41).tolist()
    for level in (0.5, 0.8, 0.9, 0.97):
        low, high = interval(0.0, 1.0, level, quantiles)
        assert np.mean((draws >= low) & (draws <= high)) == pytest.approx(level, abs=0.02)
    shares = np.linspace(0.001, 0.999, 99)
    values = [standard_quantile(share, quantiles) for share in shares]
    assert all(a < b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("level", [0, 1, -0.5, 1.5, True, "0.8", float("nan")])
def test_a_level_outside_of_its_range_is_refused(level: object) -> None:
    with pytest.raises(LiminalError, match="level must be a number above 0 and below 1"):
        interval(0.0, 1.0, level)  # type: ignore[arg-type]


def test_the_classes_are_those_of_a_normal_distribution() -> None:
    normal = NormalDist(0.1, 0.2)
    low, inside, high = classes(0.1, 0.2, (-0.3, 0.25))
    assert low == pytest.approx(normal.cdf(-0.3)) and high == pytest.approx(1 - normal.cdf(0.25))
    assert low + inside + high == pytest.approx(1) and above(0.1, 0.2, 0.25) == pytest.approx(high)


def test_a_verdict_is_named_only_when_it_is_more_likely_than_not() -> None:
    assert verdict("arousal", (0.2, 0.2, 0.6)) == "aroused" and verdict("warmth", (0.6, 0.2, 0.2)) == "low"
    assert verdict("pleasure", (0.5, 0.25, 0.25)) == "unclear"


def test_a_model_that_knows_its_labels_by_heart_has_statements() -> None:
    said = statements([0.0, 0.5, -0.5], [0.0] * 3, LiminalConfig(pooled_size=8, label_std=[0.1] * 3))
    assert said["verdict"] == {"pleasure": "neutral", "arousal": "aroused", "dominance": "weak"}


def test_calibration_measures_the_quantiles_of_the_errors() -> None:
    model = liminal_hf.LiminalForPADRegression(LiminalConfig(pooled_size=8, latent_size=16, targets=["warmth"]))
    errors = np.random.default_rng(0).normal(size=(500, 1))
    calibrate(model, Predicted(np.zeros((500, 1)), np.full((500, 1), 0.5), errors), None)
    (quantiles,) = model.config.residual_quantiles
    z = errors[:, 0] / (0.5 * model.config.uncertainty_scale[0])
    assert quantiles[20] == pytest.approx(np.median(z), abs=0.01) and quantiles == sorted(quantiles)


@pytest.mark.filterwarnings("ignore")
def test_the_rows_of_the_default_checkpoint_say_them() -> None:
    pad = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
    plain, glad, unread = pad(["The train leaves at nine.", "What a lovely surprise!", ""])
    assert plain["verdict"]["pleasure"] == plain["verdict"]["arousal"] == "neutral"
    assert glad["verdict"]["pleasure"] == "positive" and glad["probability"]["pleasure"] > 0.99
    for row in (plain, glad):
        assert all(low < row[name] < high for name, (low, high) in row["interval"].items())
    assert unread["verdict"] is unread["interval"] is unread["probability"] is None
