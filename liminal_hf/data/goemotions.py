"""GoEmotions: 54,263 Reddit comments with 27 emotions and neutral, any number of them at once.

Requires datasets and pandas, and a folder with the corpus.

Demszky et al. 2020, "GoEmotions: A Dataset of Fine-Grained Emotions" (ACL). Apache-2.0.
"""

import csv
import os

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, Features, List, Value

from ..io import require_file
from ..modeling.errors import LiminalError

GOEMOTIONS_LABELS = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip
SOURCE = "https://github.com/monologg/GoEmotions-pytorch (data/original)"
_SPLITS = {"train": "train", "validation": "dev", "test": "test"}


def load_goemotions(data_dir: str | os.PathLike[str] | None = None) -> DatasetDict:
    """GoEmotions on its own split: 43,410 comments to train on, 5,426 for validation, 5,427 to test on.

    Args:
        data_dir: a folder with `goemotions/{train,dev,test}.tsv` (or the files themselves); None looks in the folder
            that the environment variable `LIMINAL_DATA_DIR` names.

    Returns:
        `DatasetDict` with `train`, `validation`, `test`, each with `id` and `text` (strings) and `labels`, 28 float32
        that are 1 where the emotion of that place in `GOEMOTIONS_LABELS` was seen, else 0.

    Raises:
        FileNotFoundError: the corpus is not there; the message says where to get it.
        ValueError: a line is not GoEmotions'.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> folder = Path(tempfile.mkdtemp())  # a corpus of one comment, to show its form
        >>> for split in ("train", "dev", "test"):
        ...     _ = (folder / f"{split}.tsv").write_text("This is so sweet!\\t0,18\\teb1", "utf-8")
        >>> row = load_goemotions(folder)["train"][0]
        >>> [name for name, seen in zip(GOEMOTIONS_LABELS, row["labels"]) if seen]
        ['admiration', 'love']
    """
    features = Features({"id": Value("string"), "text": Value("string"), "labels": List(Value("float32"))})
    parts = {}
    for split, theirs in _SPLITS.items():
        path = require_file("goemotions", f"{theirs}.tsv", data_dir, SOURCE)
        # Quotation marks are part of the comments here, and "null" would be a comment.
        table = pd.read_csv(
            path, sep="\t", names=["text", "labels", "id"], dtype=str, quoting=csv.QUOTE_NONE, keep_default_na=False
        )
        labels = np.zeros((len(table), len(GOEMOTIONS_LABELS)), dtype=np.float32)
        for row, ids in enumerate(table["labels"]):
            try:
                labels[row, [int(label) for label in ids.split(",")]] = 1
            except (ValueError, IndexError) as error:
                raise LiminalError(
                    f"{path}, line {row + 1}: {ids!r} is no comma-separated list of label numbers 0..27."
                ) from error
        parts[split] = Dataset.from_dict(
            {"id": table["id"].tolist(), "text": table["text"].tolist(), "labels": labels.tolist()}, features=features
        )
    return DatasetDict(parts)
