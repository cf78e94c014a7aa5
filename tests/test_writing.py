"""Tables out: the ending is the format, the dialect is the input's, and no cell runs as a formula."""

import csv
import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from liminal_hf.data.tables import TableSettings, read_table
from liminal_hf.data.writing import TableWriter, harmless, output_ending, write_table
from liminal_hf.modeling.errors import LiminalError

TABLE = pa.table(
    {
        "text": ["=1+1", '@a "b";\nc', "- yes", "-1,5", "grün 😀", None],
        "pleasure": pa.array([0.1, -0.25, None, 1e-7, 0.30000001, float("nan")], pa.float32()),
        "n": [1, 2, 3, None, 5, 6],
        "tags": [["x", "y"], [], None, [], [], []],
        "when": [dt.datetime(2024, 9, 1), dt.datetime(2024, 9, 1, 9, 5), None, None, None, None],
    }
)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".xlsx", ".jsonl"])
def test_every_format_gives_back_what_was_written(ending: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / f"out{ending}", TABLE)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    table = read_table(path)
    guard = "'" if ending in (".csv", ".tsv") else ""
    texts = [f"{guard}=1+1", f'{guard}@a "b";\nc', f"{guard}- yes", "-1,5", "grün 😀"]
    assert table.texts[:5] == texts and table.texts[5] in (None, "") and len(table) == 6
    found = table.numbers(["pleasure", "n"])
    assert found[:, 0].tolist()[:2] == pytest.approx([0.1, -0.25]) and found[4, 0] == pytest.approx(0.3)
    assert str(found[2, 0]) == "nan" and found[0, 1] == 1 and str(found[3, 1]) == "nan"


def test_a_csv_is_that_of_the_users_program(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", TABLE, TableSettings(separator=";", decimal=","))
    content = path.read_bytes()
    assert content.startswith(b"\xef\xbb\xbf") and b"'=1+1;0,1;1;" in content
    rows = list(csv.reader(path.read_text("utf-8-sig").splitlines(keepends=True), delimiter=";"))
    assert rows[1] == ["'=1+1", "0,1", "1", '["x", "y"]', "2024-09-01"] and rows[2][4] == "2024-09-01 09:05:00"
    assert rows[4][:2] == ["-1,5", "1e-07"] and rows[6][:2] == ["", ""]
    lines = [json.loads(line) for line in write_table(tmp_path / "a.jsonl", TABLE).read_text("utf-8").splitlines()]
    assert lines[0] == {"text": "=1+1", "pleasure": 0.1, "n": 1, "tags": ["x", "y"], "when": "2024-09-01"}
    assert lines[5]["pleasure"] is None
    again = pq.read_table(write_table(tmp_path / "a.parquet", TABLE))
    assert str(again.to_pylist()) == str(TABLE.to_pylist())


def test_excel_runs_nothing(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'liminal_hf[tables]'")
    sheet = openpyxl.load_workbook(write_table(tmp_path / "a.xlsx", TABLE.append_column("bad", [["\x00"] * 6]))).active
    assert sheet["A2"].value == "=1+1" and sheet["A2"].data_type == "s" and sheet["A2"].quotePrefix
    assert (
        sheet["B2"].value == 0.1
        and sheet["E3"].value == dt.datetime(2024, 9, 1, 9, 5)
        and sheet["F2"].value == "\ufffd"
    )
    with TableWriter(tmp_path / "b.xlsx", TABLE.schema) as writer:
        writer._rows = 2**20
        with pytest.raises(LiminalError, match=r"1,048,575 rows. Write .csv or .parquet"):
            writer.write(TABLE)


def test_numbers_of_a_csv_are_numbers_in_excel(tmp_path: Path) -> None:
    """Where nothing is lost: a postcode, a version, a long number, a word, thousands or decimals stay text."""
    openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl: pip install 'liminal_hf[tables]'")
    columns = {
        "text": (["1", "2", "3"], ["1", "2", "3"]),
        "id": (["1", "", "30"], [1, None, 30]),
        "score": (["4,5", "-3", "0,25"], [4.5, -3, 0.25]),
        "price": (["1,50", "2,00", "12,25"], [1.5, 2, 12.25]),
        "zip": (["01234", "50667", "1"], None),
        "version": (["1,10", "1,9", "2"], None),
        "account": (["1234567890123456", "1", "2"], None),
        "phone": (["123456789012345", "1", "2"], [123456789012345, 1, 2]),
        "other": (["1", "NA", "2"], None),
        "plus": (["+1", "1", "2"], None),
        "zero": (["-0", "-0,0", "2"], None),
        "unclear": (["1,234", "2,345", "1"], None),
        "foreign": (["1.234,5", "1", "2"], None),
        "point": (["1.5", "1", "2"], None),
        "empty": (["", "", ""], [None] * 3),
    }
    rows = zip(*(cells for cells, _ in columns.values()), strict=True)
    lines = [";".join(columns), *map(";".join, rows)]
    (tmp_path / "a.csv").write_text("\n".join(lines), "utf-8")
    table = read_table(tmp_path / "a.csv")
    sheet = openpyxl.load_workbook(write_table(tmp_path / "a.xlsx", table.columns, table.file.like)).active
    for column, (name, (cells, numbers)) in zip(sheet.iter_cols(min_row=2), columns.items(), strict=True):
        found = [cell.value for cell in column]
        assert found == (numbers if numbers and name != "text" else cells), name
        shown = {"price": "0.00", "phone": "0", "id": "0"}.get(name, "General")
        assert {cell.number_format for cell in column if cell.value is not None} <= {shown}, name
    again = read_table(tmp_path / "a.xlsx", TableSettings(), ["score"])
    assert again.texts == ["1", "2", "3"] and again.numbers(["score"]).ravel().tolist() == [4.5, -3, 0.25]
    sheet = openpyxl.load_workbook(write_table(tmp_path / "b.xlsx", table.columns)).active
    assert sheet["B2"].value == "1", "what came from no CSV has its own types"


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    for ending in (".csv", ".xlsx", ".parquet", ".jsonl"):
        with pytest.raises(RuntimeError), TableWriter(tmp_path / f"a{ending}", TABLE.schema) as writer:
            writer.write(TABLE)
            raise RuntimeError
    assert not list(tmp_path.iterdir())
    for name in ("a.xls", "a", "a.csv.gz"):
        with pytest.raises(LiminalError, match=r"none of \.csv, \.tsv, \.parquet, \.xlsx, \.jsonl"):
            output_ending(name)
    assert write_table(tmp_path / "mixed.csv", {"text": ["a", 3, None, "\ud83d"]}).read_text("utf-8-sig") == (
        'text\na\n3\n""\n\ufffd\n'
    )


def test_a_formula_is_told_from_a_number() -> None:
    for cell in ("=1", "+a", "-a", "@a", " =1", "\t=1", "-1+1", "+1 (555) HELP"):
        assert harmless(cell) == f"'{cell}"
    for cell in ("-1,5", "-1.5e3", "+49 171 234", "- 3", "a=1", "", "-5 %"):
        assert harmless(cell) == cell


def test_a_text_that_excel_cuts_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = {"text": ["a" * 32_767, "b" * 32_768]}
    write_table(tmp_path / "a.csv", rows)
    write_table(tmp_path / "b.xlsx", {"text": rows["text"][:1]})
    assert not caplog.records
    write_table(tmp_path / "c.xlsx", rows)
    assert "c.xlsx: 1 rows have a text of more than 32767 characters" in caplog.text
