"""The figures of the studies: calibrated scale and spread, conformal intervals, bootstraps."""

import sys
from pathlib import Path

import numpy as np
import pytest

from liminal_hf.metrics import ccc, mae, mean_pearson, pearson, uncertainty_spearman

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

from research.metrics import (
    absolute_errors,
    affine_calibrated_ccc,
    affine_calibration,
    bootstrap,
    conformal_factors,
    gaussian_factors,
    interval_coverage,
    paired_bootstrap,
)

pytestmark = pytest.mark.nightly
generator = np.random.default_rng(0)
LABELS = generator.uniform(-1, 1, size=(200, 3))
PREDICTIONS = 0.5 * LABELS + generator.normal(scale=0.3, size=(200, 3))


def test_calibration_reaches_the_correlation_and_no_other_line_does_better() -> None:
    squeezed = PREDICTIONS * 0.2 + 0.3
    best = affine_calibrated_ccc(squeezed, LABELS, squeezed, LABELS)
    assert best == pytest.approx(pearson(PREDICTIONS, LABELS))
    assert (ccc(squeezed, LABELS) < best).all()
    slope, intercept = affine_calibration(squeezed, LABELS)
    for factor, move in ((0.9, 0), (1.1, 0), (1, 0.05), (1, -0.05)):
        assert (ccc(squeezed * slope * factor + intercept + move, LABELS) < best).all()
    # Fitted on one half, measured on the other: nothing of the other half enters.
    dev, test = slice(0, 100), slice(100, 200)
    found = affine_calibrated_ccc(squeezed[dev], LABELS[dev], squeezed[test], LABELS[test])
    slope, intercept = affine_calibration(squeezed[dev], LABELS[dev])
    assert found == pytest.approx(ccc(squeezed[test] * slope + intercept, LABELS[test]))
    assert affine_calibrated_ccc(squeezed * 0, LABELS, squeezed, LABELS).tolist() == [0, 0, 0]


def test_bootstrap() -> None:
    better = 0.7 * LABELS + 0.3 * PREDICTIONS
    found = paired_bootstrap(better, PREDICTIONS, LABELS, n=300)
    assert found.estimate == mean_pearson(better, LABELS) - mean_pearson(PREDICTIONS, LABELS)
    assert 0 < found.low < found.estimate < found.high
    assert found == paired_bootstrap(better, PREDICTIONS, LABELS, n=300, seed=0)
    assert found != paired_bootstrap(better, PREDICTIONS, LABELS, n=300, seed=1)
    same = paired_bootstrap(PREDICTIONS, PREDICTIONS, LABELS, n=50)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    by_mae = paired_bootstrap(better, PREDICTIONS, LABELS, lambda p, y: float(mae(p, y).mean()), n=50)
    assert by_mae.high < 0


def test_resamples_without_a_label_are_left_out() -> None:
    labels = np.full((6, 3), -100.0)
    labels[0], labels[1] = 0.1, 0.4
    found = bootstrap(lambda p, y: float(mae(p, y).mean()), np.zeros((6, 3)), labels, n=200)
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.4)


def test_the_bootstrap_interval_is_that_of_theory() -> None:
    """For the mean of n values it must be close to mean ± 1.96 standard errors."""
    values = generator.normal(size=(400, 1))
    found = bootstrap(lambda p, y: float((p - y).mean()), values, np.zeros((400, 1)), n=2000)
    error = values.std() / 20
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_conformal_intervals_cover_new_data() -> None:
    sigma = generator.uniform(0.05, 0.4, size=(4000, 3))
    residuals = np.abs(generator.standard_t(3, size=(4000, 3))) * sigma  # heavier tails than Gaussian
    residuals[::7, 1] = np.nan
    old, new = slice(0, 2000), slice(2000, 4000)
    factors = conformal_factors(residuals[old], sigma[old])
    covered = interval_coverage(residuals[new], sigma[new], factors)
    assert np.abs(covered - np.array([[0.5], [0.8], [0.9]])).max() < 0.035
    gaussian = interval_coverage(residuals[new], sigma[new], gaussian_factors())
    assert (gaussian[2] < 0.88).all()


def test_conformal_rank_is_exact_and_small_samples_are_honest() -> None:
    residuals = np.arange(1.0, 10.0)[:, None]  # nine scores: the 90% one is the ninth, and no tenth exists
    assert conformal_factors(residuals, np.ones((9, 1)), [0.5, 0.9, 0.95]).ravel().tolist() == [5, 9, np.inf]
    with pytest.raises(ValueError, match="above 0"):
        conformal_factors(residuals, np.zeros((9, 1)))
    with pytest.raises(ValueError, match="Levels"):
        conformal_factors(residuals, np.ones((9, 1)), [90])
    with pytest.raises(ValueError, match="shape of the predictions"):
        conformal_factors(residuals, np.ones((8, 1)))
    with pytest.raises(ValueError, match="factors must have shape"):
        interval_coverage(residuals, np.ones((9, 1)), [1.0])
    with pytest.raises(ValueError, match="standard deviation"):
        uncertainty_spearman(PREDICTIONS, LABELS, -np.ones((200, 3)))


def test_absolute_errors_mark_what_is_missing() -> None:
    found = absolute_errors([[0.5, 0.5]], [[0.25, -100]])
    assert found[0, 0] == 0.25 and np.isnan(found[0, 1])
