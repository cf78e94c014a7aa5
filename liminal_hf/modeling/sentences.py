"""Where the sentences of a text begin and end, without a download.

Requires transformers. Sentences end at full stops, question and exclamation marks of all scripts (not after
abbreviations, initials and list numbers, nor before a word in small letters), and at line breaks that do not merely
wrap a paragraph.
"""

# ruff: noqa: RUF001, SIM905 - marks of many scripts look alike, and words are best read as words.

import re
import unicodedata
from itertools import pairwise
from typing import Any

from .texts import tokenize

Span = tuple[int, int]
_WIDE = "。！？｡．।॥።"  # no space need follow
_EMOJI = "\U0001f1e6-\U0001faff\u2600-\u27bf\u200d\ufe0f"
# The marks, what closes behind them (quotes, brackets, the number of a footnote), and smileys on the same line.
_MARK = re.compile(
    rf"(?P<mark>[.!?…‼⁇⁈⁉؟۔։។။{_WIDE}]+)"
    rf"(?P<close>(?:[\"'”’»›)\]}}」』】〉》）］｣]|[“«‹](?=\s|$)|[ \t][”)\]}}](?!\S)|\[\d+\])*)"
    rf"(?:[ \t]*(?:[{_EMOJI}]+|(?:[:;=8][-'^]?[()\[\]DPpOo/|3*]+|<3+|[xX]D+)(?!\S)))*"
)
_NEXT = re.compile(r"\s*(?P<opening>[\"'“‘„«»‹(\[{¿¡—–-]*\s*)(?P<word>\w*)(?P<after>.?)", re.DOTALL)
_LINE = re.compile(r"\r\n|[\n\r\v\f\x85\u2028\u2029]")
_LIST_ITEM = re.compile(r"\s*(?:[-*•–—]|\w{1,3}[.)])\s")
_NARROWEST_WRAP = 40  # characters in the longest line of a text whose lines are wrapped
# By what follows an abbreviation: never an end; an end before anything but a number; an end before a word that often
# begins a sentence.
_TITLES = frozenset(
    "mr mrs ms mx messrs dr prof st ste gen col lt sgt cpl capt cmdr adm maj rev gov sen mt mme mlle e.g i.e eg ie cf "
    "vs viz approx z.b d.h".split()
)
_NUMBERED = frozenset("no nos nr ext p pp fig figs eq eqs vol vols ch chap sec art para ref".split())
_OTHERS = frozenset(
    "etc inc ltd co corp bros jr sr al ed eds dept est ave blvd rd jan feb mar apr jun jul aug sep sept oct nov dec "
    "rep hon fr usw bzw ca tel".split()
)
_BEGINNERS = frozenset(
    "the a an this that these those there here he she it they we i you his her its their our my your in on at as by "
    "for from with when while if but and so then or after before because although however now no yes not what who "
    "where why how is was are do did can will".split()
)
_JOINING = "\u200d🏻🏼🏽🏾🏿"
# Where a sentence that is too long is divided: behind a comma or the like, else between words.
_CLAUSE, _BLANKS = re.compile(r"(?<=[,;:–—])\s+|(?<=[，；：、])"), re.compile(r"\s+")


def sentences(text: str) -> list[Span]:
    """Where the sentences of a text begin and end: `text[start:end]`, with nothing but whitespace between them.

    Example:
        >>> text = 'Dr. Smith paid $3.50. "Why?" she asked... Nobody knew!'
        >>> [text[start:end] for start, end in sentences(text)]
        ['Dr. Smith paid $3.50.', '"Why?" she asked...', 'Nobody knew!']
    """
    has_capitals = text != text.lower()
    ends = {match.end() for match in _MARK.finditer(text) if _ends_here(text, match, has_capitals)}
    spans, start = [], 0
    for end in sorted({*ends, *_ending_lines(text), len(text)}):
        spans.append(_stripped(text, start, end))
        start = end
    return [(start, end) for start, end in spans if start < end]


def _stripped(text: str, start: int, end: int) -> Span:
    piece = text[start:end]
    return end - len(piece.lstrip()), start + len(piece.rstrip())


def _ends_here(text: str, match: re.Match[str], has_capitals: bool) -> bool:
    """Whether a sentence ends at a mark, by what stands around it."""
    mark, end = match["mark"], match.end()
    is_wide = any(letter in _WIDE for letter in mark) and not (mark == "．" and text[end : end + 1].isdigit())
    following = _NEXT.match(text, end)
    if following is None or not (is_wide or end == len(text) or text[end].isspace()):
        return False
    word, after = following["word"], following["after"]
    if not word and not following["opening"] and after and after in ".,;:!?…)]}%、，；：":
        return False
    goes_on = has_capitals and word[:1].islower()
    if is_wide or "!" in mark or "?" in mark:
        return is_wide or not (match["close"] and goes_on)
    if goes_on or len(mark) > 1 or match["close"]:
        return not goes_on
    return not _is_abbreviation(text[max(0, match.start() - 40) : match.start()], word, after)


def _is_abbreviation(before: str, following: str, after: str) -> bool:
    """Whether the full stop behind `before` belongs to an abbreviation, initials or the number of a list's item."""
    line = _LINE.split(before)[-1].strip()
    word = line.split()[-1].lstrip("([{\"'“‘„«") if line and not before[-1].isspace() else ""
    name, parts = word.lower(), re.split(r"[.-]+", word.lower())
    are_initials = all(len(part) == 1 and part.upper() != part for part in parts) and word != "I"
    if not word:
        return False
    if word == line and ((word.isdigit() and len(word) < 4) or re.fullmatch("[a-zA-Z]|[IVX]+", word)):
        return True
    if name in _TITLES or (name in _NUMBERED and following[:1].isdigit()):
        return True
    return (are_initials or name in _OTHERS) and (following.lower() not in _BEGINNERS or after == ".")


def _ending_lines(text: str) -> list[int]:
    """The line breaks that end a sentence: all of them, except where a paragraph is wrapped at some width.

    A break is one of wrapping where the next word had no room in the line. A text counts as wrapped where that holds of
    half of its breaks, and two fifths of those have a word in small letters behind.
    """
    breaks = list(_LINE.finditer(text))
    lines = [line.rstrip() for line in _LINE.split(text)]
    width = max(map(len, lines))
    words = [line.split(maxsplit=1)[0] if line and not _LIST_ITEM.match(line) else "" for line in lines]
    full = [
        bool(line and word) and len(line) + 1 + len(word) > width for line, word in zip(lines, words[1:], strict=False)
    ]
    inner = sum(bool(line and following) for line, following in pairwise(lines))
    going_on = sum(is_full and word[0].islower() for is_full, word in zip(full, words[1:], strict=True))
    is_wrapped = width >= _NARROWEST_WRAP and 2 * sum(full) >= inner and going_on >= 0.4 * sum(full)
    return [match.start() for match, is_full in zip(breaks, full, strict=True) if not (is_wrapped and is_full)]


def fitting(text: str, spans: list[Span], tokenizer: Any, max_length: int) -> list[Span]:
    """The spans, with those halved, and halved again, that are longer than the model reads.

    Args:
        text: the whole text.
        spans: from `sentences`.
        tokenizer: of the model.
        max_length: tokens per sentence, from `checked_max_length`.

    Example:
        >>> import liminal_hf
        >>> from transformers import AutoTokenizer
        >>> tokenizer = AutoTokenizer.from_pretrained(liminal_hf.DEFAULT_CHECKPOINT)
        >>> fitting("one two three, four five", [(0, 24)], tokenizer, 6)
        [(0, 14), (15, 24)]
    """
    done: list[Span] = []
    while spans:
        tokens = tokenize(tokenizer, [text[start:end] for start, end in spans], max_length)
        halves = [_halves(text, *span) if cut else [] for span, cut in zip(spans, tokens.truncated, strict=True)]
        done += [span for span, two in zip(spans, halves, strict=True) if not two]
        spans = [half for two in halves for half in two]
    return sorted(done)


def _halves(text: str, start: int, end: int) -> list[Span]:
    """Two parts of a span, divided near its middle; none where it is a single character."""
    middle, room = (start + end) // 2, (end - start) // 4
    clauses = [match.span() for match in _CLAUSE.finditer(text, start + room, end - room)]
    cuts = (
        clauses or [match.span() for match in _BLANKS.finditer(text, start, end)] or _between_letters(text, start, end)
    )
    if not cuts:
        return []
    left, right = min(cuts, key=lambda cut: abs(cut[0] - middle))
    return [(start, left), (right, end)]


def _between_letters(text: str, start: int, end: int) -> list[Span]:
    """The border nearest to the middle of what a reader sees as one letter: no accent, no part of an emoji alone."""
    middle = (start + end) // 2
    for distance in range(end - start):
        for at in (middle - distance, middle + distance):
            joins = unicodedata.category(text[at])[0] == "M" or text[at] in _JOINING if start < at < end else True
            if not joins and text[at - 1] != "\u200d":
                return [(at, at)]
    # One letter with more marks than the model reads at once: it has to be divided somewhere.
    return [(middle, middle)] if end - start > 1 else []
