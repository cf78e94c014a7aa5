"""The columns that a report takes from a table: its texts, the group of each row, and its time.

Requires numpy and pyarrow.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..data.cells import OrderColumn, fold
from ..data.formats import as_text
from ..data.tables import Table, TableSettings, open_table, read_table
from ..modeling.errors import LiminalError
from ..modeling.texts import is_missing

MOST_GROUPS = 40
_MOST_SPANS = 31
_PARTS = 20  # of numbers that are more
_LOOKED_AT = 200  # rows, to find the column with the texts
_WORDS = 3  # a text has as many on average


@dataclass
class Input:
    """A table with what a report takes from it; lists have a value per row.

    Args:
        table: all of its columns.
        group: name of the group column, as the table has it, or None.
        groups: the group of each row; None where the cell is empty.
        time: name of the time column, or None.
        times: a number or a date without a time zone (UTC, where the column has zones); None where the cell is empty.
    """

    table: Table
    group: str | None = None
    groups: list[str | None] | None = None
    time: str | None = None
    times: list[Any] | None = None


class Spans(NamedTuple):
    """Times put together into spans."""

    unit: str  # what a span is, in words
    names: list[str]
    rows: list[list[int]]  # those of each span


def find_text(path: Path, settings: TableSettings) -> str:
    """The column with the texts: `text`, or else the only one whose cells have three words or more on average.

    Raises:
        LiminalError: no column is it, or several may be; the message lists them.

    Example:
        >>> path = Path("mine.csv")
        >>> _ = path.write_text("id,when,answer\\n1,May,It was a lovely day\\n2,June,I did not like it\\n", "utf-8")
        >>> find_text(path, TableSettings(text=""))
        'answer'
    """
    file = open_table(path, replace(settings, text=""))
    names = file.schema.names
    if (found := [name for name in names if fold(name) == "text"]) and len(found) == 1:
        return found[0]
    part = next(iter(file.batches(_LOOKED_AT)), None)
    likely = []
    for name in names:
        if part is None:
            break
        cells = [cell for cell in part.columns[name].to_pylist() if isinstance(cell, str) and cell.strip()]
        if cells and sum(len(cell.split()) for cell in cells) >= _WORDS * len(cells):
            likely.append(name)
    if len(likely) == 1:
        return likely[0]
    listed = ", ".join(map(repr, likely or names))
    which = "Several columns of {} may hold the texts" if likely else "No column of {} looks like texts"
    raise LiminalError(f"{which.format(path)}: {listed}. Say which one does: --text COLUMN (in Python text='...')")


def read_input(path: Path, settings: TableSettings, group: str | None, time: str | None) -> Input:
    """Reads the table and its columns.

    Raises:
        LiminalError: a column is not there (the message lists those that are), names too many groups, or holds no
            times; or the table has no rows.
    """
    table = read_table(path, settings, [name for name in (group, time) if name])
    if not len(table):
        raise LiminalError(f"{path} has a row of names and no rows below it.")
    found = Input(table)
    if group:
        found.group = table.file.column(group)
        found.groups = _groups(path, settings, table, found.group)
    if time:
        found.time = table.file.column(time)
        found.times = _times(table, found.time, settings)
    return found


def _groups(path: Path, settings: TableSettings, table: Table, name: str) -> list[str | None]:
    cells = table[name]
    if table.file.kind == "spss":  # a text column is read by its value labels, and so is this
        cells = read_table(path, replace(settings, text=name)).texts
    groups = [None if is_missing(cell) else as_text(cell).strip() or None for cell in cells]
    if (count := len(set(groups) - {None})) > MOST_GROUPS:
        raise LiminalError(
            f"Column {name!r} has {count:,} different values in {len(groups):,} rows; a report compares at most "
            f"{MOST_GROUPS} groups. Its columns: {', '.join(map(repr, table.columns.column_names))}."
        )
    if not count:
        raise LiminalError(f"Column {name!r} is empty, so it names no group.")
    return groups


def sorted_groups(groups: list[str | None]) -> list[str]:
    """The names of the groups: numbers by size, others as they come up.

    Example:
        >>> sorted_groups(["10", "9", None, "9"]), sorted_groups(["new", "old", "new"])
        (['9', '10'], ['new', 'old'])
    """
    names = [name for name in dict.fromkeys(groups) if name is not None]
    try:
        return sorted(names, key=float)
    except ValueError:
        return names


def _times(table: Table, name: str, settings: TableSettings) -> list[Any]:
    cells = [None if error else cell for cell, error in zip(table[name], table.errors, strict=True)]
    column = OrderColumn(name, settings.date_order, settings.decimal)
    for index, cell in enumerate(cells):
        column.add(cell, table.where(index))
    column.decide()
    times = [_plain_time(column.key(cell)) for cell in cells]
    if all(time is None for time in times):
        raise LiminalError(f"Column {name!r} is empty, so it holds no time.")
    return times


def _plain_time(value: Any) -> Any:
    if isinstance(value, dt.time):  # of day, in hours
        return value.hour + value.minute / 60 + value.second / 3600
    if isinstance(value, dt.datetime):
        return value if value.tzinfo is None else value.astimezone(dt.UTC).replace(tzinfo=None)
    return None if value is None else float(value)


_UNITS: dict[str, Callable[[dt.datetime], str]] = {
    "hour": lambda when: f"{when:%Y-%m-%d %H}:00",
    "day": lambda when: f"{when:%Y-%m-%d}",
    "week from": lambda when: f"{when - dt.timedelta(days=when.weekday()):%Y-%m-%d}",
    "month": lambda when: f"{when:%Y-%m}",
    "year": lambda when: f"{when:%Y}",
}


def spans(times: list[Any]) -> Spans:
    """Times as at most 31 spans: hours, days, weeks, months or years; numbers one by one, or in 20 equal parts.

    Args:
        times: numbers, or dates; None has no time and is in no span.

    Example:
        >>> spans([dt.datetime(2024, 5, 2, 9), None, dt.datetime(2024, 5, 3, 9), dt.datetime(2024, 5, 2, 8)])
        Spans(unit='day', names=['2024-05-02', '2024-05-03'], rows=[[0, 3], [2]])
        >>> spans([3.0, 1.0, 3.0]).names
        ['1', '3']
    """
    order = sorted((row for row, time in enumerate(times) if time is not None), key=lambda row: times[row])
    known = [times[row] for row in order]
    keys: list[Any]
    if known and isinstance(known[0], dt.datetime):
        labels = {unit: [name(time) for time in known] for unit, name in _UNITS.items()}
        counts = {unit: len(set(some)) for unit, some in labels.items()}
        # Hours only within a day.
        fitting = [unit for unit in _UNITS if counts[unit] <= _MOST_SPANS and (unit != "hour" or counts["day"] == 1)]
        unit = next(iter(fitting), "year")
        keys = labels[unit]
        names = dict(zip(keys, keys, strict=True))
    elif len(set(known)) <= _MOST_SPANS:
        unit, keys = "value", known
        names = {key: as_text(key) for key in keys}
    else:
        unit, low = "range", known[0]
        width = (known[-1] - low) / _PARTS
        keys = [min(int((time - low) / width), _PARTS - 1) for time in known]
        names = {key: f"{low + key * width:.10g} to {low + (key + 1) * width:.10g}" for key in keys}
    rows: dict[Any, list[int]] = {}
    for row, key in zip(order, keys, strict=True):
        rows.setdefault(key, []).append(row)
    return Spans(unit, [names[key] for key in rows], list(map(sorted, rows.values())))
