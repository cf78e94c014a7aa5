"""Tests of `scripts/research_questions.py`: real and made-up run folders, correlations against their formula."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from training_kit import small_recipe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import research_questions  # noqa: E402

from liminal_hf.training.callbacks import LOG_COLUMNS  # noqa: E402
from liminal_hf.training.fit import fit  # noqa: E402

pytestmark = pytest.mark.nightly


def write_runs(folder: Path, seeds: int = 3) -> None:
    """Runs in which Love tells what loss and MAE don't, and Faith is the loss with noise."""
    generator = np.random.default_rng(0)
    for recipe in range(8):
        for seed in range(seeds):
            mae, loss, own, chance = generator.normal(size=4)
            test_r = 0.5 + 0.01 * (-loss - mae + 2 * own)
            values = {"loss": 1 + 0.1 * loss, "mae": 0.1 + 0.01 * mae, "love": 0.9 + 0.01 * own}
            values |= {"hope": 1 - values["mae"], "faith": 0.5 - 0.1 * loss + 0.02 * chance}
            home = folder / f"run-{recipe}-{seed}"
            home.mkdir(parents=True)
            content = {"model": {"head": "v7" if recipe % 2 else "mlp", "latent_size": recipe}, "seed": seed}
            (home / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
            lines, history = [",".join(LOG_COLUMNS)], []
            for epoch, r in enumerate((0.2, 0.5 + recipe / 100, 0.4)):
                scale = 1.0 if epoch == 1 else 2.0
                row = [epoch, 1, scale * values["loss"], values["hope"], values["faith"], values["love"], 0.1]
                row[4] = "" if content["model"]["head"] == "mlp" else row[4]
                lines.append(",".join(map(str, row)))
                history.append({"eval_pearson_mean": r, "eval_mae_mean": values["mae"], "epoch": epoch})
            (home / "emotional_log.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
            found = {"test": {"pearson_mean": test_r}, "phases": [{"history": history}]}
            (home / "metrics.json").write_text(json.dumps(found), encoding="utf-8")


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(research_questions, "RESAMPLES", 60)
    write_runs(tmp_path / "runs")
    assert research_questions.main([str(tmp_path / "runs"), "--results", str(tmp_path / "results")]) == 0
    report = json.loads((tmp_path / "results" / "hope_faith_love.json").read_text(encoding="utf-8"))
    assert (report["runs"], report["recipes"]) == (24, 8) and len(report["rows"]) == 18
    text = (tmp_path / "results" / "hope_faith_love.md").read_text(encoding="utf-8")
    assert research_questions.markdown(report).strip() in text and str(tmp_path) not in text
    rows = {(row["level"], row["measure"], row["epoch"]): row["found"] for row in report["rows"]}
    love = rows["all runs", "love", "best"]["test_r"]
    assert love["partial"]["mean"] == pytest.approx(1, abs=1e-3) and love["plain"]["mean"] < 0.95
    assert rows["all runs", "love", "best"]["given"] == ["loss", "mae"]
    assert rows["all runs", "hope", "best"]["given"] == ["loss"]
    # Only half of the runs have a Faith, and it is the loss.
    faith = rows["all runs", "faith", "best"]
    assert faith["runs"] == 12 and abs(faith["test_r"]["plain"]["mean"]) > 0.3
    assert faith["test_r"]["partial"]["low"] < 0.3
    # The development r differs by recipe alone.
    within = rows["within one recipe, seeds alone", "love", "best"]
    assert within["gap"]["plain"]["mean"] == pytest.approx(within["test_r"]["plain"]["mean"])

    assert research_questions.main([str(tmp_path / "runs" / "run-0-0")]) == 2
    assert "at least 8" in capsys.readouterr().err
    single = research_questions.find_runs([tmp_path / "runs"])[::3]
    assert research_questions.correlations(single, "love", "best", "recipe") is None


def test_a_real_run_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    result = fit(small_recipe(tmp_path), tmp_path / "run")
    run = research_questions.read_run(tmp_path / "run")
    assert run.test_r == result.metrics["test"]["pearson_mean"]
    assert run.dev_r == pytest.approx(result.metrics["validation"]["pearson_mean"], abs=1e-6)
    assert run.values["best"]["hope"] == pytest.approx(1 - run.values["best"]["mae"], abs=1e-6)
    assert run.gap == run.test_r - run.dev_r and 0 < run.values["last"]["faith"] < 1
    other = fit(small_recipe(tmp_path), tmp_path / "other", seed=1, overrides={"evaluate_test": False})
    assert "test" not in other.metrics and research_questions.read_run(tmp_path / "other") is None


def test_partial_correlation_is_that_of_the_formula() -> None:
    generator = np.random.default_rng(3)
    c = generator.normal(size=200)
    a, b = c + generator.normal(size=200), 1e4 * (c + generator.normal(size=200))
    r = np.corrcoef([a, b, c])
    expected = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert research_questions.partial_correlation(a, b, c[:, None]) == pytest.approx(expected)
    assert np.isnan(research_questions.partial_correlation(1 - c, b, c[:, None]))
