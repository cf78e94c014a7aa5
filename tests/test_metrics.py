"""The metrics against one-line formulas, other implementations and known cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr
from transformers import EvalPrediction

from liminal_hf import metrics
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.errors import LiminalError

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


def test_a_prediction_without_a_label_counts_nowhere() -> None:
    labels = np.array([[0.5, -100, -100], [-100, 0.0, -100]])
    predictions = np.array([[0.0, 0.9, 0.9], [0.9, 0.25, 0.9]])
    assert metrics.hope(predictions, labels) == 1 - (0.5 + 0.25) / 2
    mse = (0.25 + 0.0625) / 2
    assert metrics.love(predictions, labels) == pytest.approx(math.exp(-mse) * (1 - np.var([0.0, 0.25], ddof=1)))
    changed = np.where(labels == -100, 7.0, predictions)
    for figure in (metrics.hope, metrics.love):
        assert figure(changed, labels) == figure(predictions, labels)


def test_a_correlation_that_does_not_exist_is_nan_and_no_mean_counts_it() -> None:
    constant = np.full((200, 3), 0.1)  # 0.1 has no exact mean: the standard deviation is not exactly 0
    for predictions, labels in ((constant, LABELS), (PREDICTIONS, constant), (constant, constant)):
        assert np.isnan(metrics.pearson(predictions, labels)).all()
        assert metrics.ccc(predictions, labels).tolist() == [0, 0, 0]
    assert np.isnan(metrics.sd_ratio(PREDICTIONS, constant)).all()
    assert np.isnan(metrics.uncertainty_spearman(PREDICTIONS, LABELS, constant)).all()
    one = metrics.compute_metrics(EvalPrediction(predictions=PREDICTIONS[:1], label_ids=LABELS[:1]))
    assert math.isnan(one["pearson_mean"]) and math.isfinite(one["mae_mean"])
    half = np.concatenate([PREDICTIONS[:, :2], constant[:, :1]], axis=1)
    assert metrics.mean_pearson(half, LABELS) == metrics.mean_pearson(PREDICTIONS[:, :2], LABELS[:, :2])


@settings(max_examples=100, deadline=None)
@given(arrays(np.float32, (12, 3), elements=st.floats(-2, 2, width=32)), st.floats(0.125, 8), st.floats(-1, 1))
def test_ranges_and_invariance(predictions, scale, shift) -> None:
    labels = LABELS[:12]
    r, agreement = np.nan_to_num(metrics.pearson(predictions, labels)), metrics.ccc(predictions, labels)
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
    for metric in [*ALL, metrics.hope, metrics.love, metrics.love_plus]:
        with pytest.raises(ValueError, match=message):
            metric(predictions, labels)


def test_faith_wants_confidences() -> None:
    assert metrics.faith(np.full((4, 5), 0.49)) == pytest.approx(0.7)
    for wrong in ([], [1.5], [-0.1], [np.nan]):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            metrics.faith(wrong)


def test_faith_plus_is_high_only_where_the_sure_rows_are_right() -> None:
    errors = np.abs(PREDICTIONS - LABELS).mean(axis=1)
    confidences = np.linspace(0.1, 0.2, 5) / (1 + errors[:, None])
    assert metrics.faith_plus(PREDICTIONS, LABELS, confidences) == pytest.approx(1)
    assert metrics.faith_plus(PREDICTIONS, LABELS, 1 - confidences) == pytest.approx(-1)
    other = np.random.default_rng(0).random(len(errors))
    assert metrics.faith_plus(PREDICTIONS, LABELS, other) == pytest.approx(spearmanr(other, -errors).statistic)
    assert np.isnan(metrics.faith_plus(PREDICTIONS, LABELS, np.full((200, 5), 0.9)))
    labels = LABELS.copy()
    labels[3], labels[4, 1] = -100, -100
    changed = np.where(labels == -100, 7.0, PREDICTIONS)
    assert metrics.faith_plus(changed, labels, other) == metrics.faith_plus(PREDICTIONS, labels, other)
    with pytest.raises(LiminalError, match="200; got 3"):
        metrics.faith_plus(PREDICTIONS, LABELS, other[:3])


def test_love_plus_is_the_skill_over_the_best_constant() -> None:
    expected = 1 - np.square(PREDICTIONS - LABELS).mean(axis=0) / LABELS.var(axis=0)
    assert metrics.love_plus(PREDICTIONS, LABELS) == pytest.approx(expected.mean())
    constant = np.broadcast_to(LABELS.mean(axis=0), LABELS.shape)
    assert metrics.love_plus(constant, LABELS) == pytest.approx(0)
    assert metrics.love_plus(constant + 0.1, LABELS) < 0 and metrics.love_plus(LABELS, LABELS) == 1
    # Love itself prefers the constant.
    assert metrics.love(constant, LABELS) > metrics.love(constant + 3 * (LABELS - constant), LABELS)


def test_hope_and_love_are_clipped() -> None:
    assert metrics.hope([[5.0]], [[0.0]]) == 0
    assert metrics.love([[10.0, -10.0]], [[10.0, -10.0]]) == 0


@pytest.mark.parametrize("targets", [DIMENSIONS, ("valence", "arousal"), ("joy",)])
def test_figures_have_the_names_of_the_targets(targets: tuple[str, ...]) -> None:
    width = len(targets)
    predictions, labels = PREDICTIONS[:, :width], LABELS[:, :width]
    outputs = {"logits": predictions, "confidences": np.full((200, 5), 0.25), "uncertainty": np.abs(predictions) + 0.1}
    found = metrics.make_compute_metrics(targets=targets)(EvalPrediction(predictions=outputs, label_ids=labels))
    names = ("pearson", "ccc", "mae", "rmse", "sd_ratio", "uncertainty_spearman")
    expected = {f"{name}_{target}" for name in names for target in (*targets, "mean")}
    assert set(found) == expected | {"hope", "faith", "love", "faith_plus", "love_plus"}
    assert all(type(value) is float for value in found.values())
    assert found["pearson_mean"] == pytest.approx(metrics.pearson(predictions, labels).mean())
    assert found["faith"] == 0.5
    if width != 3:
        with pytest.raises(LiminalError, match=rf"3 targets .* {width} columns.*make_compute_metrics\(targets="):
            metrics.compute_metrics(EvalPrediction(predictions=predictions, label_ids=labels))


def test_no_output_is_taken_for_another() -> None:
    sigma = np.abs(PREDICTIONS - LABELS)
    for two in ((PREDICTIONS, sigma), {"logits": PREDICTIONS, "uncertainty": sigma}, PREDICTIONS):
        assert "faith" not in metrics.compute_metrics(EvalPrediction(predictions=two, label_ids=LABELS))
    three = (PREDICTIONS, np.ones((200, 1)), sigma)
    found = metrics.compute_metrics(EvalPrediction(predictions=three, label_ids=LABELS))
    assert found["faith"] == 1 and found["uncertainty_spearman_mean"] == pytest.approx(1)
    named = metrics.make_compute_metrics(["logits", "uncertainty"])
    found = named(EvalPrediction(predictions=(PREDICTIONS, sigma), label_ids=LABELS))
    assert "faith" not in found and found["uncertainty_spearman_mean"] == pytest.approx(1)
    with pytest.raises(ValueError, match="keys_to_ignore_at_inference"):
        named(EvalPrediction(predictions=(PREDICTIONS, sigma, sigma), label_ids=LABELS))
    for wrong in ([], ["confidences"], ["logits", "hidden_states"], ["logits", "logits"]):
        with pytest.raises(ValueError, match="outputs must be"):
            metrics.make_compute_metrics(wrong)


def test_batch_by_batch_gives_the_same() -> None:
    whole = metrics.compute_metrics(EvalPrediction(predictions=PREDICTIONS, label_ids=LABELS))
    compute = metrics.make_compute_metrics()
    for _ in range(2):  # nothing is left from the first evaluation
        for start in range(0, 200, 64):
            rows = slice(start, start + 64)
            batch = EvalPrediction(predictions=torch.tensor(PREDICTIONS[rows]), label_ids=torch.tensor(LABELS[rows]))
            found = compute(batch, compute_result=start + 64 >= 200)
        assert found == pytest.approx(whole, abs=1e-6)


def test_one_dimension_without_labels_leaves_the_others() -> None:
    labels = LABELS.copy()
    labels[:, 2] = -100
    found = metrics.compute_metrics(EvalPrediction(predictions=PREDICTIONS, label_ids=labels))
    assert math.isnan(found["pearson_dominance"])
    assert found["pearson_mean"] == pytest.approx(metrics.pearson(PREDICTIONS, LABELS)[:2].mean())


def test_the_constant_on_emobank_scores_what_the_protocol_says(data_dir) -> None:
    from liminal_hf.data import load_emobank

    corpus = load_emobank(data_dir)
    train, test = (np.array(corpus[split]["labels"][:]) for split in ("train", "test"))
    constant = np.tile(train.mean(axis=0), (len(test), 1))
    assert metrics.mae(constant, test).round(4).tolist() == [0.1225, 0.0952, 0.0782]
    assert np.isnan(metrics.pearson(constant, test)).all()


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

            drawn = metrics.resamples(labels != -100, 200, seed=3)
            slow = np.percentile([statistic(PREDICTIONS[rows], labels[rows]) for rows in drawn], [2.5, 97.5])
            assert found[f"{name}_{dimension}"] == pytest.approx(list(slow), abs=1e-9)


@pytest.mark.filterwarnings("error")
def test_intervals_of_what_does_not_vary_or_is_not_there() -> None:
    labels = LABELS.copy()
    labels[:, 0] = -100
    found = metrics.bootstrap_intervals(np.full_like(labels, 0.3), labels, n=20)
    assert "pearson_pleasure" not in found and "mae_pleasure" not in found
    assert "pearson_arousal" not in found and "pearson_mean" not in found
    assert found["ccc_dominance"] == found["ccc_mean"] == [0.0, 0.0]
    assert found["mae_mean"][0] > 0
    one = metrics.bootstrap_intervals([[0.1, 0.2, 0.3]], [[0.1, 0.2, 0.5]], n=5)
    assert one["mae_dominance"] == pytest.approx([0.2, 0.2]) and "pearson_mean" not in one
    two = metrics.bootstrap_intervals(PREDICTIONS[:, :2], LABELS[:, :2], n=20, targets=("valence", "arousal"))
    assert {name for name in two if name.startswith("mae")} == {"mae_valence", "mae_arousal", "mae_mean"}
