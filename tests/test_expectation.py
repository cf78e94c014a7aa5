"""What is expected without labels, against a simulation with known labels, the page, and the command line."""

import json
from collections.abc import Callable
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


def test_evaluate_without_labels_says_what_r_to_expect(
    run: Callable[..., tuple[int, str, str]], refused: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "texts.csv"
    lines = ["What a lovely surprise!", "I hate this company.", "The train leaves at nine.", "", "Help me, please!"]
    path.write_text("id;text\n" + "".join(f"{row};{text}\n" for row, text in enumerate(lines)), encoding="utf-8")
    _, out, _ = run("evaluate", "minilm", "--data", path, "--unlabelled", "--json")
    found = json.loads(out)
    assert (found["rows"], found["read"]) == (5, 4) and found["in_domain"] > 0.5
    assert set(found["expected"]) == {"pleasure", "arousal", "dominance"}
    assert all(0 <= value["low"] <= value["r"] <= value["high"] <= 1 for value in found["expected"].values())
    _, out, err = run("evaluate", "minilm", "--data", path, "--unlabelled")
    assert "r to expect" in out and "1 of 5 texts: empty" in err
    labelled = ("--data", path, "--labels", "V,A,D")
    assert "--labels does not go" in refused("evaluate", "minilm", "--unlabelled", *labelled)
    assert "--data TABLE" in refused("evaluate", "minilm", "--unlabelled")
    path.write_text("id,text\n1,Only one\n", encoding="utf-8")
    assert "one text that can be read; --unlabelled needs two or more" in refused(
        "evaluate", "minilm", "--unlabelled", "--data", path
    )
    path.write_text("id,text\n1,\n2,\n", encoding="utf-8")
    assert "no text that can be read" in refused("evaluate", "minilm", "--unlabelled", "--data", path)
