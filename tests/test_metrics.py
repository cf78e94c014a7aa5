"""The metrics against one-line formulas, other implementations and known cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformers import EvalPrediction

from liminal_hf import metrics
from liminal_hf.modeling.configuration_liminal import DIMENSIONS

generator = np.random.default_rng(0)
LABELS = generator.uniform(-1, 1, size=(200, 3))
PREDICTIONS = 0.5 * LABELS + generator.normal(scale=0.3, size=(200, 3))
ALL = [metrics.pearson, metrics.ccc, metrics.mae, metrics.rmse, metrics.sd_ratio]


def test_against_other_implementations() -> None:
    stats = pytest.importorskip("scipy.stats")
    sklearn = pytest.importorskip("sklearn.metrics")
    for column in range(3):
        p, y = PREDICTIONS[:, column], LABELS[:, column]
        assert metrics.pearson(PREDICTIONS, LABELS)[column] == pytest.approx(stats.pearsonr(p, y)[0], abs=1e-12)
        assert metrics.mae(PREDICTIONS, LABELS)[column] == pytest.approx(sklearn.mean_absolute_error(y, p))
        assert metrics.rmse(PREDICTIONS, LABELS)[column] == pytest.approx(sklearn.root_mean_squared_error(y, p))
        lin = 2 * np.cov(p, y, ddof=0)[0, 1] / (p.var() + y.var() + (p.mean() - y.mean()) ** 2)
        assert metrics.ccc(PREDICTIONS, LABELS)[column] == pytest.approx(lin)
        sigma = np.abs(PREDICTIONS).round(1)  # with ties
        found = metrics.uncertainty_spearman(PREDICTIONS, LABELS, sigma)[column]
        assert found == pytest.approx(stats.spearmanr(sigma[:, column], np.abs(p - y))[0], abs=1e-12)


@pytest.mark.parametrize("metric", ALL)
def test_a_missing_label_counts_nowhere(metric) -> None:
    labels = LABELS.copy()
    labels[::3, 1] = -100
    found = metric(PREDICTIONS, labels)
    kept = np.arange(len(labels)) % 3 != 0
    assert found[1] == metric(PREDICTIONS[kept], LABELS[kept])[1]
    assert found[0] == metric(PREDICTIONS, LABELS)[0]
    labels[:, 2] = -100
    assert np.isnan(metric(PREDICTIONS, labels)[2])


def test_missing_labels_in_hope_and_love() -> None:
    labels = np.array([[0.5, -100, -100], [-100, 0.0, -100]])
    predictions = np.array([[0.0, 0.9, 0.9], [0.9, 0.25, 0.9]])
    assert metrics.hope(predictions, labels) == 1 - (0.5 + 0.25) / 2
    mse = (0.25 + 0.0625) / 2
    assert metrics.love(predictions, labels) == pytest.approx(math.exp(-mse) * (1 - np.var(predictions, ddof=1)))


def test_constants_give_zero_and_not_nan() -> None:
    constant = np.full((200, 3), 0.1)  # 0.1 has no exact mean: the standard deviation is not exactly 0
    for predictions, labels in ((constant, LABELS), (PREDICTIONS, constant), (constant, constant)):
        assert metrics.pearson(predictions, labels).tolist() == [0, 0, 0]
        assert metrics.ccc(predictions, labels).tolist() == [0, 0, 0]
    assert metrics.sd_ratio(PREDICTIONS, constant).tolist() == [0, 0, 0]
    one = metrics.compute_metrics(EvalPrediction(predictions=PREDICTIONS[:1], label_ids=LABELS[:1]))
    assert all(math.isfinite(value) for value in one.values())


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (12, 3), elements=st.floats(-2, 2, width=32)), st.floats(0.125, 8), st.floats(-1, 1))
def test_ranges_and_invariance(predictions, scale, shift) -> None:
    labels = LABELS[:12]
    r, agreement = metrics.pearson(predictions, labels), metrics.ccc(predictions, labels)
    assert ((r >= -1) & (r <= 1)).all() and (np.abs(agreement) <= np.abs(r) + 1e-9).all()
    spread = predictions.std(axis=0) > 1e-2
    moved = metrics.pearson(predictions.astype(np.float64) * scale + shift, labels)
    assert np.allclose(r[spread], moved[spread], atol=1e-6)
    assert 0 <= metrics.hope(predictions, labels) <= 1 and 0 <= metrics.love(predictions, labels) <= 1


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        (np.zeros((2, 3)), np.zeros((3, 3)), r"\(2, 3\) and \(3, 3\)"),
        (np.zeros(3), np.zeros(3), "shape"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "N at least 1"),
        (np.array([[0, 0, np.nan]]), np.zeros((1, 3)), "predictions hold nan in row 0, column 2.*learning rate"),
        (np.zeros((1, 3)), np.array([[np.inf, 0, 0]]), "labels hold inf in row 0.*-100"),
        (np.zeros((1, 3)), np.full((1, 3), -100.0), "Every label"),
    ],
)
def test_errors_say_where(predictions, labels, message) -> None:
    for metric in [*ALL, metrics.hope, metrics.love]:
        with pytest.raises(ValueError, match=message):
            metric(predictions, labels)


def test_faith_wants_confidences() -> None:
    assert metrics.faith(np.full((4, 5), 0.49)) == pytest.approx(0.7)
    for wrong in ([], [1.5], [-0.1], [np.nan]):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            metrics.faith(wrong)


def test_hope_and_love_are_clipped() -> None:
    assert metrics.hope([[5.0]], [[0.0]]) == 0
    assert metrics.love([[10.0, -10.0]], [[10.0, -10.0]]) == 0


def test_compute_metrics_has_every_key_as_a_float() -> None:
    confidences, uncertainty = np.full((200, 5), 0.25), np.abs(PREDICTIONS) + 0.1
    found = metrics.compute_metrics(
        EvalPrediction(predictions=(PREDICTIONS, confidences, uncertainty), label_ids=LABELS)
    )
    names = ("pearson", "ccc", "mae", "rmse", "sd_ratio", "uncertainty_spearman")
    expected = {f"{name}_{dimension}" for name in names for dimension in (*DIMENSIONS, "mean")}
    assert set(found) == expected | {"hope", "faith", "love"}
    assert all(type(value) is float for value in found.values())
    assert found["pearson_mean"] == pytest.approx(metrics.pearson(PREDICTIONS, LABELS).mean())
    assert found["faith"] == 0.5


def test_compute_metrics_takes_what_the_model_has() -> None:
    alone = metrics.compute_metrics(EvalPrediction(predictions=PREDICTIONS, label_ids=LABELS))
    assert "faith" not in alone and not any("uncertainty" in key for key in alone)
    two = metrics.compute_metrics(EvalPrediction(predictions=(PREDICTIONS, np.ones((200, 1))), label_ids=LABELS))
    assert two["faith"] == 1 and not any("uncertainty" in key for key in two)
    sigma = np.abs(PREDICTIONS - LABELS)
    named = metrics.make_compute_metrics(["logits", "uncertainty"])
    found = named(EvalPrediction(predictions=(PREDICTIONS, sigma), label_ids=LABELS))
    assert "faith" not in found and found["uncertainty_spearman_mean"] == pytest.approx(1)
    with pytest.raises(ValueError, match="keys_to_ignore_at_inference"):
        named(EvalPrediction(predictions=(PREDICTIONS, sigma, sigma), label_ids=LABELS))
    for wrong in ([], ["confidences"], ["logits", "hidden_states"], ["logits", "logits"]):
        with pytest.raises(ValueError, match="outputs must be"):
            metrics.make_compute_metrics(wrong)


def test_one_dimension_without_labels_leaves_the_others() -> None:
    labels = LABELS.copy()
    labels[:, 2] = -100
    found = metrics.compute_metrics(EvalPrediction(predictions=PREDICTIONS, label_ids=labels))
    assert math.isnan(found["pearson_dominance"])
    assert found["pearson_mean"] == pytest.approx(metrics.pearson(PREDICTIONS, LABELS)[:2].mean())


def test_calibration_reaches_the_correlation_and_no_other_line_does_better() -> None:
    squeezed = PREDICTIONS * 0.2 + 0.3
    best = metrics.affine_calibrated_ccc(squeezed, LABELS, squeezed, LABELS)
    assert best == pytest.approx(metrics.pearson(PREDICTIONS, LABELS))
    assert (metrics.ccc(squeezed, LABELS) < best).all()
    slope, intercept = metrics.affine_calibration(squeezed, LABELS)
    for factor, move in ((0.9, 0), (1.1, 0), (1, 0.05), (1, -0.05)):
        assert (metrics.ccc(squeezed * slope * factor + intercept + move, LABELS) < best).all()
    # Fitted on one half, measured on the other: nothing of the other half enters.
    dev, test = slice(0, 100), slice(100, 200)
    found = metrics.affine_calibrated_ccc(squeezed[dev], LABELS[dev], squeezed[test], LABELS[test])
    slope, intercept = metrics.affine_calibration(squeezed[dev], LABELS[dev])
    assert found == pytest.approx(metrics.ccc(squeezed[test] * slope + intercept, LABELS[test]))
    assert metrics.affine_calibrated_ccc(squeezed * 0, LABELS, squeezed, LABELS).tolist() == [0, 0, 0]


def test_bootstrap() -> None:
    better = 0.7 * LABELS + 0.3 * PREDICTIONS
    found = metrics.paired_bootstrap(better, PREDICTIONS, LABELS, n=300)
    assert found.difference == metrics.mean_pearson(better, LABELS) - metrics.mean_pearson(PREDICTIONS, LABELS)
    assert 0 < found.low < found.difference < found.high
    assert found == metrics.paired_bootstrap(better, PREDICTIONS, LABELS, n=300, seed=0)
    assert found != metrics.paired_bootstrap(better, PREDICTIONS, LABELS, n=300, seed=1)
    same = metrics.paired_bootstrap(PREDICTIONS, PREDICTIONS, LABELS, n=50)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    by_mae = metrics.paired_bootstrap(better, PREDICTIONS, LABELS, lambda p, y: float(metrics.mae(p, y).mean()), n=50)
    assert by_mae.high < 0


def test_resamples_without_a_label_are_left_out() -> None:
    labels = np.full((6, 3), -100.0)
    labels[0], labels[1] = 0.1, 0.4
    found = metrics.bootstrap_interval(np.zeros((6, 3)), labels, lambda p, y: float(metrics.mae(p, y).mean()), n=200)
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.4)


def test_the_bootstrap_interval_is_that_of_theory() -> None:
    """For the mean of n values it must be close to mean ± 1.96 standard errors."""
    values = generator.normal(size=(400, 1))
    found = metrics.bootstrap_interval(values, np.zeros((400, 1)), lambda p, y: float((p - y).mean()), n=2000)
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_conformal_intervals_cover_new_data() -> None:
    sigma = generator.uniform(0.05, 0.4, size=(4000, 3))
    residuals = np.abs(generator.standard_t(3, size=(4000, 3))) * sigma  # heavier tails than Gaussian
    residuals[::7, 1] = np.nan
    old, new = slice(0, 2000), slice(2000, 4000)
    factors = metrics.conformal_factors(residuals[old], sigma[old])
    covered = metrics.interval_coverage(residuals[new], sigma[new], factors)
    assert np.abs(covered - np.array([[0.5], [0.8], [0.9]])).max() < 0.035
    gaussian = metrics.interval_coverage(residuals[new], sigma[new], metrics.gaussian_factors())
    assert (gaussian[2] < 0.88).all()


def test_conformal_rank_is_exact_and_small_samples_are_honest() -> None:
    residuals = np.arange(1.0, 10.0)[:, None]  # nine scores: the 90% one is the ninth, and no tenth exists
    assert metrics.conformal_factors(residuals, np.ones((9, 1)), [0.5, 0.9, 0.95]).ravel().tolist() == [5, 9, np.inf]
    with pytest.raises(ValueError, match="above 0"):
        metrics.conformal_factors(residuals, np.zeros((9, 1)))
    with pytest.raises(ValueError, match="Levels"):
        metrics.conformal_factors(residuals, np.ones((9, 1)), [90])
    with pytest.raises(ValueError, match="shape of the predictions"):
        metrics.conformal_factors(residuals, np.ones((8, 1)))
    with pytest.raises(ValueError, match="factors must have shape"):
        metrics.interval_coverage(residuals, np.ones((9, 1)), [1.0])
    with pytest.raises(ValueError, match="standard deviation"):
        metrics.uncertainty_spearman(PREDICTIONS, LABELS, -np.ones((200, 3)))


def test_absolute_errors_mark_what_is_missing() -> None:
    found = metrics.absolute_errors([[0.5, 0.5]], [[0.25, -100]])
    assert found[0, 0] == 0.25 and np.isnan(found[0, 1])


def test_the_constant_on_emobank_scores_what_the_protocol_says(data_dir) -> None:
    from liminal_hf.data import load_emobank

    corpus = load_emobank(data_dir)
    train, test = (np.array(corpus[split]["labels"][:]) for split in ("train", "test"))
    constant = np.tile(train.mean(axis=0), (len(test), 1))
    assert metrics.mae(constant, test).round(4).tolist() == [0.1225, 0.0952, 0.0782]
    assert metrics.pearson(constant, test).tolist() == [0, 0, 0]


def test_all_intervals_at_once_are_those_of_one_by_one() -> None:
    """The sums over weighted rows give what each figure gives on the drawn rows, also where labels are missing."""
    labels = LABELS.copy()
    labels[::7, 1] = -100
    found = metrics.bootstrap_intervals(PREDICTIONS, labels, n=200, seed=3)
    assert len(found) == 16
    for name in ("pearson", "ccc", "mae", "rmse"):
        figure = getattr(metrics, name)
        for column, dimension in enumerate([*metrics.DIMENSIONS, "mean"]):

            def statistic(p, y, figure=figure, column=column):
                return figure(p, y).mean() if column == 3 else figure(p, y)[column]

            slow = metrics.bootstrap_interval(PREDICTIONS, labels, statistic, n=200, seed=3)
            assert found[f"{name}_{dimension}"] == pytest.approx([slow.low, slow.high], abs=1e-9)


@pytest.mark.filterwarnings("error")
def test_intervals_of_what_does_not_vary_or_is_not_there() -> None:
    labels = LABELS.copy()
    labels[:, 0] = -100
    found = metrics.bootstrap_intervals(np.full_like(labels, 0.3), labels, n=20)
    assert "pearson_pleasure" not in found and "mae_pleasure" not in found
    assert found["pearson_arousal"] == found["ccc_dominance"] == found["pearson_mean"] == [0.0, 0.0]
    assert found["mae_mean"][0] > 0
    one = metrics.bootstrap_intervals([[0.1, 0.2, 0.3]], [[0.1, 0.2, 0.5]], n=5)
    assert one["mae_dominance"] == pytest.approx([0.2, 0.2]) and one["pearson_mean"] == [0, 0]
