"""EmoBank, 10,062 English sentences with gold pleasure, arousal and dominance, on its official split.

Requires datasets and pandas. The files come from a folder, or from the pinned public source (a sha256 is checked).

EmoBank calls pleasure "valence" and rates 1..5; labels here are (x - 3) / 2, in -1..1. Buechel & Hahn 2017, "EmoBank:
Studying the Impact of Annotation Perspective and Representation Format on Dimensional Emotion Analysis" (EACL) and
"Readers vs. Writers vs. Texts" (LAW). CC-BY-SA 4.0.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, Features, List, Value

from ..io import cache_root, fetch, find_file
from ..modeling.errors import LiminalError

COMMIT = "248ce2a43e165a66d31aeaed83cff9641d6654e0"
SOURCE = f"https://raw.githubusercontent.com/JULIELab/EmoBank/{COMMIT}/corpus"
SHA256 = {
    "emobank.csv": "1ade4a4a453e880c0f39d0536d2b355e8a716e0cf88236c64cdb4d438cf9605b",
    "reader.csv": "d5398f14afde4f02d3a335393b60fc4a45d03dc5ab65b6909c7c31a633dec175",
    "writer.csv": "311d895d21b1047cc875a9b082e1c3e17df548011d2dec8227cf3a53b0c34e0a",
    "individual_reader_ratings.csv": "059bdadbdc1179b29c168b96f1e0c0a31fc2b0bab5e4103bf6cf3b3e6d53e7bf",
    "individual_writer_ratings.csv": "b6bf5a793b4ecd668b521155fdfa9dcb1920d21a8a1b608024e96a755bb3f706",
    "meta.tsv": "c848266476711a3fb68395b9907ef574e60289ad916c8db79b7ea2e62ab62e0e",
}
# How far a predictor of EmoBank's means can get, r: `human_ceiling()` in scripts/research/emobank.py measures it.
HUMAN_CEILING = {"pleasure": 0.895, "arousal": 0.68, "dominance": 0.64}
SPLITS = {"train": "train", "validation": "dev", "test": "test"}
PERSPECTIVES = ("reader", "writer")
_VAD = ["V", "A", "D"]
_TRIPLE = List(Value("float32"))
_FEATURES = {"id": Value("string"), "text": Value("string"), "labels": _TRIPLE}
_EXTRA_FEATURES = {
    "document": Value("string"),
    "position": Value("int32"),
    "genre": Value("string"),
    "subcategory": Value("string"),
    "label_std": _TRIPLE,
    "reader": _TRIPLE,
    "reader_std": _TRIPLE,
    "num_reader_ratings": Value("int32"),
    "writer": _TRIPLE,
    "writer_std": _TRIPLE,
    "num_writer_ratings": Value("int32"),
}


def load_emobank(data_dir: str | os.PathLike[str] | None = None, *, extras: bool = False) -> DatasetDict:
    """EmoBank on its official split: 8,062 sentences to train on, 1,000 for validation, 1,000 to test on.

    The files are looked for in `data_dir`, else in the folder that the environment variable `LIMINAL_DATA_DIR` names
    (both with or without a subfolder `emobank`), else in the cache, else they are fetched from the public source.

    Args:
        data_dir: a folder with `emobank.csv` (with `extras` also `reader.csv`, `writer.csv`, `meta.tsv`).
        extras: adds
            `document`, `genre` (fiction, letters, newspaper, blog, SemEval, essays, travel-guides), `subcategory` (may
            be empty): strings;
            `position`: int, the row of `meta.tsv`, which has the sentences of a document in their order;
            `reader`, `writer`: three floats, what the sentence does to a reader and what its writer feels, -1..1;
            `reader_std`, `writer_std`, `label_std`: three floats, standard deviations (1/N) over the ratings of that
            perspective and over all of them, in label units;
            `num_reader_ratings`, `num_writer_ratings`: int.

    Returns:
        `DatasetDict` with `train`, `validation`, `test`, each with `id` (string), `text` (string, as published) and
        `labels` (pleasure, arousal, dominance as float32 in -1..1).

    Raises:
        FileNotFoundError: `data_dir` was given and lacks a file.
        ConnectionError: the files are not here and can't be fetched.
        ValueError: a file is not EmoBank's, or what was fetched has another sha256.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())  # a corpus of two sentences, to show its form
        >>> rows = 'id,split,V,A,D,text\\n1,train,4,3,2,"Well, fine."\\n2,dev,1.5,3.5,2.5,None\\n'
        >>> _ = (folder / "emobank.csv").write_text(rows, "utf-8")
        >>> load_emobank(folder)["validation"][0]
        {'id': '2', 'text': 'None', 'labels': [-0.75, 0.25, -0.25]}
    """
    table = _read_emobank(data_dir)
    columns = {"id": table["id"].astype(str), "text": table["text"], "labels": to_label_scale(table[_VAD])}
    features = dict(_FEATURES)
    if extras:
        columns |= _extras(table, data_dir)
        features |= _EXTRA_FEATURES
    return _by_split(columns, table["split"], Features(features))


def to_label_scale(ratings: pd.DataFrame | np.ndarray) -> np.ndarray:
    """Ratings on 1..5 as labels on -1..1: (x - 3) / 2.

    Example:
        >>> to_label_scale(np.array([1.0, 3.0, 5.0])).tolist()
        [-1.0, 0.0, 1.0]
    """
    return (np.asarray(ratings, dtype=np.float64) - 3) / 2


def _extras(table: pd.DataFrame, data_dir: str | os.PathLike[str] | None) -> dict[str, object]:
    meta = _read(_path("meta.tsv", data_dir), {"id", "document", "category", "subcategory"}, separator="\t")
    meta = meta.assign(position=range(len(meta))).set_index("id").reindex(table["id"])
    columns: dict[str, object] = {
        "document": meta["document"].tolist(),
        "position": meta["position"].tolist(),
        "genre": meta["category"].tolist(),
        "subcategory": meta["subcategory"].str.strip().tolist(),
    }
    means, spreads, counts = [], [], []
    for perspective in PERSPECTIVES:
        part = _read(_path(f"{perspective}.csv", data_dir), {"id", *_VAD, "stdV", "stdA", "stdD", "N"})
        part = part.set_index("id").reindex(table["id"])
        means.append(part[_VAD].to_numpy(np.float64))
        spreads.append(part[["stdV", "stdA", "stdD"]].to_numpy(np.float64))
        counts.append(part["N"].to_numpy(np.float64))
        columns |= {
            perspective: to_label_scale(means[-1]),
            f"{perspective}_std": spreads[-1] / 2,
            f"num_{perspective}_ratings": part["N"].to_numpy(np.int32),
        }
    # The variance over all ratings: within the perspectives and between them.
    mean, spread, count = np.stack(means), np.stack(spreads), np.stack(counts)[..., None]
    overall = (count * mean).sum(0) / count.sum(0)
    variance = (count * (spread**2 + (mean - overall) ** 2)).sum(0) / count.sum(0)
    return columns | {"label_std": np.sqrt(variance) / 2}


def _by_split(columns: dict, split: pd.Series, features: Features) -> DatasetDict:
    parts = {}
    for name, theirs in SPLITS.items():
        rows = np.flatnonzero(split.to_numpy() == theirs)
        data = {column: np.asarray(values, dtype=object)[rows].tolist() for column, values in columns.items()}
        parts[name] = Dataset.from_dict(data, features=features)
    return DatasetDict(parts)


def _path(name: str, data_dir: str | os.PathLike[str] | None) -> Path:
    return find_file("emobank", name, data_dir) or fetch(
        f"{SOURCE}/{name}", cache_root() / f"emobank-{COMMIT[:7]}" / name, SHA256[name]
    )


def _read_emobank(data_dir: str | os.PathLike[str] | None) -> pd.DataFrame:
    return _read(_path("emobank.csv", data_dir), {"id", "split", "text", *_VAD})


def _read(path: Path, columns: set[str], separator: str = ",") -> pd.DataFrame:
    # One sentence of EmoBank is the word "None", so nothing may be read as missing.
    table = pd.read_csv(path, sep=separator, encoding="utf-8", keep_default_na=False)
    if not columns <= set(table.columns):
        raise LiminalError(
            f"{path} lacks the columns {sorted(columns - set(table.columns))}; is it EmoBank's own file?"
        )
    return table
