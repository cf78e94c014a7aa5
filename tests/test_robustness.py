"""Whatever is given as a text: a right answer, or an error of ours that names the input, the same each time.

Property tests over any Unicode and over what is no text at all, through the model, the pipelines and the command line;
the tokenizer is MiniLM's own, the weights are random.
"""

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from conftest import tiny_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertConfig, pipeline

from liminal_hf import DIMENSIONS, LiminalConfig, LiminalForPADRegression, demo, encode
from liminal_hf.cli import main
from liminal_hf.data import load_table
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.modeling.texts import text_error
from liminal_hf.scoring import score_table

quick = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# One of each kind of trouble, so that every run meets them whatever hypothesis draws.
NASTY = [
    "\u202eright to left\u202c \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466\U0001f3f4\U000e0067\U000e0062\U000e007f\u2764\ufe0f",
    "zero\u200bwidth\u200c\u200d\ufeff",
    "\x00\x01\x1b[2J\x7f\x9b",
    "a\u0300\u0301\u0302\u0303" * 40,
    "\ud83d",
    "half \udc80 way",
    "",
    " \t\r\n\u00a0\u2003\u3000",
    "\u200b",
    "[CLS] [MASK] [SEP] [PAD]",
    "\uffff\U0010ffff",
    "Good. " * 400,
]
LETTERS = st.characters(codec=None, exclude_categories=[])
texts = st.one_of(
    st.text(LETTERS, max_size=60), st.sampled_from(NASTY), st.text(st.sampled_from("ab \n\u200d\ud800\U0001f600"))
)
no_texts = st.recursive(
    st.one_of(st.none(), st.floats(), st.integers(), st.binary(max_size=9), st.booleans(), st.just(float("nan"))),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@pytest.fixture(scope="module")
def folder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights that reads with MiniLM's tokenizer."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
    config = LiminalConfig(text_config=BertConfig(**size), latent_size=16, num_outer_steps=2, max_seq_length=64)
    path = tmp_path_factory.mktemp("checkpoint")
    LiminalForPADRegression(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(minilm).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pad(folder: Path) -> Any:
    return pipeline("pad-regression", model=str(folder))


def answer(call: Callable[[], Any]) -> Any:
    """What a call gives; an error of ours becomes its message, any other one fails the test."""
    try:
        return call()
    except ValueError as error:
        # UnicodeEncodeError is a ValueError too, and says nothing to a user.
        assert type(error) in (ValueError, LiminalError), repr(error)
        return str(error)


def is_right(row: dict[str, Any]) -> bool:
    """A row of numbers, or one that says why it has none."""
    values = [row[name] for name in DIMENSIONS]
    if row["error"] is not None:
        return values == [None] * 3 and row["octant"] is None and row["confidence"] is None
    return all(-1 <= value <= 1 for value in values) and 0 <= row["confidence"] <= 1 and bool(row["octant"])


def readable(text: Any) -> bool:
    return text_error(text) is None


def values_of(row: dict[str, Any]) -> list[Any]:
    return [pytest.approx(row[name], abs=1e-5) if row[name] is not None else None for name in DIMENSIONS]


@quick
@given(text=texts, neighbour=texts.filter(readable))
@example(text="\ud83d", neighbour="Good.")
@example(text="\U0001f600", neighbour="Good.")
@example(text=NASTY[0], neighbour=NASTY[-1])
@example(text=NASTY[4], neighbour=NASTY[1])
def test_any_string_is_read_or_refused_alone_and_in_any_batch(pad: Any, text: str, neighbour: str) -> None:
    row = pad([text])[0]
    assert is_right(row) and (text_error(text) is None or row["error"] == text_error(text))
    alone = answer(lambda: pad(text))
    assert alone == row if row["error"] is None else alone.startswith("The text ")
    for size in (1, 3):
        rows = pad([neighbour, text, neighbour], batch_size=size)
        assert rows[1]["error"] == row["error"] and [rows[1][name] for name in DIMENSIONS] == values_of(row)
    said = pad([{"role": "user", "content": neighbour}, {"role": "bot", "content": text}])[1]
    piece = pad([text], truncation=True)[0]  # a turn is read in one piece
    assert said["error"] == piece["error"] and [said[name] for name in DIMENSIONS] == values_of(piece)


@quick
@given(value=no_texts)
@example(value=None)
@example(value=float("nan"))
@example(value=b"bytes")
@example(value=[["nested"]])
@example(value=[[]])
@example(value={})
def test_what_is_no_text_is_named(pad: Any, value: Any) -> None:
    said = answer(lambda: pad(value))
    if isinstance(value, list):
        assert isinstance(said, str) or len(said) == len(value), "rows in are rows out"
    else:
        assert said.startswith(("The text", "Message")), said
    if isinstance(said, str):
        assert any(word in said for word in ("must be", "must say", "is empty", "has no 'content'")), said
    assert repr(answer(lambda: pad(value))) == repr(said)
    good, bad = pad(["Good.", value])
    assert good["error"] is None and bad["error"] == text_error(value) is not None


@quick
@given(text=texts)
def test_the_model_itself_reads_whatever_the_tokenizer_takes(pad: Any, text: str) -> None:
    try:
        inputs = pad.tokenizer([text, "Good."], padding=True, truncation=True, max_length=64, return_tensors="pt")
    except (TypeError, UnicodeEncodeError):
        assert not readable(text)
        return
    with torch.no_grad():
        logits = pad.model(**inputs).logits
        alone = pad.model(**pad.tokenizer(text, truncation=True, max_length=64, return_tensors="pt")).logits
    assert bool(logits.isfinite().all())
    torch.testing.assert_close(logits[:1], alone, atol=1e-5, rtol=0)


@quick
@given(text=texts)
def test_text_classification_reads_the_same(pad: Any, text: str) -> None:
    classify = pipeline("text-classification", model=pad.model, tokenizer=pad.tokenizer)
    row, entries = pad([text])[0], classify([text], labels="emotions", top_k=None)[0]
    assert all(entry.get("error") == row["error"] for entry in entries)
    if row["error"] is None:
        assert {entry["label"]: entry["score"] for entry in entries} == pytest.approx(row["emotions"])
        assert sum(row["emotions"].values()) == pytest.approx(1)


def command(*arguments: Any) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code or 0, out.getvalue(), err.getvalue()


def check_command(status: int, out: str, err: str, number: int | None) -> None:
    """Rows of JSON, or one line that says what is wrong."""
    if status == 0:
        rows = [json.loads(line) for line in out.splitlines()]
        assert all(is_right(row) for row in rows) and (number is None or len(rows) == number)
    else:
        assert status == 2 and not out
        assert err.startswith("liminal: ") and err.count("\n") == 1 and "codec" not in err, err


@settings(quick, max_examples=15)
@given(given_texts=st.lists(texts.filter(lambda text: not text.startswith("-")), min_size=1, max_size=3))
@example(given_texts=["half \udc80 way"])
def test_the_command_line_takes_any_arguments(folder: Path, given_texts: list[str]) -> None:
    status, out, err = command("predict", "--json", "-m", folder, "--", *given_texts)
    assert (status == 0) == (len(given_texts) > 1 or readable(given_texts[0])), err
    check_command(status, out, err, len(given_texts))


@settings(quick, max_examples=15)
@given(content=st.one_of(st.binary(max_size=60), st.lists(texts.filter(readable)).map(lambda x: "\n".join(x).encode())))
@example(content=b"")
@example(content=b"\xff\xfeG\x00")
@example(content=b"\xef\xbb\xbfGood.\n")
def test_the_command_line_takes_any_file(folder: Path, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes(content)
    check_command(*command("predict", "--json", "-m", folder, "--file", tmp_path / "texts.txt"), None)


@settings(quick, max_examples=15)
@given(rows=st.lists(texts | no_texts, min_size=1, max_size=4))
@example(rows=NASTY)
@example(rows=[None, float("nan"), 3, True, [["a"]], {"a": None}, "Good."])
def test_a_job_numbers_what_is_readable_and_says_why_not(
    pad: Any, folder: Path, rows: list[Any], tmp_path: Path
) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps({"text": row}, default=repr) + "\n" for row in rows), encoding="utf-8")
    shutil.rmtree(tmp_path / "scored", ignore_errors=True)
    score_table(table, f"{tmp_path}/scored/", checkpoint=str(folder), threads=1)
    scored = pq.read_table(tmp_path / "scored").to_pylist()
    assert len(scored) == len(rows)
    for row, found in zip(rows, scored, strict=True):
        values = [found[name] for name in DIMENSIONS]
        if row is None or isinstance(row, str):
            alone = pad([row])[0]
            assert found["error"] == alone["error"] and values == values_of(alone)
        else:
            # A number, a list or bytes: either refused, or read as the text that the table shows.
            assert (found["error"] is None) == (None not in values)


@quick
@given(text=texts | no_texts)
@example(text="\ud83d")
@example(text=NASTY[3])
def test_the_page_reads_it_or_says_why_not(pad: Any, text: Any, tmp_path: Path) -> None:
    page = demo.Reader(pad)
    row = answer(lambda: page.read(text))
    turn = answer(lambda: page.say(demo.Conversation(), text, "you"))
    if pad(["Good.", text])[1]["error"] is None:
        for found, alone in ((row, pad(text)), (turn.rows[0], pad(text, truncation=True))):
            assert is_right(found) and [found[name] for name in DIMENSIONS] == values_of(alone)
    else:
        assert row == turn and row.startswith("The text ")
    # A table of one cell comes back with numbers or with a reason, and whatever it is, it is no formula.
    if isinstance(text, str):
        content = io.StringIO(newline="")
        csv.writer(content).writerows([["text"], [text]])
        table = tmp_path / "one.csv"
        table.write_bytes(content.getvalue().encode("utf-8", "surrogatepass"))
        scored = answer(lambda: page.score(table))
        assert isinstance(scored, str) or b"\n=" not in scored.save(tmp_path).read_bytes()


@pytest.mark.timeout(240)
def test_megabytes_in_one_string(pad: Any, folder: Path, tmp_path: Path) -> None:
    """Truncated, only the first tokens count, and what follows neither changes them nor ends in an error."""
    long = "What a lovely day. " * 110_000
    assert len(long) > 2_000_000
    row, start = (pad(text, truncation=True) for text in (long, long[:2000]))
    assert [row[name] for name in DIMENSIONS] == pytest.approx([start[name] for name in DIMENSIONS], abs=1e-6)
    # In windows it takes as long as so many sentences take, so the command line gets a part.
    (tmp_path / "long.txt").write_text(long[:40_000], encoding="utf-8")
    status, out, err = command("predict", "--json", "-m", folder, "--file", tmp_path / "long.txt")
    check_command(status, out, err, 1)
    sentence = pad("What a lovely day.")
    assert json.loads(out)["pleasure"] == pytest.approx(sentence["pleasure"], abs=1e-2)
    assert pad(["x" * 2_000_000])[0]["error"] == "no token of this text is known to the model"


@settings(quick, max_examples=10)
@given(value=no_texts)
@example(value=None)
@example(value="\ud83d")
def test_encode_names_what_is_no_text(minilm: Path, value: Any) -> None:
    with pytest.raises(ValueError, match=r"^Text 1 (must be|is empty|holds half)"):
        encode(["Good.", value])


@quick
@given(rows=st.lists(texts.filter(readable), min_size=1, max_size=5))
@example(rows=['She said "no", and left;\nthen\r\ncame back.', "'", '"', "a,b", "\ufeffmark", "NA", "None", "-100"])
@example(rows=["a\rb", "\x00"])
def test_a_table_keeps_every_text(rows: list[str], tmp_path: Path) -> None:
    """Quotes, separators, line breaks, marks and words that look like a gap survive the way through a CSV."""
    path = tmp_path / "texts.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "V", "A", "D"], *([text, 1, 3, 5] for text in rows)])
    found = answer(lambda: load_table({"test": path})["test"]["text"][:])
    assert found == rows or (isinstance(found, str) and path.name in found and "\x00" in "".join(rows)), found


def test_a_tokenizer_of_another_model_is_named() -> None:
    model = tiny_model("bert")
    for ids in ([[3, 60]], [[-1, 5]]):
        with pytest.raises(ValueError, match=r"vocabulary has\s60 tokens: the tokenizer is that of another model"):
            model(input_ids=torch.tensor(ids), attention_mask=torch.ones(1, 2, dtype=torch.long))
