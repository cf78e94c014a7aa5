"""Delimited text in any dialect: each row comes back whole, or keeps its line and says what is wrong."""

import bz2
import csv
import gzip
import io
import logging
import lzma
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from liminal_hf.data.delimited import Record, find_dialect, read_records
from liminal_hf.modeling.errors import LiminalError

ROW_MARK = "opens a quotation mark that is not closed"


def read(folder: Path, content: str | bytes, name: str = "a.csv", **options) -> list[Record]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_records(find_dialect(path, ["text"], **options)))


def rows(folder: Path, content: str | bytes, name: str = "a.csv", **options) -> list[list[str]]:
    """Cells of a table without errors."""
    records = read(folder, content, name, **options)
    assert not [record.error for record in records if record.error]
    return [list(record.cells) for record in records]


# ---- quotation marks ----


@pytest.mark.parametrize(
    ("name", "content", "texts", "errors"),
    [
        ("q.csv", 'id,text\n1,"No way, she said\n2,I am so happy\n3,This is awful\n',
         ['"No way', "I am so happy", "This is awful"], {2: ROW_MARK}),
        ("q.csv", 'id,text\n1,"No way\n2,fine\n3,"ok" then\n4,bye\n',
         ['"No way', "fine", '"ok" then', "bye"], {2: ROW_MARK}),
        ("q.csv", 'id,text\n1,"a\n2,b, c\n3,"d\n4,e\n',
         ['"a', "b", '"d', "e"], {2: ROW_MARK, 3: "3 cells", 4: ROW_MARK}),
        ("q.tsv", 'id\ttext\n1\t"No way\n2\tI am so happy\n3\t"ok" then\n4\tfine\n',
         ['"No way', "I am so happy", '"ok" then', "fine"], {}),
        ("q.tsv", 'id\ttext\n1\t"No way\n2\tfine\n3\tso "\n', ['"No way', "fine", 'so "'], {}),
        ("q.tsv", 'id\ttext\n1\t5" and 6"\n2\t"well ""quoted"", yes"\n', ['5" and 6"', 'well "quoted", yes'], {}),
        ("q.tsv", 'id\ttext\n1\t"two\nlines"\n2\t"a\tb"\n', ["two\nlines", "a\tb"], {}),
        ("q.csv", 'id,text\n1,She said "no" then\n2,\'tis\n3,"no" she said\n',
         ['She said "no" then', "'tis", '"no" she said'], {}),
        ("q.csv", 'id,text\n1,"Dear John,\nroses, red\n\n2 of 3"\n2,bye\n',
         ["Dear John,\nroses, red\n\n2 of 3", "bye"], {}),
        ("q.csv", 'id, text\n1, "x, y"\n2, z\n', ["x, y", " z"], {}),
        ("q.csv", 'id,text\n1,"a \\"b\\", c"\n2,"C:\\"\n', ['a "b", c', "C:\\"], {}),
        ("q.csv", 'id,text\n1,"Dear\nJohn",x\n2,"a\n3,b\n4,c",y\n5,d\n', ["Dear\nJohn", '"a', "b", 'c"', "d"],
         {2: "3 cells", 4: ROW_MARK, 6: "3 cells"}),
    ],
)  # fmt: skip
def test_no_quotation_mark_swallows_rows(name, content, texts, errors, tmp_path: Path) -> None:
    records = read(tmp_path, content, name)
    assert [record.cells[1] for record in records] == texts
    marked = {record.line: record.error for record in records if record.error}
    assert marked.keys() == errors.keys()
    for line, message in errors.items():
        assert f"line {line} " in marked[line] and message in marked[line]


def test_lines_of_one_text_need_no_question(tmp_path: Path) -> None:
    content = 'text,author\n"Dear John,\nhow are you,\nbest",Ann\n"Roses are red,\nviolets are blue",Bob\nfine,Eve\n'
    texts = ["Dear John,\nhow are you,\nbest", "Roses are red,\nviolets are blue", "fine"]
    assert [cells[0] for cells in rows(tmp_path, content)] == texts
    assert rows(tmp_path, 'id,text\n1,"a\nb, c\nd, e"\n') == [["1", "a\nb, c\nd, e"]]


def test_lines_that_may_be_rows_or_one_text_are_a_question(tmp_path: Path) -> None:
    content = 'id,text\n1,"No way\n2,fine\n3,ok"\n4,bye\n'
    with pytest.raises(LiminalError, match=r"mark in line 2 is closed in line 4 only.*--quotes no.*--quotes yes"):
        read(tmp_path, content)
    assert [cells[1] for cells in rows(tmp_path, content, quotes=True)] == ["No way\n2,fine\n3,ok", "bye"]
    assert [cells[1] for cells in rows(tmp_path, content, quotes=False)] == ['"No way', "fine", 'ok"', "bye"]


words = st.text(st.sampled_from("abc ,;\t|\"'\n=é0"), max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    table=st.lists(st.tuples(st.integers(0, 99), words), min_size=1, max_size=8),
    separator=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]),
)
def test_what_the_csv_module_writes_comes_back(table, separator, end, quoting, encoding, tmp_path: Path) -> None:
    """Or it is the question of the test above: never another table."""
    if separator == "\t" and any("\n" in text and "\t" in text for _, text in table):
        return  # a quoted cell that holds whole lines of this table: between tabs quotation marks are letters
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([["id", "text"], *table])
    try:
        found = rows(tmp_path, out.getvalue().encode(encoding))
    except LiminalError as error:
        assert "look like rows" in str(error) and any("\n" in text for _, text in table)
        return
    assert found == [[str(number), text] for number, text in table]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(st.text(st.sampled_from("ab,\"' "), min_size=1, max_size=10), min_size=1, max_size=8))
def test_no_line_is_lost_or_glued(lines: list[str], tmp_path: Path) -> None:
    """Of any lines at all: each is in just one record, as it stands."""
    try:
        records = read(tmp_path, "id,text\n" + "".join(f"{number},{line}\n" for number, line in enumerate(lines)))
    except LiminalError as error:
        assert "look like rows" in str(error)
        return
    starts = [record.line for record in records]
    assert starts == sorted(set(starts)) and starts[0] == 2
    numbers = [str(cell) for record in records for cell in record.cells[:1]]
    inside = [part for record in records for cell in record.cells for part in str(cell).split("\n")[1:]]
    assert len(numbers) + len(inside) == len(lines)


# ---- rows, names, separators ----


@pytest.mark.parametrize(
    ("content", "header", "cells"),
    [
        ("id,text\r1,a\r2,b\r", ["id", "text"], [["1", "a"], ["2", "b"]]),
        ("id,text\r\n1,a\r\n\r\n2,b", ["id", "text"], [["1", "a"], ["2", "b"]]),
        ("\n\n id ,text,\n1,a,\n2,b,,\n", ["id", "text"], [["1", "a"], ["2", "b"]]),
        ("\ufeffsep=;\nid;text\n1;a,b\n", ["id", "text"], [["1", "a,b"]]),
        ("sep=|\nid|text\n1|a;b,c\n", ["id", "text"], [["1", "a;b,c"]]),
        ("Answers of May\n\nid;text\n1;a,b\n", ["id", "text"], [["1", "a,b"]]),
        ("Answers of May;;\nid;v;text\n1;2;a\n", ["id", "v", "text"], [["1", "2", "a"]]),
        ("id\ttext\n1\ta, b; c\n", ["id", "text"], [["1", "a, b; c"]]),
        ('id,"text"\n1,a;b\n', ["id", "text"], [["1", "a;b"]]),
        ('"What, then?\n(one line)",text\nx,a\n', ["What, then?\n(one line)", "text"], [["x", "a"]]),
        ("text\nHello, world; and | more\nHi\n", ["text"], [["Hello, world; and | more"], ["Hi"]]),
        ('text\n"Hello, world"\n"Hi\nthere"\n', ["text"], [["Hello, world"], ["Hi\nthere"]]),
        ("id,text\n", ["id", "text"], []),
        ("id,text\n,\n1,a\x00b\n", ["id", "text"], [["", ""], ["1", "a\x00b"]]),
        ("id,text\n1,a\u2028b\x0bc\x85d\n", ["id", "text"], [["1", "a\u2028b\x0bc\x85d"]]),
    ],
)
def test_a_header_and_its_rows(content: str, header: list[str], cells: list[list[str]], tmp_path: Path) -> None:
    assert rows(tmp_path, content) == cells
    assert list(find_dialect(tmp_path / "a.csv", ["text"]).header) == header


def test_rows_of_another_width_are_marked(tmp_path: Path) -> None:
    records = read(tmp_path, "text,v,a,d\nHello\nmy friend,5,5,5\nbad,1,2\n\nlong,1,2,3,4\n")
    assert [(record.line, record.error) for record in records] == [
        (2, "line 2 has 1 cell, the header has 4 cells"), (3, None), (4, "line 4 has 3 cells, the header has 4 cells"),
        (6, "line 6 has 5 cells, the header has 4 cells"),
    ]  # fmt: skip


def test_two_quoted_cells_are_not_one_text(tmp_path: Path) -> None:
    (record,) = read(tmp_path, 'text\n"a","b"\n')
    assert record.error == "line 2 has 2 cells, the header has 1 cell"


def test_a_separator_is_a_character(tmp_path: Path) -> None:
    for name in ("tab", "\\t", "\t"):
        assert rows(tmp_path, "id\ttext\n1\ta\n", separator=name) == [["1", "a"]]
    assert rows(tmp_path, "id~text\n1~a\n", separator="~") == [["1", "a"]]
    for name in ("::", "", '"'):
        with pytest.raises(LiminalError, match=r"one character, got .* --separator ';' .*--separator tab"):
            read(tmp_path, "text\na\n", separator=name)
    for content in ("", "\n \r\n", "\ufeff"):
        with pytest.raises(LiminalError, match="is empty"):
            read(tmp_path, content)


def test_the_decimal_mark_for_an_output(tmp_path: Path) -> None:
    for content, mark in (
        ("text;v\na;1,5\n", ","),
        ("text;v\na;1.5\n", "."),
        ("text;v\na;1\n", ","),
        ("text,v\na,1\n", "."),
    ):
        (tmp_path / "a.csv").write_text(content)
        assert find_dialect(tmp_path / "a.csv", ["text"]).decimal == mark


# ---- encodings ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_an_encoding_is_found(encoding: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = "id;text\n1;Schöne Grüße “naïve”, 5 €\n2;plain\n"
    assert rows(tmp_path, content.encode(encoding))[0] == ["1", "Schöne Grüße “naïve”, 5 €"]
    assert ("read as cp1252 (Windows), for example '1;Schöne" in caplog.text) == (encoding == "cp1252")


def test_an_encoding_can_be_given(tmp_path: Path) -> None:
    for encoding, text in (("cp1251", "Привет, мир"), ("cp850", "für"), ("shift_jis", "こんにちは"), ("latin-1", "é")):
        content = f"id;text\n1;{text}\n".encode(encoding)
        assert rows(tmp_path, content, encoding=encoding) == [["1", text]]
        if encoding != "latin-1":
            with pytest.raises(LiminalError, match=r"not UTF-8 \(line 2, byte 0x.. .*--encoding cp1251"):
                read(tmp_path, content)
    with pytest.raises(LiminalError, match="no text encoding 'klingon'"):
        read(tmp_path, "text\na\n", encoding="klingon")
    with pytest.raises(LiminalError, match=r"is not ascii .*line 2, byte 0xc3 after '1;'"):
        read(tmp_path, "id;text\n1;é\n", encoding="ascii")


def test_single_broken_bytes_are_of_their_row(tmp_path: Path) -> None:
    records = read(tmp_path, "id,text\n1,naïve\n2,Grüße -- ja\n".encode() + b"3,caf\xe9\n4,fine\n")
    assert [(record.cells[1], record.error) for record in records] == [
        ("naïve", None), ("Grüße -- ja", None), ("caf\ufffd", "line 4 is not UTF-8"), ("fine", None),
    ]  # fmt: skip


def test_compressed_files(tmp_path: Path) -> None:
    content = b"id,text\n1,na\xc3\xafve\n"
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    packers[".zst"] = lambda data: pa.Codec("zstd").compress(data).to_pybytes()
    for ending, pack in packers.items():
        assert rows(tmp_path, pack(content), f"a.csv{ending}") == [["1", "naïve"]]
        with pytest.raises(LiminalError, match="damaged or not whole"):
            read(tmp_path, pack(content * 1000)[:-9], f"b.csv{ending}")


def test_a_large_table_is_read_line_by_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The first megabyte decides the dialect; an open quotation mark far below it does not read to the end."""
    caplog.set_level(logging.ERROR)
    lines = [f"{number},{'x' * 90}\n" for number in range(20_000)]
    lines[15_000] = '15000,"open, here\n'
    records = read(tmp_path, "id,text\n" + "".join(lines))
    assert len(records) == 20_000 and [record.line for record in records if record.error] == [15_002]
