"""EmoBank, on the real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from liminal_hf.data import cross_split_duplicates, load_emobank


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


def test_texts_that_cross_the_splits(data_dir: Path) -> None:
    corpus = load_emobank(data_dir)
    assert len(cross_split_duplicates(corpus)) == 34
    texts = [text for rows in corpus.values() for text in rows["text"]]
    repeated = pd.Series(texts).duplicated()
    assert repeated.sum() == 156 and pd.Series(texts)[repeated].nunique() == 92


def test_a_folder_without_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"emobank\.csv"):
        load_emobank(tmp_path)
    (tmp_path / "emobank.csv").write_text("id,text\n1,Hello\n")
    with pytest.raises(ValueError, match=r"lacks the columns \['A', 'D', 'V', 'split'\]"):
        load_emobank(tmp_path)
