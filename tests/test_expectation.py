"""What is expected without labels, against a simulation with known labels, the page, and the command line."""

import json
from pathlib import Path

import numpy as np
import pytest

from liminal_hf.expectation import LABEL_FREE_DIFFERENCES, expected_interval, expected_pearson
from liminal_hf.modeling.errors import LiminalError

RESULTS = Path(__file__).parents[1] / "scripts" / "results" / "unlabelled.json"


def test_a_model_that_knows_its_errors_promises_the_r_that_labels_give() -> None:
    draw = np.random.default_rng(0)
    predictions = draw.normal(scale=[0.1, 0.2, 0.4], size=(20_000, 3))
    spread = draw.uniform(0.05, 0.4, size=(20_000, 3))
    labels = predictions + draw.normal(scale=spread)
    found = [np.corrcoef(predictions[:, index], labels[:, index])[0, 1] for index in range(3)]
    assert np.allclose(expected_pearson(predictions, spread), found, atol=0.015)


def test_what_does_not_vary_promises_nothing() -> None:
    assert expected_pearson([[0.1], [0.1]], [[0.2], [0.2]]).tolist() == [0]
    assert expected_pearson([[0.1], [0.3]], [[0.0], [0.0]]).tolist() == [1]
    assert np.isnan(expected_pearson([[0.1], [0.1]], [[0.0], [0.0]])).all()


@pytest.mark.parametrize(
    ("predictions", "uncertainty", "message"),
    [
        ([[0.1]], [[0.2]], "two texts or more"),
        ([[0.1], [0.2]], [[0.2]], r"\(2, 1\)"),
        ([[0.1], [np.nan]], [[0.2], [0.2]], "nan in row 1"),
        ([[0.1], [0.2]], [[0.2], [-1]], "not negative"),
    ],
)
def test_errors(predictions, uncertainty, message) -> None:
    with pytest.raises(LiminalError, match=message):
        expected_pearson(predictions, uncertainty)


def test_the_interval_is_that_of_the_page_and_wider_for_few_texts() -> None:
    report = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert LABEL_FREE_DIFFERENCES[True] == pytest.approx(report["difference"]["inside"], abs=0.005)
    assert LABEL_FREE_DIFFERENCES[False] == pytest.approx(report["difference"]["outside"], abs=0.005)
    few, many = (expected_interval(0.6, rows, True) for rows in (20, 2000))
    assert few[0] == many[0] and few[1] < many[1] and few[2] > many[2]
    for expected in (0.0, 0.02, 0.99, 1.0):
        for inside in (True, False):
            middle, low, high = expected_interval(expected, 50, inside)
            assert 0 <= low <= middle <= high <= 1
