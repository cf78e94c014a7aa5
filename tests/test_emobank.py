"""EmoBank and EmoITA, on the real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from liminal_hf.data import cross_split_duplicates, human_ceiling, load_emobank, load_emoita
from liminal_hf.data.emobank import read_ratings


def test_the_official_split(data_dir: Path) -> None:
    corpus = load_emobank(data_dir)
    assert {split: rows.num_rows for split, rows in corpus.items()} == {"train": 8062, "validation": 1000, "test": 1000}
    table = pd.read_csv(data_dir / "emobank" / "emobank.csv", keep_default_na=False)
    for split, theirs in (("train", "train"), ("validation", "dev"), ("test", "test")):
        rows, expected = corpus[split], table[table["split"] == theirs]
        assert rows.column_names == ["id", "text", "labels"]
        assert rows["id"][:] == expected["id"].tolist() and rows["text"][:] == expected["text"].tolist()
        labels = np.array(rows["labels"][:])
        assert np.allclose(labels, (expected[["V", "A", "D"]].to_numpy() - 3) / 2, atol=1e-7)
        assert np.abs(labels).max() <= 1
    assert rows.features["labels"].feature.dtype == "float32"


def test_a_text_that_reads_none_is_a_text(data_dir: Path) -> None:
    rows = load_emobank(data_dir)["validation"]
    assert rows.filter(lambda row: row["id"] == "easy_money_13624_13628")[0]["text"] == "None"


def test_where_it_is_looked_for(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_emobank(data_dir)["test"][0]
    assert load_emobank(data_dir / "emobank")["test"][0] == expected
    for folder in (data_dir, data_dir / "emobank"):
        monkeypatch.setenv("LIMINAL_DATA_DIR", str(folder))
        assert load_emobank()["test"][0] == expected


def test_extras(data_dir: Path) -> None:
    corpus = load_emobank(data_dir, extras=True)
    train = corpus["train"].to_pandas()
    assert (
        corpus["train"].remove_columns(set(train.columns) - {"id", "text", "labels"})[5]
        == load_emobank(data_dir)["train"][5]
    )
    assert set(train["genre"]) == {"fiction", "letters", "newspaper", "blog", "SemEval", "essays", "travel-guides"}
    assert not train.drop(columns=["labels"]).isna().any().any()
    rows = pd.concat([corpus[name].to_pandas() for name in corpus]).sort_values("position", ignore_index=True)
    assert rows["position"].is_unique
    # Ids of many documents end in the place of the sentence in its document: position must follow it.
    spans = rows["id"].str.extract(r"_(\d+)_\d+$")[0].dropna().astype(int)
    steps = spans.groupby(rows.loc[spans.index, "document"].to_numpy()).diff().dropna()
    assert (steps > 0).mean() > 0.95
    # The gold labels are the mean over the ratings of both perspectives.
    counts = train[["num_reader_ratings", "num_writer_ratings"]].to_numpy()[..., None]
    both = np.stack([np.stack(train["reader"]), np.stack(train["writer"])], axis=1)
    assert np.abs((counts * both).sum(1) / counts.sum(1) - np.stack(train["labels"])).max() < 0.006


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


def test_texts_that_cross_the_splits(data_dir: Path) -> None:
    corpus = load_emobank(data_dir)
    assert len(cross_split_duplicates(corpus)) == 34
    texts = [text for rows in corpus.values() for text in rows["text"]]
    repeated = pd.Series(texts).duplicated()
    assert repeated.sum() == 156 and pd.Series(texts)[repeated].nunique() == 92


def test_emoita_is_split_by_the_shared_id(data_dir: Path) -> None:
    italian, english = load_emoita(data_dir), load_emobank(data_dir)
    for split in english:
        assert set(italian[split]["id"]) == set(english[split]["id"])
        assert np.abs(np.array(italian[split]["labels"][:])).max() <= 1


def test_a_folder_without_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"emobank\.csv"):
        load_emobank(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"EmoITA\.csv.*GiovanniGafa/EmoITA"):
        load_emoita(tmp_path)
    (tmp_path / "emobank.csv").write_text("id,text\n1,Hello\n")
    with pytest.raises(ValueError, match=r"lacks the columns \['A', 'D', 'V', 'split'\]"):
        load_emobank(tmp_path)
