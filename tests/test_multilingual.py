"""`scripts/multilingual.py`: labels of BRIGHTER, a ridge that leaves languages out, and the whole on a few texts."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from sklearn.linear_model import Ridge
from training_kit import texts_and_labels

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import multilingual  # noqa: E402

from liminal_hf.modeling.configuration_liminal import MISSING_LABEL  # noqa: E402

pytestmark = pytest.mark.nightly


def test_valence_is_joy_minus_the_strongest_bad_emotion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(tmp_path))
    (tmp_path / "brighter").mkdir()
    header = "lang,split,id,text,anger,disgust,fear,joy,sadness,surprise\n"
    rows = [
        "eng,train,1,Good,0,,0,3,0,0",
        "eng,train,2,Bad,2,,1,0,0,3",
        "eng,dev,3,So,1,,0,1,0,0",
        "eng,test,4,X,,,,,,",
    ]
    (tmp_path / "brighter" / "intensity.csv").write_text(header + "\n".join(rows), encoding="utf-8")
    found = multilingual.brighter(spread=0.25)
    # 3 and -2 have a standard deviation of 2.5, which becomes .25.
    order = np.argsort(found["train"]["eng"]["text"])
    np.testing.assert_allclose(np.array(found["train"]["eng"]["labels"])[order][:, 0], [-0.2, 0.3], atol=1e-6)
    assert found["validation"]["eng"]["labels"] == [[0.0, MISSING_LABEL, MISSING_LABEL]]
    assert not found["test"]


class FewStates:
    """Random states of three languages."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.values = {
            name: (draw.normal(size=(50, 6)).astype(np.float32), draw.normal(size=(50, 3))) for name in "abc"
        }
        self.values["b"][1][:, 1:] = np.nan

    def arrays(self, split: str, name: str) -> tuple:
        return self.values[name]


def test_a_language_that_is_left_out_is_not_in_the_solution() -> None:
    states = FewStates()
    weights = multilingual.Ridge(states, "abc").weights("ab", 3.0, 0)
    x, y = (np.concatenate([states.values[name][part] for name in "ab"]) for part in (0, 1))
    expected = Ridge(alpha=3.0).fit(x, y[:, 0])
    np.testing.assert_allclose(weights, [*expected.coef_, expected.intercept_], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(multilingual.predict(weights, x), expected.predict(x), rtol=1e-3, atol=1e-4)
    x, y = states.values["a"]
    alone = Ridge(alpha=3.0).fit(x, y[:, 2])
    found = multilingual.Ridge(states, "abc").weights("ab", 3.0, 2)
    np.testing.assert_allclose(found, [*alone.coef_, alone.intercept_], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_report(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))

    def rows(seed: int, is_partly: bool) -> Dataset:
        made = texts_and_labels(24, seed)
        labels = np.array([[(value - 3) / 2 for value in label] for _, label in made])
        if is_partly:
            labels[:, 1:] = MISSING_LABEL
        return multilingual.dataset([text for text, _ in made], labels)

    names = {"EmoBank": False, "EmoITA": False, "deu": True, "ron": True}
    texts = {
        split: {name: rows(seed, partly) for name, partly in names.items() if (split, name) != ("train", "ron")}
        for seed, split in enumerate(("train", "validation", "test"))
    }
    monkeypatch.setattr(multilingual, "corpora", lambda: texts)
    folders = ["--work", str(tmp_path / "work"), "--results", str(tmp_path / "results")]
    assert multilingual.main(["--encoder", str(minilm), *folders]) == 0
    report = json.loads((tmp_path / "results" / "multilingual.json").read_text(encoding="utf-8"))
    found = report["languages"]
    assert list(found) == list(names) and found["ron"]["trained"] == 0 and found["deu"]["trained"] == 24
    assert found["ron"]["test"]["never seen"] == found["ron"]["test"]["all"]
    assert len(found["EmoITA"]["test"]["r"]) == 3 and len(found["deu"]["test"]["r"]) == 1
    page = (tmp_path / "results" / "multilingual.md").read_text(encoding="utf-8")
    assert "Romanian (BRIGHTER) | 0 | 24" in page and str(tmp_path) not in page
