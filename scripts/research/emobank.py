"""EmoBank in Italian, its single ratings, and how far they agree: the ceiling of any predictor.

Requires datasets and pandas.
"""

import os

import numpy as np
import pandas as pd
from datasets import DatasetDict, Features

from liminal_hf.data.emobank import (
    _FEATURES,
    _VAD,
    PERSPECTIVES,
    _by_split,
    _path,
    _read,
    _read_emobank,
    to_label_scale,
)
from liminal_hf.io import require_file
from liminal_hf.modeling.configuration_liminal import DIMENSIONS


def load_emoita(data_dir: str | os.PathLike[str] | None = None) -> DatasetDict:
    """EmoITA: EmoBank's sentences in Italian, rated anew, split like EmoBank by the shared id.

    96 of its 30,186 mean ratings lie above the 1..5 scale (up to 5.5); those labels are clipped to 1. The corpus is
    GiovanniGafa/EmoITA on GitHub, CC-BY-SA 4.0.

    Args:
        data_dir: a folder with `emoita/EmoITA.csv` and `emobank/emobank.csv`; None as in `load_emobank`. EmoITA is not
            fetched by itself.

    Returns:
        As `load_emobank` without extras.

    Raises:
        FileNotFoundError: EmoITA is not there; the message says where to get it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())  # a corpus of one sentence, to show its form
        >>> _ = (folder / "emobank.csv").write_text("id,split,V,A,D,text\\na,test,4,3,2,Fine.\\n", "utf-8")
        >>> _ = (folder / "EmoITA.csv").write_text("id,text,V,A,D\\na,Bene.,5.5,3,2\\n", "utf-8")
        >>> load_emoita(folder)["test"][0]
        {'id': 'a', 'text': 'Bene.', 'labels': [1.0, 0.0, -0.5]}
    """
    path = require_file("emoita", "EmoITA.csv", data_dir, "https://github.com/GiovanniGafa/EmoITA")
    table = _read(path, {"id", "text", *_VAD})
    split = _read_emobank(data_dir).set_index("id")["split"].reindex(table["id"])
    if split.isna().any():
        raise ValueError(f"{path} holds the id {split.index[split.isna()][0]!r}, which EmoBank does not have.")
    labels = np.clip(to_label_scale(table[_VAD]), -1, 1)
    columns = {"id": table["id"].astype(str), "text": table["text"], "labels": labels}
    return _by_split(columns, split, Features(_FEATURES))


def human_ceiling(
    data_dir: str | os.PathLike[str] | None = None, *, repeats: int = 10, seed: int = 0
) -> dict[str, float]:
    """The highest correlation that any predictor can reach with EmoBank's means, given how far its raters agree.

    The square root of the reliability of an item's mean rating. Reliability: the raters of each item (readers and
    writers together, as in the gold labels) are split into random halves, the halves' means correlated over the items,
    and the correlation stepped up to the whole group by Spearman-Brown, 2r / (1 + r) (Lord & Novick 1968). Ratings of
    (1, 1, 1), which the authors drop as careless, and items left with one rating in a perspective are dropped first;
    what stays reproduces the published `reader.csv` and `writer.csv`.

    Args:
        data_dir: a folder with `emobank.csv` and the two `individual_*_ratings.csv`; None as in `load_emobank`.
        repeats: number of random halvings; their ceilings are averaged.
        seed: of the halvings.

    Returns:
        `pleasure`, `arousal`, `dominance`, `mean`: correlations.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())  # three sentences, and raters who always agree
        >>> ids, ratings = "abc", ["3,4,2", "4,2,3", "2,3,4"]
        >>> rows = "".join(f"{i},train,{r},Hello\\n" for i, r in zip(ids, ratings))
        >>> _ = (folder / "emobank.csv").write_text("id,split,V,A,D,text\\n" + rows, "utf-8")
        >>> for perspective in PERSPECTIVES:
        ...     rows = "".join(f"{i},{r}\\n" * 4 for i, r in zip(ids, ratings))
        ...     _ = (folder / f"individual_{perspective}_ratings.csv").write_text("id,V,A,D\\n" + rows, "utf-8")
        >>> round(human_ceiling(folder)["mean"], 3)
        1.0
    """
    ids = _read_emobank(data_dir)["id"]
    ratings = pd.concat([read_ratings(perspective, data_dir) for perspective in PERSPECTIVES])
    ratings = ratings[ratings["id"].isin(ids)]
    ceilings = []
    for repeat in range(repeats):
        shuffled = ratings.sample(frac=1, random_state=seed + repeat)
        half = shuffled.groupby("id").cumcount() % 2
        first, second = (shuffled[half == side].groupby("id")[_VAD].mean() for side in (0, 1))
        r = np.array([np.corrcoef(first[column], second[column])[0, 1] for column in _VAD])
        ceilings.append(np.sqrt(np.clip(2 * r / (1 + r), 0, 1)))
    values = np.mean(ceilings, axis=0)
    return {name: float(value) for name, value in zip(DIMENSIONS, values, strict=True)} | {"mean": float(values.mean())}


def read_ratings(perspective: str, data_dir: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """The single ratings of one perspective, cleaned as the authors did: no (1, 1, 1), no item with one rating left.

    Args:
        perspective: "reader" or "writer".
        data_dir: as in `human_ceiling`.

    Returns:
        A table with `id`, `V`, `A`, `D` (1..5), one row per rating.
    """
    table = _read(_path(f"individual_{perspective}_ratings.csv", data_dir), {"id", *_VAD})
    table = table[~table[_VAD].eq(1).all(axis=1)]
    return table[table.groupby("id")["id"].transform("size") > 1]
