"""Tables as shards: every format gives the same rows in any order, and no cut goes through a conversation."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from liminal_hf.data.tables import write_table
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import shards as module
from liminal_hf.scoring.shards import (
    Plan,
    ScoreSettings,
    ShardRows,
    find_files,
    fingerprint,
    make_plan,
    open_files,
    read_shard,
)

TEXTS = ["plain", 'with "quotes", commas', "two\nlines", "größer 🙂", "", "x" * 50, "\u2028 odd", "last"]


def write(folder: Path, ending: str, columns: dict[str, list[Any]]) -> Path:
    path = folder / f"table{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table(columns), path, row_group_size=3)
    elif ending == ".csv.gz":
        path.write_bytes(gzip.compress(write_table(folder / "table.csv", columns).read_bytes()))
    else:
        write_table(path, columns)
    return path


def plan_of(path: Path, **options: Any) -> Plan:
    settings = ScoreSettings(**options)
    folder = path.parent / "out"
    folder.mkdir(exist_ok=True)
    return make_plan(open_files(find_files(path), settings), settings, folder)


def everything(plan: Plan, folder: Path) -> list[ShardRows]:
    return [read_shard(plan, folder / "out", number) for number in range(len(plan.shards))]


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".tsv", ".jsonl", ".csv.gz", ".xlsx"])
def test_every_format_gives_every_row_in_any_order(ending: str, tmp_path: Path) -> None:
    path = write(tmp_path, ending, {"id": list(range(8)), "text": TEXTS})
    plan = plan_of(path, shard_rows=3)
    assert plan.rows == 8 and plan.shards == [3, 3, 2]
    parts = everything(plan, tmp_path)
    assert [text or "" for rows in parts for text in rows.texts] == TEXTS
    kept = pa.concat_tables([rows.kept for rows in parts])
    assert list(map(str, kept["id"].to_pylist())) == list("01234567") and kept.column_names == ["id", "text"]
    empty = "no text (missing value)" if ending == ".xlsx" else "empty"
    assert [error for rows in parts for error in rows.errors] == [*[None] * 4, empty, *[None] * 3]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "bca":
        pq.write_table(pa.table({"text": [f"{name}{i}" for i in range(4)]}), tmp_path / "in" / f"{name}.parquet")
    (tmp_path / "in" / "_manifest.json").write_text("{}")
    plan = plan_of(tmp_path / "in", shard_rows=3)
    assert [text for rows in everything(plan, tmp_path) for text in rows.texts] == [
        f"{n}{i}" for n in "abc" for i in range(4)
    ]
    pq.write_table(pa.table({"other": [1], "text": ["a"]}), tmp_path / "in" / "d.parquet")
    with pytest.raises(LiminalError, match="other columns"):
        plan_of(tmp_path / "in")
    (tmp_path / "in" / "e.csv").write_text("text\na\n")
    with pytest.raises(LiminalError, match="several kinds"):
        plan_of(tmp_path / "in")
    (tmp_path / "texts").mkdir()
    for message in ("holds no file", "a text per file.*a column 'text'"):
        with pytest.raises((FileNotFoundError, LiminalError), match=message):
            find_files(tmp_path / "texts")
        (tmp_path / "texts" / "a.txt").write_text("Hello")
    with pytest.raises(FileNotFoundError, match="no file and no folder"):
        find_files(tmp_path / "gone.csv")


def test_a_folder_of_json_lines_may_differ_in_types(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "a", "n": 1}\n')
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "b", "n": 1.5}\n')
    assert [rows.kept["n"].to_pylist() for rows in everything(plan_of(tmp_path / "in"), tmp_path)] == [[1.0, 1.5]]
    (tmp_path / "in" / "b.jsonl").write_text('{"text": "b", "n": "x"}\n')
    with pytest.raises(LiminalError, match="columns of other types"):
        plan_of(tmp_path / "in")


def test_shards_hold_few_rows_where_rows_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 4000)
    texts = [f"long {i} " * 200 for i in range(26)]
    for ending in (".csv", ".jsonl", ".parquet"):
        plan = plan_of(write(tmp_path, ending, {"text": texts}))
        assert len(plan.shards) > 5 and plan.rows == 26
        assert [text for rows in everything(plan, tmp_path) for text in rows.texts] == texts


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
def test_no_shard_cuts_a_conversation(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a"] * 2 + ["b"] * 7 + ["c"] + ["d"] * 2 + [None] + ["e"] * 3
    path = write(tmp_path, ending, {"text": [f"t{i}" for i in range(len(names))], "Chat": names})
    plan = plan_of(path, conversation="chat", shard_rows=3)
    found = [rows.conversations for rows in everything(plan, tmp_path)]
    assert found == [["a", "a"], ["b"] * 7, ["c", "d", "d"], [None], ["e"] * 3]
    monkeypatch.setattr(module, "LONGEST_CONVERSATION", 6)
    with pytest.raises(LiminalError, match="'b' has more than 6 rows"):
        plan_of(path, conversation="chat")
    path = write(tmp_path, ending, {"text": list("abcde"), "chat": list("aabba")})
    with pytest.raises(LiminalError, match=r"'a' are not together .*row 5.* Sort the table by 'chat'"):
        plan_of(path, conversation="chat")


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
    plan = plan_of(tmp_path / "a.parquet", keep=["tags", "text", "when"], shard_rows=2)
    parts = everything(plan, tmp_path)
    assert [text for rows in parts for text in rows.texts] == ["a", "b", None]
    kept = pa.concat_tables([rows.kept for rows in parts])
    for name in ("tags", "text", "when"):
        assert kept[name].to_pylist() == table[name].to_pylist() and kept.schema.field(name).type == table[name].type


def test_a_fingerprint_is_of_the_whole_content(tmp_path: Path) -> None:
    path = write(tmp_path, ".parquet", {"text": list("abcde")})
    before = fingerprint([path])
    assert fingerprint([path]) == before
    write(tmp_path, ".parquet", {"text": list("abxde")})
    assert fingerprint([path]) != before


def test_an_empty_table_is_one_shard_of_nothing(tmp_path: Path) -> None:
    for ending in (".parquet", ".csv"):
        path = write(tmp_path, ending, {"text": pa.array([], pa.string())})
        for options in ({}, {"conversation": "text"}):
            plan = plan_of(path, **options)
            assert plan.shards == [0]
            (rows,) = everything(plan, tmp_path)
            assert rows.texts == [] and rows.kept.num_rows == 0


def test_settings_that_do_not_go_together() -> None:
    for options, message in (
        ({"order": "n"}, "goes with a conversation"),
        ({"shard_rows": 0}, "at least 1"),
        ({"engine": "dask"}, "local, ray"),
        ({"decimal": "'"}, "decimal is"),
    ):
        with pytest.raises(LiminalError, match=message):
            ScoreSettings(**options)
    same = ScoreSettings(threads=1, engine="ray", workers=3, scale=(1, 9)).identity
    assert same == ScoreSettings().identity != ScoreSettings(encoding="cp1252").identity
