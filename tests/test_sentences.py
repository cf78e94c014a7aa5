"""Where sentences begin and end: marks of many scripts, abbreviations, line breaks, and nothing lost on any text."""

# ruff: noqa: RUF001 - marks of many scripts look alike.

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from liminal_hf.modeling.sentences import Span, fitting, sentences

WRAPPED = """\
It was a bright cold day in April, and the clocks were striking thirteen. He
went on, with his chin against his breast, to escape the wind, and then Mr.
Smith came.

THE SECOND PART
Nothing of what was said before could be heard in the hall, which smelt of
cabbage."""
NASTY = st.text(
    st.one_of(
        st.sampled_from(".!?…。！．।\"'”’»“«()[]:;,-– \t\n\r\u2028\u00a0\u200b\u200d\ufe0f😀👍🏽é\u0301aAbIz19"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=120,
)


def pieces(text: str, spans: list[Span] | None = None) -> list[str]:
    return [text[start:end] for start, end in (sentences(text) if spans is None else spans)]


def nothing_lost(text: str, spans: list[Span]) -> None:
    position = 0
    for start, end in spans:
        assert position <= start < end and not text[position:start].strip()
        assert text[start:end] == text[start:end].strip()
        position = end
    assert not text[position:].strip()


@pytest.mark.parametrize(
    "parts",
    [
        ["Dr. Smith paid $3.50.", '"Why?" she asked...', "Nobody knew!"],
        ["J. R. R. Tolkien met Mr. Brown in the U.S.", "He left at 5 p.m.", "I stayed, e.g. at home.", "It was I."],
        ["No.", "I won't.", "See No. 5 and p. 3, Fig. 2, etc.", "The rest is silence."],
        ["It grew by 3.14 per cent on www.example.org in v1.2.3.", "Ok."],
        ["i went home.", "it was fine!!", "what?", "ok"],
        ["Great! 😀", "Next... and so on.", "Wait…", "What?!", "(He left.)", "Done.[1]", "Love it! :)", "Bye"],
        ["He cried “Stop!” and ran.", "‘Go.’", "She went.", "“Small. ”", "Big ( so be it. )", "”Hej.”", "”Nej.”"],
        ["Er sagte: „Komm!“", "Dann ging er z. B. weg."],
        ["¿Qué?", "¡Vamos!", "Sí."],
        ["Это так.", "А. С. Пушкин жил там."],
        ["वह गया।", "वह आया।"],
        ["هل أنت بخير؟", "نعم."],
    ],
)
def test_sentences_end_where_a_reader_ends_them(parts: list[str]) -> None:
    assert pieces(" ".join(parts)) == parts


def test_chinese_and_japanese_need_no_space() -> None:
    assert pieces("他说：「你好。」我走了！真的？是。") == ["他说：「你好。」", "我走了！", "真的？", "是。"]
    assert pieces("約３．１４です。はい。") == ["約３．１４です。", "はい。"]


def test_a_line_break_ends_a_sentence_unless_it_wraps_a_paragraph() -> None:
    assert pieces("hey\nwhat's up\r\nnot much") == ["hey", "what's up", "not much"]
    assert pieces("1. Do this.\n2. Do that.\n\nThe end") == ["1. Do this.", "2. Do that.", "The end"]
    joined = [" ".join(piece.split()) for piece in pieces(WRAPPED)]
    assert joined == [
        "It was a bright cold day in April, and the clocks were striking thirteen.",
        "He went on, with his chin against his breast, to escape the wind, and then Mr. Smith came.",
        "THE SECOND PART",
        "Nothing of what was said before could be heard in the hall, which smelt of cabbage.",
    ]


@settings(max_examples=300, deadline=None)
@given(NASTY)
def test_no_character_of_any_text_is_lost(text: str) -> None:
    nothing_lost(text, sentences(text))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(NASTY.map(lambda text: 3 * text), st.integers(3, 20))
def test_what_is_too_long_is_divided_until_it_fits(pad: Any, text: str, length: int) -> None:
    spans = fitting(text, sentences(text), pad.tokenizer, length)
    nothing_lost(text, spans)
    for piece in pieces(text, spans):
        ids = pad.tokenizer(piece)["input_ids"]
        assert len(ids) <= length or len(piece) < 6, "only what is one letter to a reader may be too long"


def test_a_long_sentence_is_divided_at_a_comma_else_between_words_else_between_letters(pad: Any) -> None:
    def divided(text: str, length: int) -> list[str]:
        return pieces(text, fitting(text, [(0, len(text))], pad.tokenizer, length))

    assert divided("one two three, four five", 6) == ["one two three,", "four five"]
    assert divided("one two three four", 5) == ["one two", "three four"]
    assert all(piece.startswith("e\u0301") for piece in divided(20 * "e\u0301", 6))
