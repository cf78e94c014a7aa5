"""Labelled texts for `liminal benchmark`: a small YAML file each, and those of the user.

Requires numpy, pyyaml and pydantic; any table that the package reads will do.

A file says `title`, `file` (a table, looked for as `folder/name` in the folder that `LIMINAL_DATA_DIR` names, else
beside the YAML file), `text` (its column) and `labels`: for any of pleasure, arousal and dominance a `column` and its
`scale`, the lowest and the highest possible value.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...data import TableSettings, load_emobank, read_table
from ...data.emobank import HUMAN_CEILING
from ...data.tables import Table
from ...io import find_file
from ...metrics import Array
from ...modeling.configuration_liminal import DIMENSIONS, MISSING_LABEL
from ...modeling.errors import LiminalError
from ...modeling.texts import text_error

FOLDER = Path(__file__).parent


class Column(BaseModel):
    """A column with labels, and the lowest and highest possible one."""

    model_config = ConfigDict(extra="forbid")
    column: str
    scale: tuple[float, float]


class Description(BaseModel):
    """What a corpus file may say."""

    model_config = ConfigDict(extra="forbid")
    title: str
    about: str = ""
    licence: str = "not stated"
    source: str = ""
    file: str | None = None
    text: str = "text"
    labels: dict[Literal["pleasure", "arousal", "dominance"], Column] = Field(default_factory=dict)
    loader: Literal["emobank"] | None = None
    split_of: Literal["emobank"] | None = None
    """Rows whose `id` is in the test split of that corpus count, and no others."""


@dataclass(frozen=True)
class Corpus:
    """Texts with labels `(rows, 3)` in -1..1; NaN where a dimension has none."""

    name: str
    about: Description
    texts: list[str]
    labels: Array
    left_out: int = 0
    """Rows without a text, or without any label."""

    @property
    def ceiling(self) -> dict[str, float] | None:
        """The highest r that people's own disagreement allows, where it is known."""
        return HUMAN_CEILING if self.about.loader == "emobank" else None


def names(folder: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """The corpus files by name: those of the package, and those in a folder of the user, which come first.

    Raises:
        LiminalError: the folder has no corpus file.

    Example:
        >>> sorted(names())[:3]
        ['diary', 'emobank', 'emoita']
    """
    own = {path.stem: path for path in sorted(Path(folder).glob("*.yaml"))} if folder is not None else {}
    if folder is not None and not own:
        raise LiminalError(f"{folder} has no corpus file: NAME.yaml with title, file, text and labels.")
    return own | {path.stem: path for path in sorted(FOLDER.glob("*.yaml")) if path.stem not in own}


def load(path: Path, limit: int | None = None, data_dir: str | os.PathLike[str] | None = None) -> Corpus | None:
    """Reads a corpus; None where its texts are not at hand.

    Args:
        path: the corpus file.
        limit: at most so many rows, always the same ones.
        data_dir: folder with the corpora; None is that of `LIMINAL_DATA_DIR`.

    Raises:
        LiminalError: the corpus file or its table is not as it should be; the message says where.
    """
    try:
        about = Description(**yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, TypeError, yaml.YAMLError) as error:
        raise LiminalError(f"{path} is no corpus file: {error}") from None
    if about.loader == "emobank":
        test = load_emobank(data_dir)["test"]
        texts, labels = list(test["text"][:]), np.asarray(test["labels"][:], dtype=np.float64)
    else:
        table = _table(about, path, data_dir)
        if table is None:
            return None
        inside, readable = _inside(table, about, data_dir), zip(table.texts, table.errors, strict=True)
        read = [None if error else text for text, error in readable]
        texts, labels = [read[row] for row in inside], _labels(table, about, path)[inside]
    labels = np.where(labels == MISSING_LABEL, np.nan, labels)
    kept = [row for row, text in enumerate(texts) if text_error(text) is None and not np.isnan(labels[row]).all()]
    left_out = len(texts) - len(kept)
    if limit is not None and len(kept) > limit:
        kept = sorted(random.Random(0).sample(kept, limit))
    if len(kept) < 3:
        raise LiminalError(f"{about.file} has {len(kept)} rows with a text and a label; a correlation needs 3.")
    return Corpus(path.stem, about, [texts[row] for row in kept], labels[kept], left_out)


def _table(about: Description, path: Path, data_dir: str | os.PathLike[str] | None) -> Table | None:
    if about.file is None or not about.labels:
        raise LiminalError(
            f"{path}: `file` and `labels` are missing. For example labels: {{pleasure: {{column: V, scale: [1, 5]}}}}"
        )
    folder, _, name = about.file.rpartition("/")
    beside = path.parent / about.file
    file = beside if beside.is_file() else find_file(folder, name, data_dir)
    if file is None:
        return None
    needed = [*(column.column for column in about.labels.values()), *(["id"] if about.split_of else [])]
    return read_table(file, TableSettings(text=about.text), needed)


def _inside(table: Table, about: Description, data_dir: str | os.PathLike[str] | None) -> np.ndarray:
    """The rows that count: all, or those of another corpus' test split."""
    if about.split_of is None:
        return np.arange(len(table))
    wanted = set(load_emobank(data_dir)["test"]["id"][:])
    return np.flatnonzero([str(one) in wanted for one in table["id"]])


def _labels(table: Table, about: Description, path: Path) -> Array:
    labels = np.full((len(table), len(DIMENSIONS)), np.nan)
    for name, column in about.labels.items():
        low, high = column.scale
        values = table.numbers([column.column])[:, 0]
        if np.nanmax(np.abs((values - low) / (high - low) - 0.5), initial=0.0) > 0.75:
            raise LiminalError(f"{path}: {column.column} has values far outside of its scale {low:g}..{high:g}.")
        labels[:, DIMENSIONS.index(name)] = np.clip(2 * (values - low) / (high - low) - 1, -1, 1)
    return labels
