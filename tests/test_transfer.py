"""Tests of `scripts/transfer.py`: the genre is left out, the peers read what the checkpoint reads, tables say it.

Needs scikit-learn, vaderSentiment and the packaged MiniLM.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from evidence_kit import GENRES, write_checkpoint, write_emobank, write_grid

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import transfer  # noqa: E402
from cross_validation import Sentences  # noqa: E402
from research import checkpoint as checkpoints  # noqa: E402
from research.grid import Grid  # noqa: E402
from research.meld import EMOTION_PAD  # noqa: E402

from liminal_hf import metrics  # noqa: E402
from liminal_hf.data import GOEMOTIONS_LABELS  # noqa: E402
from liminal_hf.training.recipe import Recipe  # noqa: E402

pytestmark = pytest.mark.nightly

SYSTEMS = [
    {"name": "v7", "kind": "fit", "ours": True},
    {"name": "ridge", "kind": "ridge"},
    {"name": "VADER", "kind": "vader"},
]
SAID = {"joy": "What a good and happy day", "anger": "I hate this awful coat", "neutral": "The train is here"}


@pytest.fixture
def grid(tmp_path: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMINAL_CACHE_DIR", str(tmp_path / "cache"))
    data = write_emobank(tmp_path / "data")
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(data))
    for folder in ("meld", "goemotions"):
        (data / folder).mkdir()
    said = [(emotion, f"{text}, {place}.") for place in range(4) for emotion, text in SAID.items()]
    turns = ["Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"]
    turns += [f'"{text}",Ann,{emotion},neutral,{row // 3},{row % 3}' for row, (emotion, text) in enumerate(said)]
    comments = [f"{text}\t{GOEMOTIONS_LABELS.index(emotion)}\tid{row}" for row, (emotion, text) in enumerate(said)]
    # Two labels, and one that has no position.
    comments += ["Well, well.\t17,2\tid90", f"So proud.\t{GOEMOTIONS_LABELS.index('pride')}\tid91"]
    for split in ("train", "dev", "test"):
        (data / "meld" / f"{split}_sent_emo.csv").write_text("\n".join(turns) + "\n", encoding="utf-8")
        (data / "goemotions" / f"{split}.tsv").write_text("\n".join(comments) + "\n", encoding="utf-8")
    return write_grid(tmp_path, minilm, SYSTEMS, compare="v7")


def test_a_genre_is_left_out_whole(grid: Path) -> None:
    sentences = Sentences.load(Recipe.from_yaml(grid.parent / "recipe.yaml"))
    corpora = transfer.genre_corpora(sentences)
    assert set(corpora) == set(GENRES)
    genre_of: dict[str, set[str]] = {}
    for text, genre in zip(sentences.texts, sentences.genres, strict=True):
        genre_of.setdefault(text, set()).add(genre)
    for genre, corpus in corpora.items():
        assert len(corpus["test"]) == sentences.genres.count(genre) and len(corpus["validation"])
        assert all(genre in genre_of[text] for text in corpus["test"]["text"][:])
        others = corpus["train"]["text"][:] + corpus["validation"]["text"][:]
        # Also a sentence that stands in this genre as well as in another.
        assert not any(genre in genre_of[text] for text in others)


def test_both_parts(grid: Path, minilm: Path) -> None:
    folder = grid.parent
    write_checkpoint(folder / "mine", minilm)
    folders = ["--work", str(folder / "work"), "--results", str(folder / "results")]
    assert transfer.main([str(folder / "mine"), "--grid", str(grid), "--seeds", "0", *folders]) == 0
    reports = {}
    for part in ("genres", "emotions"):
        reports[part] = json.loads((folder / "results" / f"transfer_{part}.json").read_text(encoding="utf-8"))
        text = (folder / "results" / f"transfer_{part}.md").read_text(encoding="utf-8")
        assert transfer.markdown(reports[part]).strip() in text and str(folder) not in text
    assert reports["genres"]["command"] == "python scripts/transfer.py --part genres --seeds 0"
    assert reports["emotions"]["command"] == "python scripts/transfer.py mine --part emotions"

    sets = reports["genres"]["sets"]
    assert list(sets) == [*sorted(GENRES), "mean of the genres"]
    for name in ("v7", "ridge", "VADER"):
        each = [sets[genre]["systems"][name]["r"]["pleasure"]["mean"] for genre in GENRES]
        assert sets["mean of the genres"]["systems"][name]["r"]["pleasure"]["mean"] == pytest.approx(
            np.mean(each), abs=1e-4
        )
    blog = sets["blog"]["systems"]
    assert blog["VADER"]["r"]["arousal"] is None and blog["VADER"]["ahead"]["mean"] is None
    gap = blog["ridge"]["ahead"]["pleasure"]
    assert gap["mean"] == pytest.approx(
        blog["v7"]["r"]["pleasure"]["mean"] - blog["ridge"]["r"]["pleasure"]["mean"], abs=2e-5
    )
    assert gap["low"] <= gap["mean"] <= gap["high"]

    sets = reports["emotions"]["sets"]
    assert {title: part["rows"] for title, part in sets.items()} == {
        "MELD": 12, "MELD without neutral": 8, "GoEmotions": 12, "GoEmotions without neutral": 8,
    }  # fmt: skip
    texts, emotions, groups = transfer.goemotions_comments()
    assert set(emotions) == set(SAID) and len(set(groups)) == 12
    assert len(set(transfer.meld_turns()[2])) == 4
    positions = np.array([EMOTION_PAD[emotion] for emotion in emotions])
    reading = checkpoints.read(str(folder / "mine"), texts, folder / "work")
    ours = sets["GoEmotions"]["systems"]["mine"]["r"]
    assert ours["mean"]["mean"] == pytest.approx(metrics.mean_pearson(reading.pad, positions), abs=1e-5)
    spreads = reports["emotions"]["uncertainty"]
    assert list(spreads) == ["EmoBank's test split", "MELD", "GoEmotions"]
    np.testing.assert_allclose(spreads["GoEmotions"], reading.uncertainty.mean(axis=0), atol=1e-4)
    assert sets["MELD"]["systems"]["VADER"]["r"]["pleasure"]["mean"] > 0.8
    joy = reports["emotions"]["means"]["GoEmotions"]["joy"]
    assert joy["rows"] == 4 and joy["position"] == list(EMOTION_PAD["joy"]) and joy["systems"]["VADER"][1] is None
    chosen = np.array(emotions) == "joy"
    np.testing.assert_allclose(joy["systems"]["mine"], reading.pad[chosen].mean(axis=0), atol=1e-4)


def test_the_grid_of_the_repository_can_be_read() -> None:
    assert Grid.from_yaml(transfer.GRID).compare == "v7"


def test_a_corpus_that_is_missing_is_named(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = grid.parent
    (folder / "data" / "meld" / "test_sent_emo.csv").unlink()
    folders = ["--work", str(folder / "work"), "--results", str(folder / "results")]
    assert transfer.main(["--part", "emotions", "--grid", str(grid), *folders]) == 2
    assert "meld" in capsys.readouterr().err.lower()
