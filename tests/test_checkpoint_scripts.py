"""Tests of `scripts/calibration.py` and `scripts/errors.py`: on a tiny corpus, with a checkpoint made for it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evidence_kit import write_checkpoint, write_emobank
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import calibration  # noqa: E402
import errors  # noqa: E402
from research import checkpoint as checkpoints  # noqa: E402
from research.metrics import absolute_errors  # noqa: E402

from liminal_hf.data import load_emobank  # noqa: E402

pytestmark = pytest.mark.nightly


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(write_emobank(tmp_path / "data")))
    return tmp_path


def run(script: Any, folder: Path, name: str, *more: str) -> dict[str, Any]:
    folders = ["--work", str(folder / "work"), "--results", str(folder / "results")]
    assert script.main([str(folder / "v7"), *folders, *more]) == 0
    text = (folder / "results" / f"{name}.md").read_text(encoding="utf-8")
    report = json.loads((folder / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert script.markdown(report).strip() in text and str(folder) not in text
    return report


def test_both_scripts(corpus: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    write_checkpoint(corpus / "v7", minilm)
    report = run(calibration, corpus, "calibration")
    assert report["command"] == "python scripts/calibration.py v7"
    assert (report["rows_dev"], report["rows_test"]) == (10, 10)
    test = load_emobank()["test"]
    # What was read is kept, so that the next script needs no model.
    monkeypatch.setattr(checkpoints, "pipeline", None)
    reading, labels = checkpoints.read_split(str(corpus / "v7"), test, corpus / "work")
    assert reading.pad.shape == reading.uncertainty.shape == (10, 3) and reading.confidence.shape == (10,)
    off = absolute_errors(reading.pad, labels)
    expected = spearmanr(reading.uncertainty[:, 0], off[:, 0]).statistic
    assert report["ranking"]["pleasure"]["uncertainty"]["mean"] == pytest.approx(expected, abs=1e-5)

    found = run(errors, corpus, "errors", "--texts")
    assert found["groups"]["all"]["sentences"]["mae"] == pytest.approx(off.mean(), abs=1e-5)
    genres = found["groups"]["genre"]
    assert set(genres) == set(load_emobank(extras=True)["test"]["genre"][:])
    assert sum(entry["rows"] for entry in genres.values()) == 10
    assert len(found["worst"]) == 10 and found["causes"] == {"not read yet": 10}
    first = found["worst"][0]
    row = test["id"][:].index(first["id"])
    np.testing.assert_allclose(first["label"], labels[row], atol=1e-5)
    assert all(len(ratings) <= 8 and ratings == "".join(sorted(ratings)) for ratings in first["ratings"].values())
    assert f"{first['id']}: {test['text'][row]}" in capsys.readouterr().out

    # A cause that somebody has found is shown with its sentence.
    causes = corpus / "causes.json"
    causes.write_text(json.dumps({"sentences": {first["id"]: ["irony", "of a soup"]}}), encoding="utf-8")
    found = run(errors, corpus, "errors", "--causes", str(causes))
    assert found["causes"] == {"not read yet": 9, "irony": 1} and found["worst"][0]["why"] == "of a soup"


def test_a_head_without_uncertainty_is_refused(corpus: Path, minilm: Path, capsys: Any) -> None:
    folder = str(write_checkpoint(corpus / "mlp", minilm, "mlp"))
    folders = ["--work", str(corpus / "work"), "--results", str(corpus / "results")]
    assert calibration.main([folder, *folders]) == 2
    assert "no uncertainty" in capsys.readouterr().err
    assert errors.main([str(corpus / "nothing"), *folders]) == 2


def test_intervals_cover_what_they_promise() -> None:
    generator = np.random.default_rng(0)
    sd = generator.uniform(0.05, 0.3, (8000, 3))
    labels = generator.normal(0, sd)
    halves = [checkpoints.Reading(np.zeros((4000, 3)), sd[part]) for part in (slice(4000), slice(4000, None))]
    found = calibration.coverage(halves[0], labels[:4000], halves[1], labels[4000:])
    for level, kinds in found.items():
        for kind in kinds.values():
            if kind is not kinds["constant"]:
                assert kind["coverage"]["arousal"] == pytest.approx(float(level), abs=0.03)
    assert found["0.9"]["conformal"]["width"]["pleasure"] < found["0.9"]["constant"]["width"]["pleasure"]


def test_a_signal_that_repeats_a_baseline_adds_nothing() -> None:
    generator = np.random.default_rng(0)
    length, distance, other = generator.normal(size=(3, 500))
    error = distance + other
    found = calibration.rank_correlations(error, np.column_stack([length, distance, np.exp(distance), other]))
    for place, values in enumerate((length, distance, distance, other)):
        assert found[place] == pytest.approx(spearmanr(values, error).statistic)
    assert abs(found[4]) < 1e-6 and found[5] > 0.9


def test_groups_are_named_by_what_they_span() -> None:
    names = errors.quarters(np.array([1.0, 1, 1, 1, 1, 2, 3, 9]), ".0f")
    assert names.tolist() == ["1 to 1"] * 5 + ["2 to 2"] + ["3 to 9"] * 2
    assert errors.quoted('"No,"\n she said.') == 'No," she said.' and errors.quoted("“Yes,”") == "Yes,"
    assert errors.quoted("word " * 40).endswith("word ...") and len(errors.quoted("word " * 40)) < 120


def test_the_causes_of_the_repository_are_all_explained() -> None:
    content = json.loads(errors.CAUSES.read_text(encoding="utf-8"))
    assert content["sentences"] and {cause for cause, _ in content["sentences"].values()} <= set(content["causes"])
