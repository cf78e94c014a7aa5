"""Numbers and dates as people write them: one reading, or an error that shows both."""

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liminal_hf.data.cells import OrderColumn, find_decimal, is_missing, numbers, readings
from liminal_hf.modeling.errors import LiminalError


def keys(values: list[Any], **options: Any) -> list[Any]:
    """What the values of a column are sorted by."""
    column = OrderColumn("when", **options)
    for index, value in enumerate(values, start=2):
        column.add(value, f"line {index}")
    column.decide()
    return [column.key(value) for value in values]


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        ("5", {".": 5, ",": 5}),
        ("-5,5", {",": -5.5}),
        ("\N{MINUS SIGN}5.5", {".": -5.5}),
        ("1,234", {".": 1234, ",": 1.234}),
        ("0.125", {".": 0.125}),
        ("1.234,5", {",": 1234.5}),
        ("1,234,567", {".": 1234567}),
        ("1\u202f234,5", {",": 1234.5}),
        ("1'234.5", {".": 1234.5}),
        (".5", {".": 0.5}),
        ("1e-3", {".": 0.001, ",": 0.001}),
        ("1_000", {}),
        ("1,2,3", {}),
        ("5%", {}),
        ("", {}),
        ("0x10", {}),
    ],
)
def test_readings(cell: str, values: dict[str, float]) -> None:
    assert readings(cell) == values


@given(st.lists(st.floats(-1e6, 1e6).map(lambda value: round(value, 2)), min_size=1), st.sampled_from(".,"))
def test_numbers_come_back_whatever_the_mark(values: list[float], mark: str) -> None:
    cells = [f"{value:.2f}".replace(".", mark) for value in values]
    assert find_decimal(cells) == mark
    assert numbers(cells, mark).tolist() == values


def test_the_decimal_mark_is_that_of_all_cells() -> None:
    assert find_decimal(["1,234", "5"], (1, 9)) == "," and find_decimal(["1,234", "1,5"]) == ","
    assert find_decimal(["1.234"]) == "." and find_decimal(["1,234", "1,234.5"]) == "."
    for cells, scale in ((["1,234"], None), (["1,234", "2"], (0, 5000)), (["1.234"], (0, 5000))):
        with pytest.raises(LiminalError, match=r"1234 with a decimal .*--decimal ',' .*--decimal \."):
            find_decimal(cells, scale)
    with pytest.raises(LiminalError, match=r"'5,5' has one decimal mark and '5\.5' another"):
        find_decimal(["5,5", "3", "5.5"])
    for value in (True, np.True_, "high", [1]):
        with pytest.raises(LiminalError, match="in row 1, which is no number"):
            numbers([3, value], ".")


def test_missing_cells() -> None:
    missing = [None, float("nan"), np.nan, pd.NA, pd.NaT, "", " ", "NA", "N/A", "nan", "None", "null", "-", ".", "#N/A"]
    assert all(map(is_missing, missing)) and not any(map(is_missing, [0, "0", "no", False, [], dt.date(2024, 1, 1)]))
    assert np.isnan(numbers(missing, ".")).all() and keys(missing) == [None] * len(missing)


@pytest.mark.parametrize(
    "rising",
    [
        [1, 2, 10],
        ["1", "2", "10"],
        ["1,5", "1,25e1", "13"],
        [Decimal("1.1"), Decimal("1.9"), 2],
        ["1.1", "1.9", "10.05"],
        ["1000000000000000000001", "1000000000000000000002"],
        ["2024-09-01", "2024-09-01 09:05", "2024-10-01T08:00:00.5"],
        ["2024-9-1 9:05", "2024-9-1 10:00", "2024-10-1"],
        ["2024-01-09T09:00:00+02:00", "2024-01-09T08:00:00Z"],
        ["2024/09/01", "2024/10/01"],
        ["1/9/2024 9:05", "1/10/2024 8:00", "13/10/2024"],
        ["1/10/2024 8:00", "13/10/2024", "1.11.2024"],
        ["9/30/2024 1:05 PM", "10/1/2024 9:00 AM", "10/1/2024 12:00 PM"],
        ["30.9.2024", "1.10.2024"],
        ["3/3/2024", "4/4/2024"],
        ["30 Sep 2024", "Oct 1, 2024 5:00 PM", "2 October 2024", "3-Dec-2024"],
        ["9:05", "10:00", "23:59:59"],
        [dt.date(2024, 9, 30), dt.datetime(2024, 10, 1, 5), pd.Timestamp("2024-10-01 06:00")],
    ],
)
def test_an_order_is_that_of_numbers_and_days(rising: list[Any]) -> None:
    found = keys(rising)
    assert found == sorted(found) and len(set(found)) == len(found)


def test_an_order_that_a_person_has_to_decide() -> None:
    cells = ["1/9/2024 9:05", "1/10/2024 8:00"]
    with pytest.raises(
        LiminalError, match=r"01 September 2024 with the day .* 09 January 2024 .*--date-order dmy .*mdy"
    ):
        keys(cells)
    assert keys(cells, date_order="dmy") == [dt.datetime(2024, 9, 1, 9, 5), dt.datetime(2024, 10, 1, 8)]
    assert keys(cells, date_order="mdy") == [dt.datetime(2024, 1, 9, 9, 5), dt.datetime(2024, 1, 10, 8)]
    assert keys(["01/09/24", "13/09/24"]) == [dt.datetime(2024, 9, 1), dt.datetime(2024, 9, 13)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1", "2024-09-01"], "holds a number, '1' .line 2. and a date, '2024-09-01' .line 3."),
        (["1", "second"], "'second' .line 3., which is neither a number nor a date"),
        (["10a", "9a"], "neither a number nor a date"),
        ([True, False], "neither a number nor a date"),
        (["2024-09-01", "2024-09-01T08:00Z"], "a date with a time zone"),
        (["13/9/2024", "9/13/2024"], "with the day first, and .* with the month first"),
        (["31/2/2024"], "no date with the day first"),
        (["2024-02-31"], "neither a number nor a date"),
        (["1,234", "2"], "1.234 with a decimal comma and 1234"),
    ],
)
def test_an_order_that_is_none(values: list[Any], message: str) -> None:
    with pytest.raises(LiminalError, match=message):
        keys(values)
    with pytest.raises(LiminalError, match="dmy, mdy"):
        keys([1], date_order="ymd")
