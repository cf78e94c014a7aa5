"""What the page of `liminal demo` asks of the pipeline: turns, one text, tables."""

import csv
import io
import re
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from demo_kit import HOSTILE, TALK, assert_same, kept, rows_of, shown

from liminal_hf import demo, explain
from liminal_hf.chat import sharp_turn, trend
from liminal_hf.demo._view import (
    bars_html,
    note_html,
    reading_html,
    trajectory_plot,
    turns_html,
    verdict_html,
    words_html,
)
from liminal_hf.modeling.configuration_liminal import DIMENSIONS
from liminal_hf.modeling.errors import LiminalError


@pytest.fixture(scope="module")
def reader(pad: Any) -> demo.Reader:
    return demo.Reader(pad)


def test_turns_are_those_of_the_pipeline(reader: demo.Reader, pad: Any) -> None:
    conversation = demo.Conversation()
    for speaker, text in TALK:
        before = conversation
        conversation = reader.say(conversation, text, f" {speaker} ")
        assert len(before.rows) == len(conversation.rows) - 1, "a conversation never changes"
    expected = pad([{"role": "user", "speaker": speaker, "content": text} for speaker, text in TALK])
    for row, wanted in zip(conversation.rows, expected, strict=True):
        assert_same(row, wanted)
    assert conversation.texts == tuple(text for _, text in TALK) and conversation.state.turns == 3
    assert conversation.rows[2]["trend"] == trend(expected[:1], expected[2])
    assert conversation.rows[2]["sharp"] == sharp_turn(expected[0], expected[2])
    assert turns_html(conversation).count("Sharp turn: ") == sum(row["sharp"] for row in conversation.rows)


def test_one_text_is_that_of_the_pipeline(reader: demo.Reader, pad: Any) -> None:
    row, expected = reader.read("Good morning."), pad("Good morning.")
    assert_same(row, expected)
    bars = bars_html(row, pad.model.config)
    low, high = expected["interval"]["arousal"]
    assert f"<b>{shown(row['pleasure'])}</b>" in bars and f"80% {shown(low)} to {shown(high)}" in bars
    # The scale is -1..1, and the bar of an interval begins where the interval does.
    assert f'class="span" style="left:{50 + 50 * low:.1f}%;width:{50 * (high - low):.1f}%"' in bars
    assert next(iter(expected["emotions"])) in bars
    long = reader.read("word " * 500)
    assert long["pleasure"] == pad("word " * 500)["pleasure"] and not long["truncated"]
    assert f"the mean of {len(long['windows'])} sentences" in verdict_html(long)
    turn = reader.say(demo.Conversation(), "word " * 500, "you")
    assert "its end was left out" in turns_html(turn)


def test_the_figure_joins_no_two_speakers(reader: demo.Reader) -> None:
    conversation = demo.Conversation()
    assert trajectory_plot(conversation, list(DIMENSIONS), (-1, 1)) is None
    for speaker, text in TALK:
        conversation = reader.say(conversation, text, speaker)
    traces = trajectory_plot(conversation, list(DIMENSIONS), (-1, 1)).data
    assert [(trace.name, trace.x) for trace in traces[::3]] == [("Ana", (1, 3)), ("Ben", (2,))]
    ana = traces[1]
    for place, index in enumerate((0, 2)):
        low, high = conversation.rows[index]["interval"]["arousal"]
        assert ana.y[place] == conversation.rows[index]["arousal"]
        assert ana.y[place] + ana.error_y.array[place] == pytest.approx(high)
        assert ana.y[place] - ana.error_y.arrayminus[place] == pytest.approx(low)


def test_a_rating_moves_what_follows(reader: demo.Reader) -> None:
    first = reader.say(demo.Conversation(), "Good morning.", "Ana")
    with pytest.raises(LiminalError, match="has not said anything that could be rated yet"):
        reader.rate(first, "Ben", "pleasure=0.5")
    rated, known = reader.rate(first, "Ana", "pleasure=0.9")
    assert "Ana, after 1 rating" in known and "pleasure usually" in known
    again = reader.rate(rated, "Ana", "pleasure=-0.9")[1]
    assert "Ana, after 1 rating" in again and "now -0.90" in again, "it takes the place of the first"
    plain, moved = (reader.say(one, "It rains.", "Ana") for one in (first, rated))
    assert plain.rows[1].get("adjusted") is None and plain.rows[1]["pleasure"] == moved.rows[1]["pleasure"]
    assert moved.rows[1]["adjusted"]["pleasure"] > moved.rows[1]["pleasure"]
    assert "by this speaker's ratings: pleasure" in turns_html(moved) and "ratings" not in turns_html(plain)
    assert reader.say(rated, "It rains.", "Ben").rows[1].get("adjusted") is None


def test_which_words_moved_it_is_what_the_command_line_says(reader: demo.Reader, pad: Any) -> None:
    assert (
        reader.explain("I do not like this.").to_html()
        == explain("I do not like this.", pad.model, tokenizer=pad.tokenizer).to_html()
    )
    with pytest.raises(LiminalError, match="The text is empty"):
        reader.explain(" ")


def test_effects_say_that_they_are_those_of_the_first_part(reader: demo.Reader) -> None:
    first = "effects on the first part of the text"
    long = words_html(reader.explain("Donaudampfschifffahrtsgesellschaft " * 20))
    assert first in long and long.index(first) < long.index("<iframe")
    assert first not in words_html(reader.explain("It rains."))


def test_a_reading_without_numbers_says_why(reader: demo.Reader, pad: Any) -> None:
    (row,) = pad(["\U0001f621"])
    assert row["error"] and row["pleasure"] is None
    page = reading_html(row, pad.model.config)
    assert 'role="alert"' in page and row["error"] in page and "bars" not in page
    assert "bars" in reading_html(reader.read("It rains."), pad.model.config)


@pytest.mark.parametrize(
    ("text", "speaker", "sentence"),
    [
        ("", "you", "The text is empty"),
        ("   ", "you", "The text is empty"),
        ("half \ud83d", "you", "half of a character"),
        ("x" * 1_000_000, "you", "The text has 1,000,000 characters; this page takes 20,000"),
        ("Hello", "", "The name of who speaks is empty"),
        ("Hello", "n" * 41, "The name of who speaks has 41 characters; 40 at most"),
        ("Hello", "\udfff", "half of a character"),
        (None, "you", "must be a string"),
        ("\U0001f621", "you", "no token of this text is known to the model"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(reader: demo.Reader, text: Any, speaker: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        reader.say(demo.Conversation(), text, speaker)


def test_a_conversation_has_an_end(reader: demo.Reader) -> None:
    full = demo.Conversation(rows=({"speaker": "you"},) * demo.MAX_TURNS)
    with pytest.raises(ValueError, match=r"200 turns at most\. Start a new conversation"):
        reader.say(full, "Hello", "you")


def test_a_stranger_s_text_stays_text(reader: demo.Reader) -> None:
    conversation = reader.say(demo.Conversation(), HOSTILE, "<b>Eve</b>")
    page = turns_html(conversation) + note_html(HOSTILE, wrong=True)
    assert "<img" not in page and "<script" not in page and "<b>Eve" not in page
    assert "&lt;img" in page and "<bdi>&lt;b&gt;Eve" in page
    assert len(turns_html(reader.say(demo.Conversation(), "<" * 20_000, "you"))) < 6000
    assert "<img" not in trajectory_plot(conversation, list(DIMENSIONS), (-1, 1)).to_json()
    assert "<img" not in words_html(reader.explain(HOSTILE))


# ---- tables ----


def test_a_table_comes_back_with_numbers_and_errors(reader: demo.Reader, pad: Any, tmp_path: Path) -> None:
    texts = ["What a lovely surprise!", "", "Go away!", "x" * 30_000, "None", "so " * 300]
    lines = [
        "id,text,pleasure",
        *(f"{number},{text},0.5" for number, text in enumerate(texts)),
        "7,too,many,cells",
        "8",
    ]
    shares: list[float] = []
    scored = reader.score(kept(tmp_path, "\n".join(lines).encode()), progress=shares.append)
    assert (len(scored.columns), scored.errors, scored.long, shares[-1]) == (8, 4, 1, 1.0)
    assert str(scored).startswith("4 of 8 rows read. 1 text longer than the model reads at once")
    rows = rows_of(scored.save(tmp_path).read_bytes())
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4", "5", "7", "8"]
    assert all(row["given_pleasure"] == "0.5" for row in rows[:6])
    assert [row["error"] for row in rows[:3]] == ["", "empty", ""] and "30,000 characters" in rows[3]["error"]
    assert rows[6]["error"] == "line 8 has 4 cells, the header has 3 cells" and "1 cell" in rows[7]["error"]
    assert [row["truncated"] for row in rows] == ["FALSE"] * 8
    assert [row["windows"] == "1" for row in rows] == [row["error"] == "" for row in rows[:5]] + [False] * 3
    for row in (rows[0], rows[2], rows[4]):
        expected = pad(row["text"])
        assert row["error"] == "" and row["octant"] == expected["octant"]
        for name in DIMENSIONS:
            assert float(row[name]) == pytest.approx(expected[name], abs=6e-5)
            assert float(row[f"uncertainty_{name}"]) == pytest.approx(expected["uncertainty"][name], abs=6e-5)
    assert all(rows[1][name] == "" for name in (*DIMENSIONS, "confidence", "octant", "in_domain"))


def test_a_table_keeps_its_locale(reader: demo.Reader, tmp_path: Path) -> None:
    """A German Excel's CSV comes back as that Excel reads it."""
    path = kept(tmp_path, "Nr;Was f\u00e4llt dir ein?;Wert\n1;I am so glad;-1,5\n2;So sad;3,25\n".encode("cp1252"))
    names, likely = demo.columns_of(path)
    assert names == ["Nr", "Was f\u00e4llt dir ein?", "Wert"] and likely == names[1]
    out = reader.score(path, likely).save(tmp_path).read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(out), delimiter=";"))
    assert [row["Wert"] for row in rows] == ["-1,5", "3,25"]
    assert all(re.fullmatch(r"-?\d,\d+", row[name]) for row in rows for name in DIMENSIONS)


def test_a_spreadsheet_goes_in_and_out(reader: demo.Reader, pad: Any, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["id", "said"], [1, "What a lovely surprise!"], [2, None], [3, "=1+1"]):
        book.active.append(row)
    book.save(tmp_path / "mine.xlsx")
    assert demo.columns_of(tmp_path / "mine.xlsx") == (["id", "said"], "said")
    path = reader.score(tmp_path / "mine.xlsx", "said").save(tmp_path)
    header, *rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    found = [dict(zip(header, row, strict=True)) for row in rows]
    assert path.name == "predictions.xlsx" and len(found) == 3 and found[1]["error"] == "no text (missing value)"
    assert found[0]["pleasure"] == pytest.approx(pad("What a lovely surprise!")["pleasure"], abs=6e-5)


def test_a_spreadsheet_runs_nothing_of_it(reader: demo.Reader, tmp_path: Path) -> None:
    cells = ["=1+1", "+cmd", "-2", "@SUM(A1)", "\tx", " =1", "-x", "+4.5"]
    lines = ["=name,text", *(f'"{cell}",fine' for cell in cells), 'a,"=HYPERLINK(""x"")"']
    rows = rows_of(reader.score(kept(tmp_path, "\n".join(lines).encode())).save(tmp_path).read_bytes())
    found = [row["'=name"] for row in rows]
    assert found == ["'=1+1", "'+cmd", "-2", "'@SUM(A1)", "'\tx", "' =1", "'-x", "+4.5", "a"]
    assert rows[-1]["text"] == '\'=HYPERLINK("x")'


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_of_several_kinds(reader: demo.Reader, tmp_path: Path, separator: str, encoding: str) -> None:
    lines = [f'"Who, or what"{separator}Message', "", f'me{separator}"one\r\n""two"""', f"you{separator}fine"]
    path = kept(tmp_path, "\r\n".join(lines).encode(encoding), "mine.txt")
    out = reader.score(path, " message ").save(tmp_path).read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(out, newline=""), delimiter=separator))
    assert [row["Message"].split()[-1] for row in rows if row["Message"]] == ['"two"', "fine"] and rows[-1]["octant"]
    assert reader.score(kept(tmp_path, b"anything\nHello\n")).errors == 0, "one column needs no name"


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (b"", "a.csv", "a.csv is empty"),
        (b"text\n", "a.csv", "no rows"),
        (b"a,b\n1,2\n", "a.csv", "^a.csv has no column 'text'. Its columns: 'a', 'b'"),
        (b"text,text\n1,2\n", "a.csv", "two columns 'text'"),
        (b"text\n" + b"x\n" * 5001, "a.csv", "more than 5,000 rows"),
        (b"x" * 5_000_001, "a.csv", "5,000,001 bytes"),
        (b"PK\x03\x04\xff\xfe", "a.xlsx", "no Excel file that can be read"),
        (b"text\nx\n", "a.docx", r"ending is '.docx'; this page takes .csv"),
    ],
)
def test_files_that_are_no_table_get_a_sentence(
    reader: demo.Reader, tmp_path: Path, content: bytes, name: str, sentence: str
) -> None:
    with pytest.raises(LiminalError, match=sentence) as error:
        reader.score(kept(tmp_path, content, name))
    assert str(tmp_path) not in str(error.value), "a visitor has no use for a folder of the server"


def test_a_packed_file_that_unpacks_to_too_much_is_refused(reader: demo.Reader, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.xlsx", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("xl/worksheets/sheet1.xml", b" " * 150_000_000)
    assert (tmp_path / "bomb.xlsx").stat().st_size < demo.MAX_BYTES
    with pytest.raises(LiminalError, match="bytes; this page takes"):
        reader.score(tmp_path / "bomb.xlsx")


def test_a_report_keeps_the_limits_of_the_page(reader: demo.Reader, tmp_path: Path) -> None:
    """Before anything is scored: 3,000,000 rows are a small Parquet."""
    shares: list[float] = []
    many = pa.table({"text": pa.DictionaryArray.from_arrays(pa.array([0] * 3_000_000, pa.int32()), ["It rains."])})
    pq.write_table(many, tmp_path / "many.parquet")
    assert (tmp_path / "many.parquet").stat().st_size < demo.MAX_BYTES
    with pytest.raises(LiminalError, match="more than 5,000 rows"):
        reader.report(tmp_path / "many.parquet", "text", None, tmp_path, shares.append)
    packed = pa.table({"text": ["It rains."] * 200, "more": ["x" * 1_000_000] * 200})
    pq.write_table(packed, tmp_path / "packed.parquet", compression="zstd", dictionary_pagesize_limit=1 << 22)
    with pytest.raises(LiminalError, match="unpacks to more than 100,000,000 bytes"):
        reader.report(tmp_path / "packed.parquet", "text", None, tmp_path, shares.append)
    with pytest.raises(LiminalError, match="unpacks to more than 100,000,000 bytes"):
        reader.score(tmp_path / "packed.parquet", "text", shares.append)
    lines = ["id,text", "1,It rains.", f"2,{'x' * 30_000}"]
    with pytest.raises(LiminalError, match=r"text in line 3 has 30,000 characters; this page takes 20,000"):
        reader.report(kept(tmp_path, "\n".join(lines).encode()), "text", None, tmp_path, shares.append)
    assert not shares


def test_a_report_is_made_by_the_page_s_own_model(pad: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may have no path."""
    monkeypatch.setattr(pad.model.config, "_name_or_path", "")
    path = kept(tmp_path, b"text,g\nI love it.,a\nI hate it.,b\n")
    with zipfile.ZipFile(demo.Reader(pad).report(path, "text", "g", tmp_path)) as made:
        scores = rows_of(made.read("scores.csv"))
        assert "index.html" in made.namelist()
    assert float(scores[0]["pleasure"]) == pytest.approx(pad("I love it.")["pleasure"], abs=1e-5)


def test_a_parquet_that_unpacks_to_too_much_is_refused(reader: demo.Reader, tmp_path: Path) -> None:
    cell = pa.table({"text": ["x" * 120_000_000]})
    pq.write_table(cell, tmp_path / "cell.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
    assert (tmp_path / "cell.parquet").stat().st_size < demo.MAX_BYTES
    for asked in (demo.columns_of, reader.score):
        with pytest.raises(LiminalError, match="bytes; this page takes"):
            asked(tmp_path / "cell.parquet")
    with pytest.raises(LiminalError, match=r"broken\.parquet is not a whole Parquet file"):
        reader.score(kept(tmp_path, b"PAR1 and no more", "broken.parquet"))
