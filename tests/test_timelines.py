"""`timeline` and `liminal timeline` on the default checkpoint: rows, the whole text, files, tables and the figure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import tiny_model
from figures_kit import pixels
from training_kit import WORDS, encoder_with_tokenizer
from transformers import pipeline

import liminal_hf
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.texts import UNREADABLE
from liminal_hf.timelines import Timeline

STORY = "  The party was wonderful!\nThen the police came, and I was “arrested”.\n\n\U0001f600\nI hate them… "


@pytest.fixture(scope="module")
def story(pad: Any) -> Timeline:
    return liminal_hf.timeline(STORY, pad)


def test_each_row_is_a_sentence_with_what_the_pipeline_says_of_it(story: Timeline, pad: Any) -> None:
    sentences = [row["sentence"] for row in story.rows]
    assert sentences == [STORY[row["start"] : row["end"]] for row in story.rows]
    assert len(sentences) == 4 and "".join("".join(sentences).split()) == "".join(STORY.split())
    for row, alone in zip(story.rows, pad(sentences), strict=True):
        assert list(row) == ["start", "end", "sentence", *alone]
        assert row["verdict"] == alone["verdict"] and row["error"] == alone["error"]
        assert row["pleasure"] == (None if alone["error"] else pytest.approx(alone["pleasure"], abs=1e-5))
    assert [row["error"] for row in story.rows] == [None, None, UNREADABLE, None]


def test_the_whole_is_the_mean_weighted_by_length(story: Timeline) -> None:
    read = [row for row in story.rows if row["error"] is None]
    total = sum(len(row["sentence"]) for row in read)
    for name in ("pleasure", "arousal", "dominance"):
        mean = sum(row[name] * len(row["sentence"]) for row in read) / total
        alone = [row["uncertainty"][name] * len(row["sentence"]) / total for row in read]
        doubt = sum(one * other * (1 if one is other else 0.2) for one in alone for other in alone) ** 0.5
        assert story.whole[name] == pytest.approx(mean) and story.whole["uncertainty"][name] == pytest.approx(doubt)
    assert (story.whole["start"], story.whole["end"], story.whole["error"]) == (0, len(STORY), None)
    assert set(story.whole) == set(story.rows[0]) - {"sentence"}


def test_one_sentence_is_the_whole(pad: Any) -> None:
    one = liminal_hf.timeline("What a lovely surprise!", pad)
    alone = pad("What a lovely surprise!")
    assert len(one.rows) == 1 and one.whole["octant"] == alone["octant"] == "exuberant"
    assert one.whole["interval"]["pleasure"] == pytest.approx(alone["interval"]["pleasure"], abs=1e-5)


def test_a_long_text_is_read_to_its_end(pad: Any) -> None:
    text = (
        "She said that " + "it was a good day, and " * 400 + "then she cried. " + "我很高兴" * 100 + "。" + "x" * 2000
    )
    result = liminal_hf.timeline(text, pad)
    assert not any(row["truncated"] for row in result.rows) and len(result.rows) > 30
    assert "".join("".join(row["sentence"] for row in result.rows).split()) == "".join(text.split())
    whole = pad(text)
    assert not whole["truncated"] and whole["pleasure"] == pytest.approx(result.whole["pleasure"], abs=1e-5)
    spans = [[(row["start"], row["end"]) for row in rows] for rows in (whole["windows"], result.rows)]
    assert spans[0] == spans[1]
    short = liminal_hf.timeline("one two three four", pad, max_length=3)
    assert [row["sentence"] for row in short.rows] == ["one", "two", "three", "four"]


def test_texts_that_say_nothing(pad: Any) -> None:
    for text in ("", " \n\u200b", None, 3):
        with pytest.raises(LiminalError, match=r"The text (is empty|must be a string)"):
            liminal_hf.timeline(text, pad)  # type: ignore[arg-type]
    emoji = liminal_hf.timeline("\U0001f600", pad)
    assert emoji.whole["error"] == UNREADABLE and emoji.whole["pleasure"] is None
    assert emoji.figure().get_suptitle() == "Text of 1 sentence"
    with pytest.raises(FileNotFoundError, match="There is no checkpoint 'nowhere/at-all'"):
        liminal_hf.timeline("Hello.", "nowhere/at-all")


def test_progress_wraps_the_rows(pad: Any) -> None:
    seen = []
    liminal_hf.timeline("One. Two. Three.", pad, progress=lambda rows, total: seen.append(total) or rows)
    assert seen == [3]


def test_the_name_stays_the_function() -> None:
    import liminal_hf.timelines

    assert callable(liminal_hf.timeline) and "timeline" in liminal_hf.__all__


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet", ".xlsx"])
def test_tables_out(story: Timeline, ending: str, tmp_path: Path) -> None:
    path = story.save(tmp_path / f"out{ending}")
    if ending == ".parquet":
        rows = pq.read_table(path).to_pylist()
        assert [STORY[row["start"] : row["end"]] for row in rows] == [row["sentence"] for row in story.rows]
        assert rows[0]["low_pleasure"] < rows[0]["pleasure"] < rows[0]["high_pleasure"]
        assert rows[0]["verdict_pleasure"] == "positive" and rows[2]["error"] == UNREADABLE
    assert path.stat().st_size > 300


@pytest.mark.parametrize("count", [1, 4, 61, 400])
def test_the_figure_shows_every_panel(story: Timeline, count: int, tmp_path: Path) -> None:
    from liminal_hf.figures import save_figure

    rows = (100 * story.rows)[:count]
    figure = Timeline(rows, story.whole, story.config).figure("story.txt")
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes] == ["pleasure", "arousal", "dominance"]
    image = pixels(save_figure(figure, tmp_path / "figure.png"))
    assert image.shape[1] == 1600 and (image.std(axis=(0, 1)) > 10).all()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_other_targets_other_tokenizers_and_a_head_without_uncertainty(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = encoder_with_tokenizer(tmp_path / "encoder", family)
    config = {"head": "linear", "targets": ["warmth", "joy"], "trained_targets": [True, False]}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reader = pipeline("pad-regression", model=tiny_model(family, **config), tokenizer=tokenizer)
    word = WORDS[0]
    result = liminal_hf.timeline(f"{word} {word}. " + f"{word} " * 90 + ". \U0001f600", reader)
    assert len(result.rows) >= 3 and not any(row["truncated"] for row in result.rows)
    assert result.whole["uncertainty"] is None and result.whole["joy"] is None and result.whole["warmth"] is not None
    assert result.table()["warmth"].null_count == 0 and result.table()["joy"].null_count == len(result.rows)
    assert [axes.get_ylabel().split("\n")[0] for axes in result.figure().axes] == ["warmth"]


def test_a_target_with_the_name_of_a_column_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder_with_tokenizer(tmp_path / "encoder"))
    reader = pipeline("pad-regression", model=tiny_model("bert", targets=["joy", "end"]), tokenizer=tokenizer)
    with pytest.raises(LiminalError, match="this model a target 'end'"):
        liminal_hf.timeline("Hello.", reader)


# ---- the command ----


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_a_file_is_read_in_its_encoding(run: Callable[..., Any], tmp_path: Path, encoding: str) -> None:
    text = "Das war schön!\r\nDie Tür ging zu, „leise“ und langsam.\r\n"
    (tmp_path / "story.txt").write_bytes(text.encode(encoding))
    status, out, err = run("timeline", tmp_path / "story.txt", "--json")
    *rows, whole = map(json.loads, out.splitlines())
    assert status == 0 and [row["sentence"] for row in rows] == text.split("\r\n")[:2]
    assert [text[row["start"] : row["end"]] for row in rows] == text.split("\r\n")[:2]
    assert whole["start"] == 0 and whole["end"] == len(text)
    assert ("is read as Windows' cp1252" in err) == (encoding == "cp1252")


def test_the_command_shows_rows_and_the_whole_and_writes_files(run: Callable[..., Any], tmp_path: Path) -> None:
    table, figure = tmp_path / "out.parquet", tmp_path / "out.png"
    status, out, err = run("timeline", STORY, "-o", table, "--figure", figure)
    assert status == 0 and "the whole text" in out and "arrested" not in out and str(figure) in out
    assert "1 of 4 sentences: not read" in err
    assert pq.read_table(table).num_rows == 4 and pixels(figure).shape[1] == 1600
    status, out, _ = run("timeline", "-", stdin=b"I am glad. -5 degrees!")
    assert status == 0 and "I am glad." in out and "-5 degrees!" in out
    assert run("timeline", "- no. yes. " * 600)[0] == 0


def test_the_command_says_what_to_type(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\nHi\n", encoding="utf-8")
    (tmp_path / "a.docx").write_bytes(b"PK\x03\x04...")
    (tmp_path / "empty.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes("schön und süß und größer\nö".encode() * 9 + b"\xff")
    assert "There is no file lost.txt" in refused("timeline", "lost.txt")
    assert "liminal score" in refused("timeline", tmp_path / "a.csv")
    assert "is no plain text" in refused("timeline", tmp_path / "a.docx")
    assert "is a folder" in refused("timeline", tmp_path)
    assert "is empty" in refused("timeline", tmp_path / "empty.txt")
    assert "line 10 holds the byte 0xff" in refused("timeline", tmp_path / "bad.txt")
    assert "--encoding goes with a file" in refused("timeline", "Hi there.", "--encoding", "cp1252")
    assert "There is no text encoding 'x'" in refused("timeline", tmp_path / "empty.txt", "--encoding", "x")
    assert "the ending '.doc' is none of" in refused("timeline", "Hi there.", "-o", tmp_path / "a.doc")
    assert "--figure" in refused("timeline", "Hi there.", "--figure", tmp_path / "a.doc")
    assert "There is no folder" in refused("timeline", "Hi there.", "-o", tmp_path / "no" / "a.csv")
    assert "The input can't be decoded" in refused("timeline", "-", stdin=b"\xff\xfe\xff")
