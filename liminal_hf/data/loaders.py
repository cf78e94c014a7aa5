"""Batches of pooled states and labels, for a training loop of one's own.

Requires datasets, pandas, torch and transformers.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader

from ..modeling.encoders import load_tokenizer
from ..modeling.errors import LiminalError
from ..modeling.modeling_liminal import LiminalModel
from ..modeling.texts import checked_max_length
from .emobank import load_emobank
from .pooled_cache import COLUMN, pooled_dataset


def create_dataloaders(
    data: Mapping[str, Any] | None = None,
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2",
    *,
    batch_size: int = 32,
    pooling: str | None = None,
    pooled_layers: str = "last",
    max_length: int = 128,
    seed: int = 0,
) -> dict[str, DataLoader]:
    """A `DataLoader` per split: the name that the original has for it. The encoder runs once, and its states are kept.

    Args:
        data: splits by name, each a `Dataset` or a DataFrame with `text` and `labels`, such as `load_table` gives; None
            is EmoBank on its official split.
        encoder: Hub id or folder.
        batch_size: rows in a batch; the last one may have fewer.
        pooling, pooled_layers: as in `LiminalConfig`.
        max_length: tokens per text; longer ones are truncated.
        seed: of the order of `train`, which is another one in each epoch. The other splits keep theirs.

    Returns:
        Loaders by split. A batch has `pooled_embeds` `(n, pooled size)` and `labels` `(n, targets)`, float32, in
        -1..1; -100 where one is missing. `model(**batch).loss` is what to train on.

    Raises:
        LiminalError: no splits by name, a column is missing, or a text can't be read.
        FileNotFoundError, ConnectionError: EmoBank is not here.
        OSError: the encoder was not found.

    Example:
        >>> from datasets import Dataset
        >>> rows = Dataset.from_dict({"text": ["Good morning.", "Go away!"], "labels": [[0.4, 0, 0], [-0.5, 0.3, 0.2]]})
        >>> loaders = create_dataloaders({"train": rows})
        >>> {name: tuple(values.shape) for name, values in next(iter(loaders["train"])).items()}
        {'pooled_embeds': (2, 384), 'labels': (2, 3)}
    """
    if data is not None and not (isinstance(data, Mapping) and data):
        what = "none" if isinstance(data, Mapping) else f"a {type(data).__name__}"
        raise LiminalError(f'data takes splits by name, {{"train": rows}}; got {what}.')
    splits = DatasetDict(load_emobank() if data is None else {name: _rows(name, rows) for name, rows in data.items()})
    if lacking := [name for name, rows in splits.items() if not {"text", "labels"} <= set(rows.column_names)]:
        raise LiminalError(f"The split {lacking[0]!r} needs the columns text and labels. load_table gives them.")
    model = LiminalModel.from_encoder_pretrained(encoder, head="linear", pooling=pooling, pooled_layers=pooled_layers)
    tokenizer = load_tokenizer(encoder)
    length = checked_max_length(max_length, model.config, tokenizer)
    pooled = pooled_dataset(model, tokenizer, splits.select_columns(["text", "labels"]), max_length=length)
    return {
        name: DataLoader(
            rows.select_columns([COLUMN, "labels"]).with_format("torch", dtype=torch.float32),  # type: ignore[arg-type]
            batch_size,
            shuffle=name == "train",
            generator=torch.Generator().manual_seed(seed),
        )
        for name, rows in pooled.items()
    }


def _rows(name: str, rows: Any) -> Dataset:
    if isinstance(rows, Dataset):
        return rows
    if isinstance(rows, pd.DataFrame):
        return Dataset.from_pandas(rows, preserve_index=False)
    raise LiminalError(f"The split {name!r} is a {type(rows).__name__}: give a Dataset or a DataFrame.")
