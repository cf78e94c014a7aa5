"""EmoITA, the single ratings of EmoBank and the human ceiling, on the real files."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from research.emobank import human_ceiling, load_emoita, read_ratings

from liminal_hf.data import load_emobank
from liminal_hf.export.model_card import CORPORA

pytestmark = pytest.mark.nightly


def test_label_std_is_that_of_the_single_ratings(data_dir: Path) -> None:
    rows = load_emobank(data_dir, extras=True)["test"]
    ratings = pd.concat([read_ratings(perspective, data_dir) for perspective in ("reader", "writer")])
    expected = ratings.groupby("id")[["V", "A", "D"]].std(ddof=0).loc[rows["id"][:]].to_numpy() / 2
    assert np.abs(np.array(rows["label_std"][:]) - expected).max() < 0.006  # the published figures have two decimals


@pytest.mark.parametrize("perspective", ["reader", "writer"])
def test_cleaned_ratings_reproduce_the_published_tables(perspective: str, data_dir: Path) -> None:
    found = read_ratings(perspective, data_dir).groupby("id")[["V", "A", "D"]].mean()
    published = pd.read_csv(data_dir / "emobank" / f"{perspective}.csv").set_index("id")
    assert set(found.index) == set(published.index)
    assert np.abs(found - published.loc[found.index, ["V", "A", "D"]]).to_numpy().max() < 0.0051


def test_human_ceiling(data_dir: Path) -> None:
    found = human_ceiling(data_dir, repeats=3)
    assert found == human_ceiling(data_dir, repeats=3)
    expected = {"pleasure": 0.895, "arousal": 0.680, "dominance": 0.642, "mean": 0.739}
    assert found == pytest.approx(expected, abs=0.01)


def test_emoita_is_split_by_the_shared_id(data_dir: Path) -> None:
    italian, english = load_emoita(data_dir), load_emobank(data_dir)
    for split in english:
        assert set(italian[split]["id"]) == set(english[split]["id"])
        assert np.abs(np.array(italian[split]["labels"][:])).max() <= 1


def test_the_ceiling_is_what_the_ratings_give(data_dir: Path) -> None:
    ceiling = human_ceiling(data_dir / "emobank" if (data_dir / "emobank").is_dir() else data_dir)
    assert {name: round(value, 3) for name, value in ceiling.items()} == CORPORA["emobank"].ceiling


def test_a_folder_without_emoita(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"EmoITA\.csv.*GiovanniGafa/EmoITA"):
        load_emoita(tmp_path)
