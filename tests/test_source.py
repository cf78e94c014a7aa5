"""Tables as shards: every format gives the same rows in any order, cuts at the same places, and survives bad input."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from liminal_hf.scoring import source as module
from liminal_hf.scoring.source import Reader, Rows, Shard, Source, fingerprint, open_source

TEXTS = ["plain", 'with "quotes", commas', "two\nlines", "größer 🙂", "", "x" * 50, "\u2028 odd", "last"]


def write(folder: Path, ending: str, columns: dict[str, list[Any]], rows_per_group: int = 3) -> Path:
    path = folder / f"table{ending}"
    opened = gzip.open if ending.endswith(".gz") else open
    if ending == ".parquet":
        pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)
    else:
        records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        with opened(path, "wt", encoding="utf-8", newline="") as file:
            if "json" in ending:
                file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            else:
                writer = csv.DictWriter(file, list(columns), delimiter="\t" if "tsv" in ending else ",")
                writer.writeheader()
                writer.writerows(records)
    return path


def everything(source: Source, order: int = 1) -> list[Rows]:
    reader = Reader(source)
    return [reader.read(shard) for shard in source.shards[::order]][::order]


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".jsonl.gz"])
def test_every_format_gives_every_row_in_any_order(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path, ending, {"id": list(range(8)), "text": TEXTS})
    source = open_source(path, shard_rows=3)
    assert source.rows == 8 and [shard.rows for shard in source.shards] == [3, 3, 2]
    for order in (1, -1):  # forwards the file stays open, backwards each shard is looked up
        found = everything(source, order)
        assert [text for rows in found for text in rows.texts] == TEXTS
        kept = pa.concat_tables([rows.kept for rows in found])
        assert kept["id"].to_pylist() == [str(i) if "sv" in ending else i for i in range(8)]
        assert kept["text"].to_pylist() == TEXTS


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, name in enumerate("bca"):
        pq.write_table(pa.table({"text": [f"{name}{i}" for i in range(4)]}), tmp_path / "in" / f"{name}.parquet")
        assert number < 3
    (tmp_path / "in" / "_manifest.json").write_text("{}")
    source = open_source(tmp_path / "in", shard_rows=3)
    assert [text for rows in everything(source) for text in rows.texts] == [f"{n}{i}" for n in "abc" for i in range(4)]
    pq.write_table(pa.table({"other": [1]}), tmp_path / "in" / "d.parquet")
    with pytest.raises(ValueError, match="other columns"):
        open_source(tmp_path / "in")


def test_shards_hold_few_rows_where_rows_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 4000)
    texts = ["short"] * 10 + ["long " * 300] * 6 + ["short"] * 10
    for ending in (".csv", ".jsonl", ".parquet"):
        source = open_source(write(tmp_path, ending, {"text": texts}))
        assert len(source.shards) > 1 and source.rows == 26
        assert [text for rows in everything(source) for text in rows.texts] == texts


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_no_shard_cuts_a_conversation(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a"] * 2 + ["b"] * 7 + ["c"] + ["d"] * 2 + [None if ending == ".parquet" else ""] + ["e"] * 3
    path = write(tmp_path, ending, {"text": [str(i) for i in range(len(names))], "chat": names})
    source = open_source(path, conversation="chat", shard_rows=3)
    found = [rows.conversations for rows in everything(source)]
    assert found == [["a", "a"], ["b"] * 7, ["c", "d", "d"], [None], ["e"] * 3]
    monkeypatch.setattr(module, "LONGEST_CONVERSATION", 6)
    with pytest.raises(ValueError, match="'b' has more than 6 rows"):
        open_source(path, conversation="chat")
    path = write(tmp_path, ending, {"text": list("12345"), "chat": list("aabba")})
    with pytest.raises(ValueError, match=r"'a' do not stand together .*row 5.* Sort the table by 'chat'"):
        open_source(path, conversation="chat")


def test_lines_that_are_broken_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffid,text\n1,fine\n2\n\n3,too,many\n4,caf\xe9".encode("utf-8").replace(b"\xc3\xa9", b"\xe9"))
    (rows,) = everything(open_source(path))
    assert rows.kept["id"].to_pylist() == ["1", "2", "3", "4"]
    assert rows.texts[:2] == ["fine", None] and rows.kept["text"].to_pylist()[3] == "caf\ufffd"
    assert [problem and problem[:30] for problem in rows.problems] == [
        None, "The line has another number of", "The line has another number of", None
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine", "n": 1}\nnot json\n[1]\n\n{"n": 2.5}\n{"text": 7, "n": null, "x": {"y": 1}}\n')
    (rows,) = everything(open_source(path))
    assert rows.texts == ["fine", None, None, None, 7]
    assert rows.problems == [None, "The line is not JSON.", "The line is no JSON object.", None, None]
    assert rows.kept["n"].to_pylist() == [1.0, None, None, 2.5, None]
    assert rows.kept["x"].to_pylist()[-1] == '{"y": 1}'
    # Parquet takes any bytes for a string.
    column = pa.array([b"fine", b"caf\xe9", None], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    (rows,) = everything(open_source(tmp_path / "a.parquet"))
    assert rows.texts == ["fine", None, None] and rows.problems == [None, "The text is not UTF-8.", None]


def test_columns_and_types_of_parquet_survive(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", "b", None]).dictionary_encode(),
            "when": pa.array([1, 2, 3], pa.timestamp("us", tz="UTC")),
            "tags": [["x"], [], None],
            "left_out": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = open_source(tmp_path / "a.parquet", keep=["tags", "text", "when"], shard_rows=2)
    found = everything(source)
    assert [text for rows in found for text in rows.texts] == ["a", "b", None]
    kept = pa.concat_tables([rows.kept for rows in found])
    assert kept.column_names == ["tags", "text", "when"]
    for name in kept.column_names:
        assert kept[name].to_pylist() == table[name].to_pylist() and kept.schema.field(name).type == table[name].type


@pytest.mark.parametrize(
    ("name", "content", "options", "hint"),
    [
        ("a.xlsx", "x", {}, "ending must be"),
        ("a.json", "{}", {}, "called .jsonl"),
        ("a.csv", "", {}, "is empty"),
        ("a.csv", "txt,id\nx,1\n", {}, "Did you mean 'txt'"),
        ("a.csv", "text;id\nx;1\n", {}, "--separator ';'"),
        ("a.csv", "text,text\nx,1\n", {}, "two columns of one name"),
        ("a.csv", "text\nx\n", {"order": "n"}, "goes with a conversation"),
        ("a.csv", "text\nx\n", {"keep": ["id"]}, "no column 'id'"),
        ("a.jsonl", "nothing\n", {}, "no JSON object"),
        ("a.parquet", "PAR1", {}, "Parquet"),
    ],
)
def test_what_cannot_be_read(name: str, content: str, options: dict[str, Any], hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=hint):
        open_source(tmp_path / name, **options)


def test_what_cannot_be_read_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no file and no folder"):
        open_source(tmp_path / "nothing.csv")
    with pytest.raises(FileNotFoundError, match="holds no file"):
        open_source(tmp_path)
    (tmp_path / "a.csv").write_text("text\nx\n", encoding="utf-16")
    with pytest.raises(ValueError, match="iconv -f UTF-16"):
        open_source(tmp_path / "a.csv")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="holds int64, which is no text"):
        open_source(tmp_path / "a.parquet")
    monkeypatch.setattr(module, "_LARGEST_CELL", 200_000)
    before = csv.field_size_limit(100_000)
    (tmp_path / "b.csv").write_text('text\nfine\n"never closed\n' + "x\n" * 200_000)
    with pytest.raises(ValueError, match=r"byte 10 .* quotation mark left open"):
        open_source(tmp_path / "b.csv")
    csv.field_size_limit(before)
    path = tmp_path / "c.csv"
    path.write_text("text\n" + "x\n" * 5)
    source = open_source(path)
    path.write_text("text\nx\n")
    with pytest.raises(ValueError, match="has changed"):
        everything(source)


def test_a_fingerprint_tells_tables_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\na\n")
    before = fingerprint([path])
    assert fingerprint([path]) == before
    path.write_text("text\nb\n")
    assert fingerprint([path]) != before


def test_an_empty_table_is_one_shard_of_nothing(tmp_path: Path) -> None:
    for ending in (".parquet", ".csv"):
        empty = pa.array([], pa.string())
        path = write(tmp_path, ending, {"text": empty if ending == ".parquet" else []})
        source = open_source(path)
        assert source.shards == [Shard(0, 0, 0)]
        (rows,) = everything(source)
        assert rows.texts == [] and rows.kept.num_rows == 0
