"""A user's own tables with labels: what is read, and what the errors say."""

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from liminal_hf.data import cross_split_duplicates, load_emobank, load_table
from liminal_hf.modeling.errors import LiminalError

HEADER = "text,V,A,D\n"


def write(folder: Path, content: str | bytes, name: str = "mine.csv") -> dict[str, Path]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"test": path}


def read(folder: Path, content: str | bytes, name: str = "mine.csv", **kwargs) -> Dataset:
    return load_table(write(folder, content, name), **kwargs)["test"]


def test_emobanks_own_file_reads_the_same(data_dir: Path) -> None:
    found = load_table({"test": data_dir / "emobank" / "emobank.csv"})["test"]
    corpus = load_emobank(data_dir)
    expected = {row["id"]: row for rows in corpus.values() for row in rows}
    assert found.column_names == ["id", "text", "labels"] and found.num_rows == len(expected)
    for row in found:
        assert row["text"] == expected[row["id"]]["text"] and row["labels"] == expected[row["id"]]["labels"]


@pytest.mark.parametrize(
    ("scale", "value", "label"),
    [((1, 9), 5, 0.0), ((0, 100), 25, -0.5), ((-1, 1), 0.5, 0.5), ((-100, 100), -100, -1.0)],
)
def test_scales(scale, value, label, tmp_path: Path) -> None:
    rows = read(tmp_path, f"{HEADER}Hello,{value},{value},{value}\n", scale=scale)
    assert rows[0]["labels"] == [label] * 3


def test_missing_labels_become_minus_100(tmp_path: Path) -> None:
    content = HEADER + "a,,3,NA\nb,nan,None,3\nc,null,-100,n/a\nd,3,3,.\n"
    assert read(tmp_path, content)["labels"][:] == [
        [-100, 0, -100], [-100, -100, 0], [-100, -100, -100], [0, 0, -100],
    ]  # fmt: skip
    lines = [{"text": "a", "V": None, "A": 3, "D": 3.0}, {"text": "b", "V": 5, "D": 1}]
    found = read(tmp_path, "\n".join(map(json.dumps, lines)), "mine.jsonl")
    assert found["labels"][:] == [[-100, 0, 0], [1, -100, -1]]


def test_own_column_names(tmp_path: Path) -> None:
    content = "review;pleasant;lively;in control\nGood;5;3;1\n"
    rows = read(tmp_path, content, text="review", labels=["pleasant", "lively", "in control"], separator=";")
    assert rows[0] == {"text": "Good", "labels": [1, 0, -1]}


@pytest.mark.parametrize(
    ("content", "kwargs", "message"),
    [
        ("txt,V,A,D\na,1,1,1\n", {}, r"no column 'text'. Its columns: 'txt', 'V', 'A', 'D'. Did you mean 'txt'\?"),
        ("text,Valenz,A,D\na,1,1,1\n", {"labels": ("valence", "A", "D")}, r"'valence'.*Did you mean 'Valenz'\?"),
        (
            HEADER + "a,1,2,3\nb,4,9,3\n",
            {},
            r"'A' holds values from 2 to 9.*scale=\(1, 5\).* 9 in line 3.*scale=\(1, 9\)",
        ),
        (HEADER + "a,0.2,0.9,0.1\n", {}, r"'V' holds values from 0.2 to 0.2.*would fit scale=\(0, 1\) or"),
        (HEADER + "a,1,inf,3\n", {}, r"'A' holds values from inf to inf"),
        (HEADER + "a,1,2,3\nb,1,high,3\n", {}, r"'A' holds 'high' in line 3.*no number"),
        (HEADER + 'a,1.5,"2,5",3\n', {}, r"'1.5' has one decimal mark and '2,5' another"),
        (HEADER + "a,1,1_000,3\n", {}, r"'1_000' in line 2.*no number"),
        (HEADER + "a,1,True,3\n", {}, r"'True'.*no number"),
        (
            HEADER + 'a,1,1,1\n"",1,1,1\n  ,1,1,1\n',
            {},
            r"2 of 3 rows can't be read \(line 3: column 'text' is empty; line 4",
        ),
        (HEADER, {}, "a header and no rows"),
        ("", {}, "is empty"),
        (
            HEADER + "a,1,1,1\nb, c,1,1,1\n",
            {},
            r"line 3 has 5 cells, the header has 4 cells.*must be in quotation marks",
        ),
        # The first line of a text with a line break, and a row that lacks a cell: never a row without labels.
        ("text,V,A,D\nHello\nmy friend,5,5,5\nbad,1,2\n", {}, r"2 of 3 rows.*line 2 has 1 cell.*line 4 has 3 cells"),
        (HEADER + '"a,1,1,1\nb,1,1,1\nc",1,1,1\n', {}, r"mark in line 2 is closed in line 4 only.*--quotes no"),
        (HEADER.encode() + b"a,1,1,1\ncaf\xe9,1,1,1\n", {"encoding": "utf-8"}, r"line 3 is not UTF-8"),
        (HEADER + "a,1,1,1\n", {"encoding": "klingon"}, "no text encoding 'klingon'"),
        (HEADER, {"text": "V"}, "different columns"),
        (HEADER, {"scale": "1-5"}, "such as 1,5"),
        (HEADER, {"validation_fraction": 1.0}, "validation_fraction"),
        (
            "text;V;A;D\na;1,234;2,345;3,456\n",
            {"scale": (0, 5000)},
            r"1.234 with a decimal comma and 1234 with.*--decimal",
        ),
    ],
)
def test_errors_say_what_and_where(content, kwargs, message, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, content, **kwargs)
    if "holds" in str(caught.value):
        assert "mine.csv" in str(caught.value)


@pytest.mark.parametrize("name", ["mine.parquet", "mine.jsonl"])
def test_typed_files_are_checked_too(name, tmp_path: Path) -> None:
    def write_table(**columns) -> Path:
        table = pd.DataFrame({"text": ["a", "b"], "V": [1, 2], "A": [1, 2], "D": [1, 2]}).assign(**columns)
        path = tmp_path / name
        if name.endswith("parquet"):
            table.to_parquet(path)
        else:
            table.to_json(path, orient="records", lines=True)
        return path

    for columns, message in (
        ({"text": ["a", None]}, r"1 of 2 rows can't be read \((row|line) 2: column 'text' is missing"),
        ({"text": [1, 2]}, "not a text: int|holds int64, which is no text"),
        ({"A": [True, False]}, "True in (row|line) 1"),
        ({"A": [1, 7]}, "values from 1 to 7"),
        ({"A": ["1", "x"]}, "'x' in (row|line) 2"),
    ):
        with pytest.raises(ValueError, match=message):
            load_table({"test": write_table(**columns)})
    numeric_ids = load_table({"test": write_table(id=[7, 8])})["test"]
    assert numeric_ids["id"][:] == ["7", "8"]


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file"):
        load_table(tmp_path / "gone.csv")
    for files, message in (
        ({"holdout": tmp_path / "a.csv"}, r"any of train, validation, test; got \['holdout'\]"),
        ({"dev": tmp_path / "a.csv", "validation": tmp_path / "b.csv"}, "two tables for the split 'validation'"),
        ({}, "names no table"),
    ):
        with pytest.raises(LiminalError, match=message):
            load_table(files)


def test_labels_of_any_number_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = "Text ,warm,URGENT,none\nyes,5,,\nno,1,3,\n"
    rows = read(tmp_path, content, labels=["warm", "urgent"])
    assert rows["labels"][:] == [[1, -100], [-1, 0]] and rows["text"][:] == ["yes", "no"]
    rows = read(tmp_path, content, labels={"urgency": "urgent", "warmth": "warm"}, targets=["warmth", "urgency"])
    assert rows["labels"][:] == [[1, -100], [-1, 0]]
    assert read(tmp_path, content, labels="warmth=warm")["labels"][:] == [[1], [-1]]
    assert not caplog.records
    read(tmp_path, content, labels={"warmth": "warm", "nothing": "none"})
    assert "the target 'nothing' is not trained" in caplog.text


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("text;V;A;D\nhello;5,5;4,0;3,0\n", {}),
        ('text,V,A,D\nhello,"5,5","4,0","3,0"\n', {}),
        ("text;V;A;D\nhello;5,500;4,000;3,000\n", {}),  # as thousands they are outside the scale
        ("text|V|A|D\nhello|5,500|4,000|3,000\n", {"decimal": ","}),
        ("\ufeffsep=;\r\n\r\nAnswers of May\r\ntext;V;A;D\r\nhello;5,5;4;3\r\n", {}),
        ("text;V;A;D\nhello; 5,5 ;4;3\n", {}),
    ],
)
def test_a_locale_is_read_from_the_table(content: str, options: dict, tmp_path: Path) -> None:
    rows = read(tmp_path, content, scale=(1, 9), **options)
    assert rows[:] == {"text": ["hello"], "labels": [pytest.approx([0.125, -0.25, -0.5])]}


def test_validation_is_held_out_by_text(tmp_path: Path) -> None:
    rows = "".join(f"text {i % 80},{1 + i % 5},3,{1 + i % 3}\n" for i in range(100))
    path = write(tmp_path, HEADER + rows)["test"]
    corpus = load_table(path)
    assert set(corpus) == {"train", "validation"} and corpus["train"].num_rows + corpus["validation"].num_rows == 100
    assert len(set(corpus["validation"]["text"])) == 8 and not cross_split_duplicates(corpus)
    assert corpus["validation"][:] == load_table(path)["validation"][:]
    assert corpus["validation"][:] != load_table(path, seed=1)["validation"][:]
    assert set(load_table(path, validation_fraction=0)) == {"train"}
    assert list(load_table({"train": path, "test": path})) == ["train", "validation", "test"]
    given = load_table({"train": path, "dev": path})
    assert given["validation"].num_rows == 100


def test_one_row(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + "Hello,1,2,3\n")["test"]
    assert load_table({"test": path})["test"].num_rows == 1
    with pytest.raises(ValueError, match=r"one text only.*validation_fraction=0"):
        load_table(path)
    assert load_table(path, validation_fraction=0)["train"].num_rows == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1,3,2\nb,1,4,3\n", "column 'V' is 1 in every row"),
        ("a,,3,2\nb,,4,3\n", "column 'V' has no label at all"),
        ("".join(f"t{i},2.{i},2,2.5\n" for i in range(10)), "less than a quarter of scale=(1, 5)"),
    ],
)
def test_suspicious_labels_are_mentioned(rows, message, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, HEADER + rows)
    assert message in caplog.text


def test_duplicate_ids_and_leaks_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = write(tmp_path, "id,text,V,A,D\n1,Same.,1,5,3\n1,Other.,5,1,2\n", "a.csv")["test"]
    second = write(tmp_path, HEADER + "Same.,1,5,3\nNew.,2,1,5\n", "b.csv")["test"]
    with caplog.at_level(logging.WARNING):
        corpus = load_table({"train": first, "validation": second, "test": second})
    assert "1 ids occur more than once, for example '1'" in caplog.text
    assert "2 texts are in more than one split, for example 'Same.' in train and validation and test" in caplog.text
    assert cross_split_duplicates(corpus) == {
        "Same.": ("train", "validation", "test"), "New.": ("validation", "test"),
    }  # fmt: skip


def test_duplicates_in_another_column() -> None:
    corpus = DatasetDict(train=Dataset.from_dict({"review": ["a"]}), test=Dataset.from_dict({"review": ["a", "b"]}))
    assert cross_split_duplicates(corpus, text="review") == {"a": ("train", "test")}
