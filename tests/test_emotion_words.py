"""Emotion words: their positions, their probabilities under an answer, and the way back."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import liminal_hf
from liminal_hf import LiminalConfig, emotion_pad, emotion_words
from liminal_hf.data.goemotions import GOEMOTIONS_LABELS, load_goemotions
from liminal_hf.emotion_words import CARRIER, PUBLISHED, READ
from liminal_hf.modeling.emotions import (
    NEUTRAL,
    NEUTRAL_SHARE,
    OFFSET,
    POSITIONS,
    SLOPE,
    SPREAD,
    WORDS,
    emotion_shares,
)
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer

CONFIG = LiminalConfig(pooled_size=8, label_std=[0.2, 0.1, 0.15], neutral_point=[0.1, 0.0, -0.1])
NORMS = Path(os.environ.get("LIMINAL_DATA_DIR", ".")) / "norms" / "glasgow.csv"


@pytest.mark.parametrize("mean", [(0.5, 0.3, 0.1), (-0.4, 0.2, -0.2), (0.1, 0.0, -0.1)])
@pytest.mark.parametrize("deviation", [(0.1, 0.05, 0.2), (3.0, 3.0, 3.0)])
def test_shares_follow_bayes_rule(mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
    positions = {word: np.multiply(SLOPE, POSITIONS[word]) + OFFSET for word in WORDS} | {NEUTRAL: np.zeros(3)}
    units, middle = np.array(CONFIG.label_std), np.array(CONFIG.neutral_point)
    spread = np.hypot(deviation, SPREAD * units)
    weights = {
        word: (NEUTRAL_SHARE if word == NEUTRAL else (1 - NEUTRAL_SHARE) / len(WORDS))
        * norm(middle + position * units, spread).pdf(mean).prod()
        for word, position in positions.items()
    }
    wanted = {word: weight / sum(weights.values()) for word, weight in weights.items()}
    found = emotion_shares(mean, deviation, CONFIG)
    assert found == pytest.approx(wanted) and sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_text_of_which_nothing_is_known_is_as_likely_neutral_as_before() -> None:
    assert emotion_shares([0, 0, 0], [99.0] * 3, CONFIG)[NEUTRAL] == pytest.approx(NEUTRAL_SHARE, abs=1e-3)


def test_shares_do_not_depend_on_the_scale_or_the_order_of_the_targets() -> None:
    wanted = emotion_shares([0.4, 0.1, 0.0], [0.1, 0.2, 0.1], CONFIG)
    scaled = LiminalConfig(
        pooled_size=8,
        targets=["dominance", "joy", "valence", "arousal"],
        label_std=[0.6, 1.0, 0.8, 0.4],
        neutral_point=[4.6, 5.0, 5.4, 5.0],
        label_range=[1.0, 9.0],
    )
    assert emotion_shares([6.6, 5.4, 5.0], [0.4, 0.8, 0.4], scaled) == pytest.approx(wanted)


@pytest.mark.skipif(not NORMS.is_file(), reason="needs the Glasgow norms: set LIMINAL_DATA_DIR")
def test_positions_are_the_published_ones() -> None:
    homographs = {"content": "content (happy)", "pride": "pride (feeling)", "tense": "tense (strained)"}
    with NORMS.open(encoding="utf-8", newline="") as file:
        rows = {row["word"].lower(): row for row in csv.DictReader(file)}
    for word, position in POSITIONS.items():
        row = rows[homographs.get(word, word)]
        means = [(float(row[name]) - 5) / 4 for name in ("valence", "arousal", "dominance")]
        assert position == pytest.approx(means, abs=0.00501), word


@pytest.mark.skipif(not NORMS.is_file(), reason="needs GoEmotions: set LIMINAL_DATA_DIR")
def test_the_share_of_neutral_texts_is_that_of_goemotions() -> None:
    labels = np.array(load_goemotions()["train"]["labels"][:])
    alone = labels[labels.sum(axis=1) == 1]
    assert alone[:, GOEMOTIONS_LABELS.index(NEUTRAL)].mean() == pytest.approx(NEUTRAL_SHARE, abs=0.005)


def test_the_constants_are_those_that_the_script_measured() -> None:
    path = Path(__file__).parents[1] / "scripts" / "results" / "emotion_words.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    for name, constants in (("offset", OFFSET), ("slope", SLOPE), ("spread", SPREAD)):
        assert constants == pytest.approx(report["reading"][name], abs=0.025), name
    back = report["carriers"][CARRIER]
    assert pytest.approx(back["offset"], abs=0.0006) == emotion_words._OFFSET
    assert pytest.approx(back["slope"], abs=0.0006) == emotion_words._SLOPE
    assert max(report["carriers"], key=lambda phrase: sum(report["carriers"][phrase]["r"])) == CARRIER


def test_a_row_names_words_and_a_table_the_likeliest(minilm: Path) -> None:
    texts = ["What a lovely surprise!", "I hate this!", "The train leaves at nine.", ""]
    rows = Scorer(liminal_hf.DEFAULT_CHECKPOINT, threads=1).score(texts).to_pylist()
    assert rows[0]["emotion"] in {"joy", "love", "excitement"} and rows[1]["emotion"] in {"anger", "disgust"}
    assert rows[2]["emotion"] == NEUTRAL and rows[2]["emotion_probability"] > 0.5
    assert rows[3]["emotion"] is rows[3]["emotion_probability"] is None


def test_the_way_back(minilm: Path) -> None:
    assert emotion_pad(" Joy ") == {"pleasure": 0.77, "arousal": 0.49, "dominance": 0.4, "source": PUBLISHED}
    nostalgic, furious = emotion_pad("nostalgic"), emotion_pad("furious")
    assert nostalgic["source"] == READ and furious["pleasure"] < 0 < nostalgic["pleasure"]
    assert furious["arousal"] > nostalgic["arousal"]
    # Words beside a published one are no typos of it.
    for word in ("guilty", "jealous", "surprised", "frustrating", "depressing", "deep joy"):
        assert emotion_pad(word)["source"] == READ


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("", "takes the name of an emotion"),
        (None, "takes the name of an emotion"),
        ("hapiness", "Did you mean happiness"),
        ("hapy", "Did you mean happy"),
        ("angre", "Did you mean anger"),
        ("joi", "Did you mean joy"),
        ("anger. I love you", "takes the name of an emotion"),
        ("1234", "takes the name of an emotion"),
        ("xqzt vprw", "no English word that the model knows"),
        ("\U0001f600", "takes the name of an emotion"),
    ],
)
def test_what_is_no_emotion_word_is_said(minilm: Path, word: object, said: str) -> None:
    with pytest.raises(LiminalError, match=said):
        emotion_pad(word)  # type: ignore[arg-type]


def test_the_script_measures_both_corpora(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    import emotion_words as script

    said = {"joy": "I am so happy!", "anger": "I hate you.", "sadness": "I lost my dog.", "neutral": "It is nine."}
    numbers = {name: GOEMOTIONS_LABELS.index(name) for name in said}
    for folder in ("goemotions", "meld"):
        (tmp_path / folder).mkdir()
    for split in ("train", "dev", "test"):
        lines = [f"{text} {row}\t{numbers[name]}\tid{row}" for row in range(3) for name, text in said.items()]
        (tmp_path / "goemotions" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        turns = [f'"{text}",Ann,{name},neutral,{row},0' for row, (name, text) in enumerate(said.items())]
        header = "Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID"
        (tmp_path / "meld" / f"{split}_sent_emo.csv").write_text("\n".join([header, *turns]) + "\n", encoding="utf-8")
    monkeypatch.setenv("LIMINAL_DATA_DIR", str(tmp_path))
    assert script.main(["--results", str(tmp_path), "--work", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "emotion_words.json").read_text(encoding="utf-8"))
    found = report["corpora"]["GoEmotions, test"]
    assert found["texts"] == 12 and found["classes"] == sorted(said)
    ours = found["accuracy"]["the words of an answer"]
    assert ours["top 1"] > found["accuracy"]["most frequent classes"]["top 1"] == 0.25
    assert len(report["carriers"]) == 5 and report["reading"]["slope"][0] > 0
