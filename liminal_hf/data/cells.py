"""Numbers and dates as people write them in tables: decimal commas, thousands separators, 1/9/2024.

Requires numpy. A column is read as a whole: one cell that can be read in one way only settles the others. What nothing
settles is an error that shows both readings.
"""

import contextlib
import datetime as dt
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from ..modeling.errors import LiminalError
from ..modeling.texts import is_missing as is_no_value

MISSING_WORDS = frozenset({"", "na", "n/a", "#n/a", "nan", "none", "null", "nil", "-", "--", ".", "?"})
DATE_ORDERS = ("dmy", "mdy")

_GROUP = r"[ \u00a0\u202f'\u2019]"
_NUMBER = {
    mark: re.compile(
        rf"[+-]?(?:(?:[1-9]\d{{0,2}}(?:{re.escape(group)}\d{{3}})+|\d+)(?:{re.escape(mark)}\d*)?|{re.escape(mark)}\d+)"
        r"(?:[eE][+-]?\d+)?|[+-]?inf(?:inity)?",
        re.ASCII | re.IGNORECASE,
    )
    for mark, group in ((".", ","), (",", "."))
}
_TIME = (
    r"(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?)?"
    r"\s*(?:(?P<half>[AaPp])\.?[Mm]\.?)?"
)
_CLOCK = re.compile(_TIME)
_MOMENT = re.compile(
    r"(?:(?P<year>[0-9]{4})(?P<mark>[-/.])(?P<month>[0-9]{1,2})(?P=mark)(?P<day>[0-9]{1,2})\.?"
    r"|(?P<first>[0-9]{1,2})(?P<sign>[-/.])(?P<then>[0-9]{1,2})(?P=sign)(?P<last>[0-9]{4}|[0-9]{2})\.?"
    r"|(?:(?P<before>[0-9]{1,2})[. -]+(?P<late>[^\W\d]{3,})\.?|(?P<early>[^\W\d]{3,})\.? +(?P<after>[0-9]{1,2}))"
    rf"[, -]+(?P<named_year>[0-9]{{4}}))(?:[T, ]+{_TIME}\s*(?P<zone>Z|UTC|[+-][0-9]{{2}}:?[0-9]{{2}})?)?"
)
_MONTHS = ("jan", "feb", "mar mär", "apr", "may mai", "jun", "jul", "aug", "sep", "oct okt", "nov", "dec dez")
_DATE, _ZONED = "date", "date with a time zone"


def is_missing(value: Any) -> bool:
    """Whether a cell stands for no value: None, NaN, pandas' NA, or a word such as NA.

    Example:
        >>> [is_missing(value) for value in (None, float("nan"), " n/a ", "", "0", 0)]
        [True, True, True, True, False, False]
    """
    if isinstance(value, str):
        return value.strip().casefold() in MISSING_WORDS
    return is_no_value(value)


def option(name: str, value: str) -> str:
    """How an option is typed on the command line, and in Python or a recipe.

    Example:
        >>> option("date_order", "dmy")
        "--date-order dmy (in Python or a recipe: date_order='dmy')"
    """
    shown = f"'{value}'" if not value.isalnum() and value not in ".-_" else value
    return f"--{name.replace('_', '-')} {shown} (in Python or a recipe: {name}={value!r})"


def fold(name: str) -> str:
    """A column's name without its case and the blanks around it."""
    return " ".join(name.replace("\ufeff", "").split()).casefold()


# ---- numbers ----


def readings(cell: str) -> dict[str, float]:
    """The numbers that a cell may mean, by the decimal mark that is assumed; none where it is no number.

    Example:
        >>> readings("5,5"), readings("1,234"), readings("1 234,5"), readings("high")
        ({',': 5.5}, {'.': 1234.0, ',': 1.234}, {',': 1234.5}, {})
    """
    return {mark: float(plain) for mark in _NUMBER if (plain := _plain(cell, mark))}


def _plain(cell: str, mark: str) -> str | None:
    """A number as Python writes it."""
    cell = re.sub(rf"(?<=\d){_GROUP}(?=\d{{3}}(?:\D|$))", "", cell.strip().replace("\u2212", "-"))
    return cell.replace("," if mark == "." else ".", "").replace(mark, ".") if _NUMBER[mark].fullmatch(cell) else None


def find_decimal(cells: Sequence[Any], scale: tuple[float, float] | None = None, what: str = "The column") -> str:
    """The decimal mark, "." or ",", of cells that belong together; `what` names them in an error.

    Args:
        cells: of any type; those that are text and a number count.
        scale: lowest and highest possible value, which decide where both marks give a number.

    Raises:
        LiminalError: one cell needs a point and another a comma, or both readings of a cell are possible.

    Example:
        >>> find_decimal(["4", "5,5"]), find_decimal(["1,234"], (1, 9))
        (',', ',')
    """
    found = {cell: values for cell in cells if isinstance(cell, str) and (values := readings(cell))}
    settled: dict[str, str] = {}  # the marks that are needed, each with a cell that needs it
    for cell, values in found.items():
        if len(values) == 1:
            settled.setdefault(next(iter(values)), cell)
    if len(settled) == 2:
        one, other = map(repr, settled.values())
        raise LiminalError(f"{what}: {one} has one decimal mark and {other} another. Write all numbers in one way.")
    if settled:
        return next(iter(settled))
    unclear = next((cell for cell, values in found.items() if values["."] != values[","]), None)
    if unclear is None or (scale is None and "." in unclear):
        return "."
    fitting = [
        mark for mark in ".," if scale and all(scale[0] <= values[mark] <= scale[1] for values in found.values())
    ]
    if len(fitting) == 1:
        return fitting[0]
    both = readings(unclear)
    raise LiminalError(
        f"{what}: {unclear!r} is {both[',']:g} with a decimal comma and {both['.']:g} with a decimal "
        f"point, and no other cell says which. Type {option('decimal', ',')} or {option('decimal', '.')}."
    )


def numbers(
    values: Sequence[Any], decimal: str, what: str = "The column", where: Callable[[int], str] = "row {}".format
) -> np.ndarray:
    """Cells as float64, NaN for a missing one; `decimal` is the mark of those that are text.

    Raises:
        LiminalError: a cell is no number; the message names the column by `what`, and its row by `where(index)`.

    Example:
        >>> numbers(["5,5", None, 3, "NA"], decimal=",").tolist()
        [5.5, nan, 3.0, nan]
    """
    result = np.full(len(values), np.nan)
    for index, value in enumerate(values):
        if is_missing(value):
            continue
        number = None
        if isinstance(value, str):
            number = readings(value).get(decimal)
        elif not isinstance(value, bool | np.bool_):  # booleans would pass as 0 and 1
            with contextlib.suppress(TypeError, ValueError):
                number = float(value)
        if number is None:
            raise LiminalError(
                f"{what} holds {value!r} in {where(index)}, which is no number with the decimal mark {decimal!r}. "
                "Leave a missing one empty."
            )
        result[index] = number
    return result


# ---- order ----


@dataclass
class OrderColumn:
    """What a column says about the order of rows, gathered cell by cell; then one rule for all of them.

    Args:
        name: of the column.
        date_order: "dmy" or "mdy" where a person has said it.
        decimal: "." or "," where a person has said it.

    Example:
        >>> column = OrderColumn("when")
        >>> for cell in ("1/9/2024 9:05", "13/9/2024"):
        ...     column.add(cell, "line 2")
        >>> column.decide(), column.key("1/9/2024")
        ('dmy', datetime.datetime(2024, 9, 1, 0, 0))
    """

    name: str
    date_order: str | None = None
    decimal: str | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    orders: dict[str, str] = field(default_factory=dict)
    unclear: tuple[str, dict[str, dt.datetime]] | None = None
    written: dict[tuple, str] = field(default_factory=dict)  # numbers as text, one of each way of writing

    def __post_init__(self) -> None:
        if self.date_order not in (None, *DATE_ORDERS):
            raise LiminalError(f"date_order is one of {', '.join(DATE_ORDERS)}, got {self.date_order!r}.")

    def add(self, value: Any, where: str) -> None:
        """Takes note of a cell; `where` says where it stands."""
        if is_missing(value):
            return
        kind, found, order = _kind(value)
        self.kinds.setdefault(kind, f"{value!r} ({where})")
        if kind == "number" and isinstance(value, str):
            self.written.setdefault((tuple(readings(value)), "." in value, "," in value), value)
        if order:
            self.orders.setdefault(order, f"{value!r} ({where})")
        elif isinstance(found, dict) and len(set(found.values())) == 2:
            self.unclear = self.unclear or (str(value), found)

    def decide(self) -> str | None:
        """The order of the parts of a date such as 1/9/2024; None where no cell has one.

        Raises:
            LiminalError: the cells are of several kinds, are neither numbers nor dates, or are dates of which nothing
                says whether the day or the month comes first.
        """
        if "text" in self.kinds:
            raise LiminalError(
                f"Column {self.name!r} holds {self.kinds['text']}, which is neither a number nor a date, so it orders "
                "nothing. Take a column with numbers, or with dates such as 2024-09-01 09:05."
            )
        if len(self.kinds) > 1:
            raise LiminalError(
                f"Column {self.name!r} holds {' and '.join(f'a {kind}, {cell}' for kind, cell in self.kinds.items())}. "
                "An order needs values of one kind."
            )
        if self.decimal is None:
            self.decimal = find_decimal(list(self.written.values()), what=f"Column {self.name!r}")
        if self.date_order is None:
            if len(self.orders) > 1:
                raise LiminalError(
                    f"Column {self.name!r} holds {self.orders['dmy']}, with the day first, and {self.orders['mdy']}, "
                    "with the month first. Write all dates in one way, best as 2024-09-01."
                )
            if self.unclear and not self.orders:
                cell, days = self.unclear
                raise LiminalError(
                    f"Column {self.name!r} holds {cell!r}, which is {days['dmy']:%d %B %Y} with the day first and "
                    f"{days['mdy']:%d %B %Y} with the month first, and no other cell says which. Type "
                    f"{option('date_order', 'dmy')} or {option('date_order', 'mdy')}."
                )
            self.date_order = next(iter(self.orders), None)
        return self.date_order

    def key(self, value: Any) -> Any:
        """What a cell is sorted by; None for a missing one. Of use after `decide`.

        Raises:
            LiminalError: the cell is a date that the calendar does not have.
        """
        if is_missing(value):
            return None
        kind, found, _ = _kind(value)
        if kind == "number" and isinstance(value, str):
            plain = _plain(value, self.decimal or ".")
            if plain is None:
                raise LiminalError(f"Column {self.name!r} holds {value!r}, no number with the mark {self.decimal!r}.")
            return Decimal(plain)  # exact, however long
        if not isinstance(found, dict):
            return found
        order = self.date_order or "dmy"
        if order not in found:
            raise LiminalError(
                f"Column {self.name!r} holds {value!r}, which is no date with the "
                f"{'month' if order == 'mdy' else 'day'} first."
            )
        return found[order]

    def number(self, value: Any) -> float:
        """`key` as a number, dates in days; NaN for a missing cell. Of use after `decide`.

        Example:
            >>> column = OrderColumn("when")
            >>> column.add("1970-01-02 12:00", "line 2")
            >>> column.decide()
            >>> column.number("1970-01-02 12:00")
            1.5
        """
        key = self.key(value)
        if key is None:
            return math.nan
        if isinstance(key, dt.datetime):
            start = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
            return (key.replace(tzinfo=key.tzinfo or dt.UTC) - start) / dt.timedelta(days=1)
        if isinstance(key, dt.date):
            return float(key.toordinal())
        if isinstance(key, dt.time):
            return (key.hour * 3600 + key.minute * 60 + key.second + key.microsecond / 1e6) / 86_400
        return float(key)


def _kind(value: Any) -> tuple[str, Any, str | None]:
    """The kind of a cell, its value, and the order that it settles; a date such as 1/9/2024 has a value per order."""
    if isinstance(value, bool | np.bool_):
        return "text", None, None
    if isinstance(value, int | float | Decimal | np.integer | np.floating):
        return "number", value.item() if isinstance(value, np.generic) else value, None
    if isinstance(value, dt.time):
        return "time of day", value, None
    if isinstance(value, dt.date):
        moment = value if isinstance(value, dt.datetime) else dt.datetime(value.year, value.month, value.day)
        return _DATE if moment.tzinfo is None else _ZONED, moment, None
    cell = str(value).strip()
    if found := readings(cell):
        return "number" if all(map(math.isfinite, found.values())) else "text", None, None
    try:
        if match := _CLOCK.fullmatch(cell):
            return "time of day", _time(match), None
        if match := _MOMENT.fullmatch(cell):
            return _date(match)
    except ValueError:
        pass
    return "text", None, None


def _date(match: re.Match[str]) -> tuple[str, Any, str | None]:
    kind = _ZONED if match["zone"] else _DATE
    if match["year"]:
        return kind, _moment(match, match["year"], match["month"], match["day"]), None
    if name := match["late"] or match["early"]:
        month = next((i for i, names in enumerate(_MONTHS, 1) if name.casefold()[:3] in names.split()), 0)
        return kind, _moment(match, match["named_year"], month, match["before"] or match["after"]), None
    first, second, year = int(match["first"]), int(match["then"]), int(match["last"])
    if len(match["last"]) == 2:
        year += 1900 if year > 68 else 2000
    found = {}
    for order, month, day in (("dmy", second, first), ("mdy", first, second)):
        with contextlib.suppress(ValueError):
            found[order] = _moment(match, year, month, day)
    # Dots are written with the day first.
    settled = "dmy" if first > 12 else "mdy" if second > 12 else "dmy" if match["sign"] == "." else None
    return kind, found, settled


def _moment(match: re.Match[str], year: Any, month: Any, day: Any) -> dt.datetime:
    clock = _time(match) if match["hour"] else dt.time()
    moment, zone = dt.datetime.combine(dt.date(int(year), int(month), int(day)), clock), match["zone"]
    if not zone:
        return moment
    offset = dt.timedelta()
    if zone not in ("Z", "UTC"):
        offset = dt.timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:])) * (-1 if zone[0] == "-" else 1)
    return moment.replace(tzinfo=dt.timezone(offset))


def _time(match: re.Match[str]) -> dt.time:
    hour, half = int(match["hour"]), match["half"]
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(f"hour {hour} with am or pm")
        hour = hour % 12 + (12 if half in "pP" else 0)
    microseconds = (match["fraction"] or "0").ljust(6, "0")[:6]
    return dt.time(hour, int(match["minute"]), int(match["second"] or 0), int(microseconds))
