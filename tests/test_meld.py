"""MELD, on the real files."""

import sys
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from research.meld import EMOTION_PAD, load_meld

pytestmark = pytest.mark.nightly


def test_the_corpus(data_dir: Path) -> None:
    corpus = load_meld(data_dir)
    assert {split: rows.num_rows for split, rows in corpus.items()} == {"train": 9989, "validation": 1109, "test": 2610}
    for split, theirs in (("train", "train"), ("validation", "dev"), ("test", "test")):
        found = corpus[split].to_pandas()
        published = pd.read_csv(data_dir / "meld" / f"{theirs}_sent_emo.csv", keep_default_na=False)
        turns = list(zip(found["dialogue_id"], found["utterance_id"], strict=True))
        assert turns == sorted(set(turns))
        expected = published.set_index(["Dialogue_ID", "Utterance_ID"]).loc[turns]
        # Letter for letter, curly quotes and all.
        assert found["text"].tolist() == expected["Utterance"].tolist()
        assert found["speaker"].tolist() == expected["Speaker"].tolist()
        assert found["emotion"].tolist() == expected["Emotion"].tolist()
        for emotion, labels in zip(found["emotion"], found["labels"], strict=True):
            assert labels.tolist() == pytest.approx(EMOTION_PAD[emotion])


def test_the_order_is_that_of_the_dialogue(data_dir: Path, tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        table = pd.read_csv(data_dir / "meld" / f"{name}_sent_emo.csv", keep_default_na=False)
        table.sample(frac=1, random_state=0).to_csv(tmp_path / f"{name}_sent_emo.csv", index=False)
    assert load_meld(tmp_path)["test"][:] == load_meld(data_dir)["test"][:]


def test_the_emotions_lie_where_their_names_say() -> None:
    for pleasant in ("joy", "surprise"):
        assert EMOTION_PAD[pleasant][0] > 0
    for unpleasant in ("anger", "sadness", "disgust", "fear"):
        assert EMOTION_PAD[unpleasant][0] < 0
    assert EMOTION_PAD["neutral"] == (0, 0, 0)
    # Anger dominates, fear submits: the two that only the third dimension tells apart.
    assert EMOTION_PAD["anger"][2] > 0 > EMOTION_PAD["fear"][2]
    assert EMOTION_PAD["sadness"][1] < 0


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train_sent_emo\.csv.*declare-lab/MELD"):
        load_meld(tmp_path)
    (tmp_path / "train_sent_emo.csv").write_text("Utterance,Speaker\nHello,Ann\n")
    with pytest.raises(ValueError, match="not MELD's own file"):
        load_meld(tmp_path)
