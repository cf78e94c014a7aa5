"""The one reader: every kind of file gives the same rows, in whole or in batches."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from liminal_hf.data.tables import KINDS, TableSettings, open_table, read_table, table_kind, write_table
from liminal_hf.modeling.errors import LiminalError

TEXTS = [
    'He said "no",\nthen left.', "007", "None", "NA", "1.50", "2024-01-01", "tab\there", "naïve 😀", " spaced ", "5",
    "", "it's; a | b", "\u2028 odd", "-",
]  # fmt: skip


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz", ".parquet", ".jsonl", ".json", ".xlsx", ".sav"])
def test_every_kind_of_file_reads_the_same(ending: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"id": [f"0{i}" for i in range(len(TEXTS))], "Text": TEXTS, "V": np.linspace(1, 5, len(TEXTS))}
    )
    path = tmp_path / f"a{ending}"
    if "sv" in ending:
        frame.to_csv(path, index=False, sep="\t" if "tsv" in ending else ",")
    elif "json" in ending:
        frame.to_json(path, orient="records", lines=ending == ".jsonl")
    elif ending == ".parquet":
        frame.to_parquet(path)
    elif ending == ".xlsx":
        frame.to_excel(path, index=False)
    else:
        pytest.importorskip("pyreadstat", reason="needs pyreadstat: pip install 'liminal_hf[tables]'").write_sav(
            frame, path
        )
    table = read_table(path, columns=["v"])
    empty = None if ending == ".xlsx" else ""
    # SPSS fills texts up with blanks, which are nothing to it.
    texts = [text.rstrip(" ") if ending == ".sav" else text or empty for text in TEXTS]
    assert table.texts == texts and table.errors == [None] * len(TEXTS) and table["id"] == frame["id"].tolist()
    np.testing.assert_allclose(table.numbers(["V"])[:, 0], frame["V"])
    file = open_table(path)
    parts = list(file.batches(4))
    assert [len(part.lines) for part in parts] == [4, 4, 4, 2]
    assert [text for part in parts for text in part.texts] == texts
    assert all(part.columns.schema == file.schema for part in parts)


plain = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(plain, st.floats(-9, 9).map(lambda value: round(value, 3))), min_size=1, max_size=6),
    options=st.sampled_from(
        [
            {},
            {"sep": ";", "decimal": ","},
            {"sep": "\t"},
            {"encoding": "utf-16"},
            {"quoting": 1},
            {"lineterminator": "\r\n"},
        ]
    ),
)
def test_what_pandas_writes_comes_back(rows: list[tuple[str, float]], options: dict[str, Any], tmp_path: Path) -> None:
    pd.DataFrame(rows, columns=["text", "v"]).to_csv(tmp_path / "a.csv", index=False, **options)
    table = read_table(tmp_path / "a.csv", TableSettings(decimal=options.get("decimal")))
    assert table.texts == [text for text, _ in rows] and table.errors == [None] * len(rows)
    assert table.numbers(["v"])[:, 0].tolist() == [value for _, value in rows]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(plain, min_size=1, max_size=6),
    ending=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"]),
    separator=st.sampled_from(",;"),
)
def test_rows_in_are_rows_out(texts: list[str], ending: str, separator: str, tmp_path: Path) -> None:
    path = write_table(
        tmp_path / f"a{ending}", {"text": texts, "n": range(len(texts))}, TableSettings(separator=separator)
    )
    table = read_table(path)
    assert len(table) == len(texts) and table.errors == [None] * len(texts)
    assert [str(value) for value in table["n"]] == [str(number) for number in range(len(texts))]


def test_parquet_keeps_types_and_pandas_indices(tmp_path: Path) -> None:
    columns = {
        "text": pa.array(["a", "b", None]).dictionary_encode(),
        "when": pa.array([1, 2, 3], pa.timestamp("us", tz="UTC")),
        "tags": pa.array([["x"], [], None]),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.texts == ["a", "b", None] and table["tags"] == [["x"], [], None]
    assert table.columns.schema.field("when").type == pa.timestamp("us", tz="UTC")
    frame = pd.DataFrame({"text": list("abcd")}, index=pd.RangeIndex(10, 18, 2, name="id"))
    frame.to_parquet(tmp_path / "b.parquet")
    file = open_table(tmp_path / "b.parquet", columns=["id"])
    assert [part.columns["id"].to_pylist() for part in file.batches(3)] == [[10, 12, 14], [16]]
    frame.reset_index(drop=True).iloc[[0, 2, 3]].to_parquet(tmp_path / "c.parquet")
    assert read_table(tmp_path / "c.parquet")["__index_level_0__"] == [0, 2, 3]
    # Parquet takes any bytes for a string.
    column = pa.array([b"fine", b"caf\xe9", None], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": column}), tmp_path / "d.parquet")
    table = read_table(tmp_path / "d.parquet")
    assert table.texts == ["fine", "caf\ufffd", None] and table.errors == [None, "the text is not UTF-8", None]


def test_what_is_no_table_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_table(tmp_path)
    pq.write_table(pa.table({"text": [[1], [2]], "n": [1, 2], "review": ["a", "b"]}), tmp_path / "lists.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    for name in ("a.xls", "a", "a.docx", "a.xlsx.gz", "b.csv"):
        (tmp_path / name).write_bytes(b"" if name == "b.csv" else b"x")
    for name, message in (
        ("a.xls", "Save it as .xlsx or as 'CSV UTF-8'"), ("a", "none of .csv, .json"), ("a.docx", "none of .csv"),
        ("a.xlsx.gz", "none of"), ("b.csv", "is empty"), ("bad.parquet", "not a whole Parquet file"),
        ("lists.parquet", r"holds list<.*which is no text. Columns with texts: 'review'"),
    ):  # fmt: skip
        with pytest.raises(LiminalError, match=message):
            read_table(tmp_path / name)
    assert table_kind("A.TSV") == "delimited" and all(
        table_kind(f"a{ending}") == kind for ending, kind in KINDS.items()
    )


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    for ending in (".csv", ".parquet", ".xlsx"):
        path = write_table(tmp_path / f"a{ending}", pa.table({"text": pa.array([], pa.string())}))
        table = read_table(path)
        assert len(table) == 0 and table.columns.num_rows == 0 and list(open_table(path).batches()) == []


def test_dates_of_excel_and_csv(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "when": [dt.datetime(2024, 9, 1, 9, 5)]})
    assert read_table(write_table(tmp_path / "a.xlsx", table))["when"] == [dt.datetime(2024, 9, 1, 9, 5)]
    assert read_table(write_table(tmp_path / "a.csv", table))["when"] == ["2024-09-01 09:05:00"]
