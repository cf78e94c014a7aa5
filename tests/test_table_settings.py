"""The settings of a table, and the columns that are meant."""

import logging

import pytest

from liminal_hf.data.table_settings import TableSettings, find_column, unique_names
from liminal_hf.modeling.errors import LiminalError


def test_settings_take_what_the_command_line_gives() -> None:
    settings = TableSettings(labels="V, A", scale="1,9", quotes=True)
    assert settings.labels == ("V", "A") and settings.scale == (1.0, 9.0) and settings.quotes == "yes"
    for options, message in (
        ({"decimal": ";"}, r"decimal is '.' or ','"),
        ({"quotes": "maybe"}, "quotes is 'yes' or 'no'"),
        ({"date_order": "ymd"}, "date_order is 'dmy' or 'mdy'"),
        ({"scale": "1"}, "such as 1,5"),
        ({"scale": (5, 1)}, "lowest, highest"),
        ({"scale": (0, float("inf"))}, "lowest, highest"),
        ({"labels": ""}, "one or more columns"),
        ({"labels": [3]}, "one or more columns"),
    ):
        with pytest.raises(LiminalError, match=message):
            TableSettings(**options)


@pytest.mark.parametrize(
    ("labels", "targets", "columns"),
    [
        ("V,A,D", None, {"pleasure": "V", "arousal": "A", "dominance": "D"}),
        ("Valence,Arousal,Dominance", None, {"pleasure": "Valence", "arousal": "Arousal", "dominance": "Dominance"}),
        ("V,A", None, {"pleasure": "V", "arousal": "A"}),
        ("warmth,urgency,clarity", None, {"warmth": "warmth", "urgency": "urgency", "clarity": "clarity"}),
        ("x,y", ["warmth", "urgency"], {"warmth": "x", "urgency": "y"}),
        ("urgency=y,warmth=x", ["warmth", "urgency"], {"warmth": "x", "urgency": "y"}),
    ],
)
def test_a_column_per_target(labels: str, targets: list[str] | None, columns: dict[str, str]) -> None:
    found = TableSettings(labels=labels).label_columns(targets)
    assert found == columns and list(found) == list(columns)


@pytest.mark.parametrize(
    ("labels", "targets", "message"),
    [
        ("V,A", ["pleasure"], "2 columns .* for 1 targets"),
        ("V,A", ["pleasure", "arousal", "dominance"], "a target without labels, an empty column"),
        ("warmth=x", ["warmth", "urgency"], "those of the model are warmth, urgency"),
        ("V,V", None, "different columns"),
        ("V,text", None, "different columns"),
    ],
)
def test_columns_that_do_not_fit_the_targets(labels: str, targets: list[str] | None, message: str) -> None:
    with pytest.raises(LiminalError, match=message):
        TableSettings(labels=labels).label_columns(targets)


def test_a_column_is_found_whatever_its_case_and_blanks() -> None:
    assert find_column(["id", " Text "], "TEXT", "a.csv") == " Text "
    assert find_column(["text", "Text"], "Text", "a.csv") == "Text"
    for names, message in (
        (["txt", "id"], r"no column 'text'\. Its columns: 'txt', 'id'\. Did you mean 'txt'\?"),
        (["Text", "TEXT"], "has the columns 'Text' and 'TEXT'. Give the exact name"),
        (["id;text"], r"separated otherwise: --separator ';'"),
        (["id\ttext"], r"separated otherwise: --separator tab"),
        (["x"], r"no column 'text'\. Its columns: 'x'\.$"),
    ):
        with pytest.raises(LiminalError, match=message):
            find_column(names, "text", "a.csv")


def test_names_that_differ(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        names = unique_names(["", "text", "x", "x", "x_2", "x", "column_1"], ["text"], "a.csv")
    assert names == ["column_1", "text", "x", "x_3", "x_2", "x_4", "column_1_"]
    assert "two columns 'x'" in caplog.text
    with pytest.raises(LiminalError, match=r"two columns 'text' \(column 1 and column 3\). Rename one"):
        unique_names(["text", "id", "text"], ["Text"], "a.csv")
