"""Texts with labels as `DatasetDict`s, and the cache in which a frozen encoder's states are kept.

Requires datasets, pandas, torch and transformers.
"""

from .emobank import load_emobank
from .goemotions import GOEMOTIONS_LABELS, load_goemotions
from .labelled import cross_split_duplicates, load_table
from .loaders import create_dataloaders
from .pooled_cache import pooled_dataset
from .tables import TableSettings, open_table, read_table, table_kind, write_table

__all__ = [
    "GOEMOTIONS_LABELS",
    "TableSettings",
    "create_dataloaders",
    "cross_split_duplicates",
    "load_emobank",
    "load_goemotions",
    "load_table",
    "open_table",
    "pooled_dataset",
    "read_table",
    "table_kind",
    "write_table",
]
