"""The script that asks whether uncertainties rank training runs."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly
CORPORA = ("vader", "brighter", "emoita", "wassa23", "diary")


@pytest.mark.timeout(900)
def test_two_runs_are_ranked(minilm: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not all((data_dir / name).is_dir() for name in CORPORA):
        pytest.skip(f"needs {', '.join(CORPORA)} in LIMINAL_DATA_DIR")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import unlabelled_runs

    folders = ["--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    assert unlabelled_runs.main(["--smallest", *folders]) == 0
    report = json.loads((tmp_path / "unlabelled_runs.json").read_text(encoding="utf-8"))
    assert report["runs"] == 2 and "EmoBank, test / pleasure" in report["over runs"]
    for found in report["over runs"].values():
        low, high = found["found"]
        assert low <= found["chosen"] <= high and all(-1 <= end <= 1 for end in (*found["found"], *found["expected"]))
    # The runs are there, and are not trained again.
    metrics = tmp_path / "work" / "run-1" / "metrics.json"
    before = metrics.stat().st_mtime_ns
    assert unlabelled_runs.main(["--smallest", *folders]) == 0
    assert metrics.stat().st_mtime_ns == before
