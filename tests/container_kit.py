"""Every container that people keep texts in, as a function from a list of texts."""

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
from torch.utils.data import Dataset
from transformers.pipelines.pt_utils import KeyDataset

TEXTS = ["I love it", "I hate it", "It is a table, and it has four legs.", "Good morning"]


class MapStyle(Dataset):
    """A torch data set without `__iter__`; it has an item at any index, so that only its length ends it."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index % len(self.items)]


def generator(items: list[Any]) -> Iterator[Any]:
    yield from items


CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "generator": generator,
    "dict values": lambda items: dict(enumerate(items)).values(),
    "Series": pd.Series,
    "Series in another order": lambda items: pd.Series(items[::-1], index=range(len(items)))[::-1],
    "Series with names": lambda items: pd.Series(items, index=[f"row {index}" for index in range(len(items))]),
    "Series with one name twice": lambda items: pd.Series(items, index=[7] * len(items)),
    "filtered Series": lambda items: pd.Series(["gone", *items])[lambda series: series.index > 0],
    "Series of pandas strings": lambda items: pd.Series(items, dtype="string"),
    "Series of Arrow strings": lambda items: pd.Series(items, dtype=pd.ArrowDtype(pa.string())),
    "categorical Series": lambda items: pd.Series(items, dtype="category"),
    "Index": pd.Index,
    "pandas array": lambda items: pd.array(items, dtype="string"),
    "numpy of objects": lambda items: np.array(items, dtype=object),
    "numpy of strings": np.array,
    "Arrow array": pa.array,
    "Arrow chunks": lambda items: pa.chunked_array([items[:1], items[1:]]),
    "list of Arrow scalars": lambda items: list(pa.array(items)),
    "datasets column": lambda items: datasets.Dataset.from_dict({"text": items})["text"],
    "KeyDataset": lambda items: KeyDataset(datasets.Dataset.from_dict({"text": items}), "text"),
    "torch data set": MapStyle,
}
