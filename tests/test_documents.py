"""The measurement on EmoBank's documents: their order, whose labels count where, and a run on a few of them."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from liminal_hf.data import load_emobank

pytestmark = pytest.mark.nightly

pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'liminal_hf[benchmark]'")
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import documents as script  # noqa: E402


@pytest.fixture(scope="module")
def few(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EmoBank cut down to a few documents, all of its files."""
    folder = tmp_path_factory.mktemp("few")
    meta = pd.read_csv(data_dir / "emobank" / "meta.tsv", sep="\t", keep_default_na=False)
    chosen = set(meta.loc[meta["document"].isin(meta["document"].unique()[:4]), "id"])
    for name in ("emobank.csv", "reader.csv", "writer.csv"):
        table = pd.read_csv(data_dir / "emobank" / name, keep_default_na=False, dtype=str)
        table[table["id"].isin(chosen)].to_csv(folder / name, index=False)
    meta[meta["id"].isin(chosen)].to_csv(folder / "meta.tsv", sep="\t", index=False)
    return folder


def test_a_label_counts_in_its_own_split_and_rows_follow_their_document(few: Path) -> None:
    corpus = load_emobank(few, extras=True)
    data, labels, tested = script.in_order(corpus)
    known = {name: (labels[name] != -100).all(1) for name in labels}
    assert sum(part.astype(int) for part in known.values()).tolist() == [1] * len(tested)
    assert np.array_equal(known["test"], tested) and tested.sum() == len(corpus["test"])
    texts = np.array(data["test"]["text"][:])
    assert sorted(texts[tested]) == sorted(corpus["test"]["text"][:])
    where = {text: row for row, text in enumerate(corpus["test"]["text"][:])}
    gold = np.array(corpus["test"]["labels"][:])
    assert np.allclose(labels["test"][tested], gold[[where[text] for text in texts[tested]]])
    documents = data["test"]["dialogue_id"][:]
    changes = sum(documents[row] != documents[row - 1] for row in range(1, len(documents)))
    assert changes == len(set(documents)) - 1


def test_the_measurement_runs_and_goes_on(
    few: Path, minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script.measure, "RESAMPLES", 20)
    arguments = ["--data-dir", few, "--work", tmp_path, "--results", tmp_path, "--seeds", 1, "--epochs", 1]
    script.main(list(map(str, arguments)))
    assert "seed 0" in capsys.readouterr().out
    report = json.loads((tmp_path / "documents.json").read_text(encoding="utf-8"))
    assert len(report["systems"]) == len(script.SYSTEMS) + 1 and report["sentences"] == len(load_emobank(few)["test"])
    assert all(np.isfinite(entry["r_mean"]) for entry in report["systems"].values())
    script.main(list(map(str, arguments)))
    assert "seed 0" not in capsys.readouterr().out
