"""JSON, Excel and SPSS tables: every row, with what these programs do to texts, numbers and dates."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from liminal_hf.data.formats import as_text, clean
from liminal_hf.data.tables import Table, TableSettings, read_table
from liminal_hf.modeling.errors import LiminalError

openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'liminal_hf[tables]'")
pyreadstat = pytest.importorskip("pyreadstat", reason="needs pyreadstat: pip install 'liminal_hf[tables]'")


def excel(folder: Path, sheets: dict[str, list[list[Any]]], merge: str | None = None) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
        if merge:
            sheet.merge_cells(merge)
    book.save(folder / "a.xlsx")
    return folder / "a.xlsx"


def read_json(folder: Path, content: str, name: str = "a.json") -> Table:
    (folder / name).write_text(content, encoding="utf-8")
    return read_table(folder / name)


# ---- JSON ----


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a", "n": 1}, {"n": 2, "text": "b"}]',
        '\ufeff[{"text": "a", "n": 1},\n {"n": 2, "text": "b"}]',
        '{"data": [{"text": "a", "n": 1}, {"text": "b", "n": 2}]}',
        '{"text": ["a", "b"], "n": [1, 2]}',
        '{"text": {"0": "a", "7": "b"}, "n": {"0": 1, "7": 2}}',
        '{"text": "a", "n": 1}\n{"text": "b", "n": 2}\n',
    ],
)
def test_json_in_the_ways_that_programs_write_it(content: str, tmp_path: Path) -> None:
    table = read_json(tmp_path, content)
    assert table.texts == ["a", "b"] and table["n"] == [1, 2] and table.errors == [None, None]
    assert read_json(tmp_path, '["a", "b"]').texts == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "no rows"),
        ("[1, 2]", "no objects"),
        ('[{"a": 1}]', "no column 'text'"),
        ("3", "no rows"),
    ],
)
def test_json_that_is_no_table(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(LiminalError, match=message):
        read_json(tmp_path, content)
    with pytest.raises(LiminalError, match="holds no JSON object"):
        read_json(tmp_path, "nothing\n", "a.jsonl")


def test_json_lines_keep_their_position_and_their_types(tmp_path: Path) -> None:
    content = (
        '{"text": "fine", "n": 1}\nnot json\n[1]\n\n{"n": 2.5}\n{"text": 7, "n": null, "x": {"y": 1}}\n'
        '{"text": "half \\ud83d"}\n{"text": "a\u2028b", "x": NaN}\n'
    )
    table = read_json(tmp_path, content, "a.jsonl")
    assert table.texts == ["fine", None, None, None, 7, "half \ud83d", "a\u2028b"]
    assert table.lines == [1, 2, 3, 5, 6, 7, 8]
    assert table.errors[0] is None and table.errors[1].startswith("line 2 is not JSON (Expecting value")
    assert table.errors[2:] == ["line 3 is no JSON object", *[None] * 4]
    assert table["n"] == [1.0, None, None, 2.5, None, None, None] and table["text"][5] == "half \ufffd"
    assert table["x"][4] == '{"y": 1}'


# ---- Excel ----


def test_excel_cells_are_what_a_person_sees(tmp_path: Path) -> None:
    moment = dt.datetime(2024, 9, 1, 9, 5)
    rows = [
        ["id", " Text ", "V", "when", "yes"],
        [1, 'Well, "hello"!\nthere', 5.5, dt.date(2024, 9, 1), True],
        [2, 5, 3, moment, False],
        [3, 0.5, None, None, None],
        [],
        [5, True, "", None, None],
        [6, dt.date(2024, 9, 1), "NA", None, None],
        [7, "#N/A", 1, None, None],
        [8, "a_x000D_b", 1, None, None],
        [None, ""],
    ]
    table = read_table(excel(tmp_path, {"Sheet1": rows}), columns=["v"])
    assert table.texts == ['Well, "hello"!\nthere', "5", "0.5", None, "TRUE", "2024-09-01", None, "a\rb"]
    assert table["id"] == [1, 2, 3, None, 5, 6, 7, 8] and table["when"][:2] == [dt.datetime(2024, 9, 1), moment]
    assert table["yes"][:3] == [True, False, None] and table.where(4) == "row 6"
    assert str(table.numbers(["v"]).ravel().tolist()) == "[5.5, 3.0, nan, nan, nan, nan, 1.0, 1.0]"


def test_excel_formulas_have_a_value_or_an_error(tmp_path: Path) -> None:
    path = excel(tmp_path, {"a": [["text", "n"], ['=CONCATENATE("a", "b")', 1], ["fine", "=1+1"]]})
    table = read_table(path)
    assert [bool(error) for error in table.errors] == [True, True]
    assert table.errors[0] == "row 2 has a formula without a value in 'text': save the file in Excel"


def test_excel_merged_cells_titles_and_empty_columns(tmp_path: Path) -> None:
    rows = [["Answers of May"], [], ["who", None, "text"], ["ann", None, "a"], [None, None, "b"], ["bob", None, "c"]]
    table = read_table(excel(tmp_path, {"a": rows}, merge="A4:A5"))
    assert table.columns.column_names == ["who", "text"]
    assert table["who"] == ["ann", "ann", "bob"] and table.texts == ["a", "b", "c"] and table.lines == [4, 5, 6]


def test_excel_sheets(tmp_path: Path) -> None:
    path = excel(tmp_path, {"Notes": [["read me"]], "May": [["text"], ["a"]], "Empty": []})
    assert read_table(path).texts == ["a"]
    path = excel(tmp_path, {"May": [["text"], ["a"]], "June": [["text"], ["b"]], "Empty": []})
    with pytest.raises(LiminalError, match=r"several sheets that fit: 'May', 'June'.*--sheet May"):
        read_table(path)
    for sheet in ("june", 2, "2"):
        assert read_table(path, TableSettings(sheet=sheet)).texts == ["b"]
    for sheet, message in (("July", "is not there"), ("Empty", "is empty"), (9, "is not there")):
        with pytest.raises(LiminalError, match=message):
            read_table(path, TableSettings(sheet=sheet))
    with pytest.raises(LiminalError, match="is empty"):
        read_table(excel(tmp_path, {"Empty": []}))
    (tmp_path / "b.xlsx").write_text("PK no")
    with pytest.raises(LiminalError, match="no Excel file that can be read"):
        read_table(tmp_path / "b.xlsx")


# ---- SPSS ----


def test_spss_labels_missing_values_and_dates(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "Text": ["Schön", "", "5"],
            "V": [1.0, 99.0, None],
            "answer": [1.0, 2.0, None],
            "day": [dt.date(2024, 9, 1)] * 3,
        }
    )
    labels = {"answer": {1.0: "very good", 2.0: "bad"}, "V": {1.0: "low"}}
    pyreadstat.write_sav(frame, tmp_path / "a.sav", variable_value_labels=labels, missing_ranges={"V": [99]})
    table = read_table(tmp_path / "a.sav")
    assert table.texts == ["Schön", "", "5"] and str(table.numbers(["V"]).ravel().tolist()) == "[1.0, nan, nan]"
    assert table["day"][0] == dt.datetime(2024, 9, 1) and table["answer"] == [1.0, 2.0, None]
    assert read_table(tmp_path / "a.sav", TableSettings(text="answer")).texts == ["very good", "bad", None]
    (tmp_path / "b.sav").write_text("no")
    with pytest.raises(LiminalError, match="no SPSS file that can be read"):
        read_table(tmp_path / "b.sav")


# ---- values ----


def test_kinds_and_texts_of_values() -> None:
    assert as_text(1e20) == "1e+20" and as_text({"a": [1]}) == json.dumps({"a": [1]}) and as_text(float("nan")) == "nan"
    assert clean("half \ud83d, whole \U0001f600") == "half \ufffd, whole \U0001f600"
