"""How a table is read, and which of its columns are meant.

Requires numpy.
"""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..modeling.configuration_liminal import DIMENSIONS
from ..modeling.errors import LiminalError
from .cells import DATE_ORDERS, fold

logger = logging.getLogger(__name__)

# Letters and words that stand for the targets' names.
_TARGETS = {**{name[0]: name for name in DIMENSIONS}, **{name: name for name in DIMENSIONS}}
_TARGETS |= {"v": "pleasure", "valence": "pleasure"}


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """How a table is read; the command line's options and the keys of a recipe's `data:` have the same names.

    Args:
        text: column with the texts; "" for a table of which no text is read.
        labels: columns with the labels: names in the order of the targets, or a mapping from target to column. As one
            string, "V,A,D" or "pleasure=V,arousal=A".
        scale: lowest and highest possible label; as one string, "1,5".
        separator: between the cells of a CSV; None finds it.
        encoding: of a CSV or JSON file; None finds it.
        decimal: "." or ",", the decimal mark; None finds it.
        sheet: of an Excel file, by name or number (from 1 on); None takes the one that has the columns.
        quotes: "yes": quotation marks enclose cells of a CSV; "no": they are letters; None decides cell by cell.
        date_order: "dmy" or "mdy", how dates such as 1/9/2024 are meant; None finds it.

    Raises:
        LiminalError: a value is not possible.

    Example:
        >>> TableSettings(labels="pleasure=V, arousal=A", scale="1,9").labels
        {'pleasure': 'V', 'arousal': 'A'}
    """

    text: str = "text"
    labels: Sequence[str] | Mapping[str, str] = ("V", "A", "D")
    scale: tuple[float, float] = (1.0, 5.0)
    separator: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    sheet: str | int | None = None
    quotes: str | None = None
    date_order: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _parse_labels(self.labels))
        object.__setattr__(self, "scale", _parse_scale(self.scale))
        if isinstance(self.quotes, bool):
            object.__setattr__(self, "quotes", "yes" if self.quotes else "no")
        choices = {"decimal": (".", ","), "quotes": ("yes", "no"), "date_order": DATE_ORDERS}
        for name, allowed in choices.items():
            if getattr(self, name) not in (None, *allowed):
                shown = " or ".join(map(repr, allowed))
                raise LiminalError(f"{name} is {shown}, got {getattr(self, name)!r}.")

    def label_columns(self, targets: Sequence[str] | None = None) -> dict[str, str]:
        """The column of each target, by the target's name.

        Args:
            targets: the names that are known; None takes those of a mapping, else pleasure, arousal and dominance for
                columns such as V, A, D, and the columns' own names for any others.

        Raises:
            LiminalError: there are more columns than targets or fewer, a column is named twice, or a target is missing.

        Example:
            >>> TableSettings().label_columns()
            {'pleasure': 'V', 'arousal': 'A', 'dominance': 'D'}
            >>> TableSettings(labels=["warmth", "urgency"]).label_columns()
            {'warmth': 'warmth', 'urgency': 'urgency'}
        """
        labels = self.labels
        if isinstance(labels, Mapping):
            if targets is not None and set(labels) != set(targets):
                raise LiminalError(
                    f"labels names the targets {', '.join(labels)}; those of the model are {', '.join(targets)}. Give "
                    "a column for each of them."
                )
            columns = {name: labels[name] for name in (targets or labels)}
        elif targets is not None:
            if len(labels) != len(targets):
                raise LiminalError(
                    f"labels names {len(labels)} columns ({', '.join(labels)}) for {len(targets)} targets "
                    f"({', '.join(targets)}). Name one column for each target, in this order; "
                    "for a target without labels, an empty column."
                )
            columns = dict(zip(targets, labels, strict=True))
        else:
            known = [_TARGETS.get(fold(name)) for name in labels]
            if known != list(DIMENSIONS):
                known = [target if len(name) == 1 else None for target, name in zip(known, labels, strict=True)]
            columns = {target or name: name for target, name in zip(known, labels, strict=True)}
        names = [self.text, *columns.values()]
        if len(set(names)) < len(names) or len(columns) < len(labels):
            raise LiminalError(
                f"labels must name different columns, none of them the text's; got {names[1:]} and text={names[0]!r}."
            )
        return columns


def _parse_labels(labels: Any) -> Any:
    if isinstance(labels, str):
        parts = [[word.strip() for word in part.split("=", 1)] for part in labels.split(",")]
        labels = dict(parts) if all(len(part) == 2 for part in parts) else [part.strip() for part in labels.split(",")]
    names = list(labels.values()) if isinstance(labels, Mapping) else list(labels)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise LiminalError(f"labels names one or more columns, such as V,A,D or pleasure=V,arousal=A; got {labels!r}.")
    return dict(labels) if isinstance(labels, Mapping) else tuple(names)


def _parse_scale(scale: Any) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in (scale.split(",") if isinstance(scale, str) else scale))
    except (TypeError, ValueError):
        raise LiminalError(f"scale is the lowest and the highest possible label, such as 1,5; got {scale!r}.") from None
    if not (np.isfinite([low, high]).all() and low < high):
        raise LiminalError(f"scale must be (lowest, highest) possible label, such as (1, 5); got {(low, high)}.")
    return low, high


def find_column(names: Sequence[str], wanted: str, path: str | os.PathLike) -> str:
    """The name that a column has, whatever its case and the blanks around it; an error lists those that are close.

    Example:
        >>> find_column(["id", " Text "], "text", "a.csv")
        ' Text '
    """
    if wanted in names:
        return wanted
    same = [name for name in names if fold(name) == fold(wanted)]
    if len(same) == 1:
        return same[0]
    listed = ", ".join(map(repr, names))
    if same:
        raise LiminalError(
            f"{path} has the columns {' and '.join(map(repr, same))}. Give the exact name of one of them."
        )
    by_folded = {fold(name): name for name in names}
    close = [by_folded[name] for name in difflib.get_close_matches(fold(wanted), by_folded, n=3, cutoff=0.6)]
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    if len(names) == 1 and (mark := next((mark for mark in ";\t|," if mark in names[0]), None)):
        shown = "tab" if mark == "\t" else f"'{mark}'"
        hint = f" It looks as if the columns were separated otherwise: --separator {shown}"
    raise LiminalError(f"{path} has no column {wanted!r}. Its columns: {listed}.{hint}")


def unique_names(names: Sequence[str], wanted: Sequence[str], path: str | os.PathLike) -> list[str]:
    """Names that differ: an empty one becomes `column_3`, the second `x` `x_2`; a wanted one may not be there twice."""
    result: list[str] = []
    folded = {fold(name) for name in wanted}
    for index, name in enumerate(names, start=1):
        unique = name or f"column_{index}"
        if name and name in names[: index - 1]:
            if fold(name) in folded:
                raise LiminalError(
                    f"{path} has two columns {name!r} (column {names.index(name) + 1} and column {index}). Rename one."
                )
            count = 2
            while f"{name}_{count}" in [*names, *result]:
                count += 1
            unique = f"{name}_{count}"
            logger.warning("%s has two columns %r; the second is called %r.", path, name, unique)
        while unique in result:
            unique += "_"
        result.append(unique)
    return result
