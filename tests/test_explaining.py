"""Which words moved an answer: effects are differences of plain answers, and places are right."""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Run
from transformers import BertConfig

import liminal_hf
from liminal_hf import DEFAULT_CHECKPOINT, DIMENSIONS, LiminalConfig, LiminalForPADRegression, explain
from liminal_hf.explaining import NOT_READ, Explanation
from liminal_hf.explaining.words import negated, without, word_spans
from liminal_hf.modeling.errors import LiminalError
from liminal_hf.scoring import Scorer

TEXT = "It wasn't a good film, but I don't regret <b>the</b> lovely 😀 evening."


@pytest.fixture(scope="module")
def scorer(minilm: Path) -> Scorer:
    return Scorer(DEFAULT_CHECKPOINT)


@pytest.fixture(scope="module")
def found(scorer: Scorer) -> Explanation:
    return explain(TEXT, scorer)


def words(text: str) -> list[str]:
    return [text[slice(*span)] for span in word_spans(text)]


def windows(text: str) -> list[str]:
    return [text[slice(*span)] for span in negated(text, word_spans(text))]


# ---- words ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't go, 'Zoe'! 3x", ["Don't", "go", "Zoe", "3x"]),
        (
            "rock 'n' roll, the dogs\u2019 well-known_name",
            ["rock", "n", "roll", "the", "dogs", "well", "known", "name"],
        ),
        ("❤️ cafe\u0301 👍🏽👨\u200d👩\u200d👧 done", ["cafe\u0301", "done"]),
        ("我爱 Python、ありがとう", ["我", "爱", "Python", *"ありがとう"]),
        ("हिन्दी में สวัสดี", ["हिन्दी", "में", "สวัสดี"]),
        ("\x1b[31mred\u202e", ["31mred"]),
        ("... 😀", []),
    ],
)
def test_words_are_runs_of_letters_digits_and_apostrophes(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The food was not good.", ["not good"]),
        ("not a very good film", ["not a very good"]),
        ("I DON\u2019T like it, nor you", ["DON\u2019T like", "nor you"]),
        ("never not happy", ["never not", "not happy"]),
        ("No, good. Not at all!", []),
        ("not so very really too good", []),
        ("I cant wait", ["cant wait"]),
        ("knot good", []),
    ],
)
def test_a_negation_goes_with_what_it_negates(text: str, expected: list[str]) -> None:
    assert windows(text) == expected


def test_a_word_leaves_no_gap() -> None:
    assert without("What a lovely day!", [(7, 13)]) == "What a day!"
    assert without("Very good", [(0, 4)]) == "good" and without("good", [(0, 4)]) == ""
    assert without("one two three four", [(4, 7), (14, 18)]) == "one three"
    assert without("well-known", [(0, 4)]) == "-known" and without("a\nb c", [(2, 3)]) == "a c"


# ---- effects ----


def test_effects_are_differences_of_two_plain_answers(found: Explanation, pad: Any) -> None:
    entries = found.words + found.negations
    assert [entry.word for entry in found.words] == words(TEXT)
    assert [entry.word for entry in found.negations] == ["wasn't a good", "don't regret"]
    whole = pad(TEXT)
    for entry in entries:
        assert TEXT[entry.start : entry.end] == entry.word and entry.error is None
        rest = pad(TEXT[: entry.start].rstrip(" ") + TEXT[entry.end :])
        for name in DIMENSIONS:
            assert entry.effects[name] == pytest.approx(whole[name] - rest[name], abs=1e-5), (entry.word, name)
    for name in DIMENSIONS:
        assert found.answer[name] == pytest.approx(whole[name], abs=1e-6)
        assert found.uncertainty[name] == pytest.approx(whole["uncertainty"][name], abs=1e-6)
    assert found.in_domain == pytest.approx(whole["in_domain"], abs=1e-5) and not found.truncated and not found.notes()


def test_a_negation_is_seen(scorer: Scorer) -> None:
    found = explain("The food was not good.", scorer)
    effects = {entry.word: entry.effects["pleasure"] or 0.0 for entry in found.words + found.negations}
    assert effects["not"] < -0.3 and effects["not good"] < -0.2


def test_a_name_a_model_or_a_scorer(found: Explanation, pad: Any) -> None:
    assert explain(TEXT).to_dict() == found.to_dict()
    again = explain(TEXT, pad.model, tokenizer=pad.tokenizer)
    assert again.answer == pytest.approx(found.answer, abs=1e-5)
    with pytest.raises(LiminalError, match="needs its tokenizer"):
        explain(TEXT, pad.model)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        explain(TEXT, "no/such")
    assert callable(liminal_hf.explain), "no module of that name hides it"


def test_what_is_left_without_the_only_word_is_no_text(scorer: Scorer) -> None:
    for text in ("Terrible", "Terrible 😀"):
        (entry,) = explain(text, scorer).words
        assert entry.effects == dict.fromkeys(DIMENSIONS) and "nothing readable is left without it" in str(entry.error)
    assert "nothing to compare" in explain("Terrible", scorer).notes()[0]
    (entry,) = explain("Terrible!", scorer).words
    assert (entry.effects["pleasure"] or 0) < -0.2 and entry.error is None


def test_emoji_and_other_scripts(scorer: Scorer) -> None:
    found = explain("😀 我今天很高兴 👍🏽", scorer)
    assert [entry.word for entry in found.words] == list("我今天很高兴")
    assert all(found.text[entry.start : entry.end] == entry.word for entry in found.words)
    assert "unlike the training texts" in " ".join(found.notes())


def test_a_long_text_says_so(scorer: Scorer) -> None:
    text = "I am not happy. " + "The train leaves at nine. " * 40
    found = explain(text, scorer)
    assert found.truncated and [entry.word for entry in found.words] == words(text)
    unread = [entry for entry in found.words if entry.error == NOT_READ]
    # 126 tokens besides the special two, and a full stop after every four or five words.
    assert len(found.words) - len(unread) == 4 + 5 * 20 + 1
    assert all(entry.effects == dict.fromkeys(DIMENSIONS) for entry in unread)
    assert all(None not in entry.effects.values() for entry in found.words if entry.error is None)
    assert f"its last {len(unread)} words were not read" in found.notes()[0]
    few = explain("one two three four five six", DEFAULT_CHECKPOINT, max_length=5)
    assert [entry.error for entry in few.words] == [None] * 3 + [NOT_READ] * 3
    dots = explain("." * 300 + " never good", scorer)
    assert [entry.error for entry in dots.words] == [NOT_READ] * 2 and not dots.negations


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The text is empty"),
        (None, "must be a string, got a missing value"),
        (["a"], "must be a string, got list"),
        ("a\ud83d", "half of a character"),
        ("?!", "has no word that could be left out: '\\?!'"),
        ("ꙮ", "no token of this text is known"),
    ],
)
def test_what_cannot_be_explained_says_why(scorer: Scorer, text: Any, message: str) -> None:
    with pytest.raises(LiminalError, match=message):
        explain(text, scorer)


def test_a_target_that_was_not_trained_has_no_effect(pad: Any) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 37}
    config = LiminalConfig(text_config=BertConfig(**size), latent_size=16, targets=["warmth", "joy"])
    config.trained_targets = [True, False]
    found = explain("good day", LiminalForPADRegression(config), tokenizer=pad.tokenizer)
    assert found.answer["joy"] is None and found.words[0].effects["joy"] is None
    assert found.words[0].effects["warmth"] is not None and "<h2>joy -</h2>" in found.to_html()


# ---- the page, the command ----


def test_the_page_holds_the_text_and_runs_nothing(scorer: Scorer) -> None:
    text = '<script>alert("terrible")</script> & a {lovely} day\'s "horror"'
    page = explain(text, scorer).to_html()
    assert "<script" not in page and "http" not in page and page.startswith("<!doctype html>")
    assert page.count("<h2>") == 3 and 'class="up"' in page and 'class="down"' in page
    first = re.findall(r'<p class="text" dir="auto">(.*?)</p>', page, re.DOTALL)[0]
    assert html.unescape(re.sub(r"<sub>.*?</sub>|</?mark[^>]*>", "", first)) == text
    assert all(re.search(r"[+-]\d\.\d\d", mark) for mark in re.findall(r"<mark.*?</mark>", page))


def test_colours_have_signs(run: Run, monkeypatch: pytest.MonkeyPatch, minilm: Path) -> None:
    status, out, err = run("explain", "It was a terrible [b]film[/b]\x1b]0;x\x07, my lovely friend.")
    assert status == 0 and err == ""
    first = out.split("\n")[0]
    assert re.search(r"^pleasure [+-]\d\.\d\d {2}It was a terrible-0\.\d\d \[b\]film\[/b\] \]0;x , my lovely", first)
    assert "\x1b" not in out and "\x07" not in out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    status, out, _ = run("explain", "-5 degrees is terrible, what a lovely day")
    orange, blue = "\x1b[30;48;2;230;159;0m", "\x1b[30;48;2;86;180;233m"
    assert status == 0 and f"{orange}terrible-" in out and f"{blue}lovely+" in out


def test_json_and_page(run: Run, tmp_path: Path, minilm: Path) -> None:
    page = tmp_path / "page.html"
    status, out, err = run("explain", "not good", "--json", "--html", page)
    row = json.loads(out)
    assert status == 0 and str(page) in err and "not good" in page.read_text(encoding="utf-8")
    assert [entry["word"] for entry in row["words"]] == ["not", "good"] and row["truncated"] is False
    assert row["negations"][0]["effects"] == dict.fromkeys(DIMENSIONS)


def test_errors_of_the_command(run: Run, tmp_path: Path, minilm: Path) -> None:
    for arguments, message in (
        ([" "], "The text is empty"),
        (["😀"], "has no word"),
        (["good", "--model", tmp_path], "There is no checkpoint in"),
        (["good", "day"], "unexpected extra argument"),
    ):
        status, out, err = run("explain", *arguments)
        assert status == 2 and out == "" and message in err and "Traceback" not in err


def test_many_words_are_shown_by_their_effect(run: Run, minilm: Path) -> None:
    status, out, err = run("explain", "a lovely day " + "and then the train left at nine " * 30)
    assert status == 0 and "The 40 largest effects of" in out and "longer than the model reads" in err
