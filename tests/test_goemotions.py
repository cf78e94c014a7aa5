"""GoEmotions, on the real files."""

from pathlib import Path

import numpy as np
import pytest

from liminal_hf.data import GOEMOTIONS_LABELS, load_goemotions


def test_the_corpus(data_dir: Path) -> None:
    corpus = load_goemotions(data_dir)
    assert {split: rows.num_rows for split, rows in corpus.items()} == {
        "train": 43410,
        "validation": 5426,
        "test": 5427,
    }
    assert list(GOEMOTIONS_LABELS) == (data_dir / "goemotions" / "labels.txt").read_text().split()
    for split, theirs in (("validation", "dev"), ("test", "test")):
        lines = (data_dir / "goemotions" / f"{theirs}.tsv").read_text(encoding="utf-8").splitlines()
        rows = corpus[split]
        assert rows.num_rows == len(lines)
        labels = np.array(rows["labels"][:])
        assert labels.shape == (len(lines), 28) and set(labels.ravel()) == {0, 1}
        for line, text, row in zip(lines, rows["text"], labels, strict=True):
            expected_text, ids, _ = line.split("\t")
            assert text == expected_text
            assert np.flatnonzero(row).tolist() == sorted(int(label) for label in ids.split(","))


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"train\.tsv.*monologg/GoEmotions-pytorch"):
        load_goemotions(tmp_path)
    for ids in ("joy", "28", ""):
        (tmp_path / "train.tsv").write_text(f"Hello\t1\ta\nHello\t{ids}\tb\n")
        with pytest.raises(ValueError, match=r"train\.tsv, line 2"):
            load_goemotions(tmp_path)
