"""The words of a text, its negations, and the text without some of them.

Requires nothing but the standard library.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence

NOT_READ = "beyond the end of what the model reads"
# English words that negate what follows; so does every word that ends in n't.
NEGATIONS = frozenset(
    [
        *("no", "not", "never", "none", "nothing", "nobody", "neither", "nor", "without", "cannot"),
        *("hardly", "barely", "scarcely", "aint", "arent", "cant", "couldnt", "didnt", "doesnt", "dont"),
        *("hasnt", "havent", "isnt", "shouldnt", "wasnt", "werent", "wont", "wouldnt"),
    ]
)
# What may stand between a negation and the word that it negates.
BETWEEN = frozenset(
    [
        *("a", "all", "an", "any", "as", "at", "be", "been", "even", "ever", "much", "of", "quite", "really"),
        *("so", "that", "the", "this", "to", "too", "very"),
    ]
)
MOST_BETWEEN = 3
_APOSTROPHES = "'\u2019"
_NO_SPACES = ("CJK ", "HIRAGANA", "KATAKANA")  # scripts without spaces: each character is a word
_WORD = re.compile(r"cm*|am*(?:'*am*)*")

Span = tuple[int, int]


def word_spans(text: str) -> list[Span]:
    """Start and end of each word of a text, see `explain`.

    Example:
        >>> [text[slice(*span)] for text in ["Don't go, 'Zoe'! \\U0001f600 3x"] for span in word_spans(text)]
        ["Don't", 'go', 'Zoe', '3x']
    """

    def kind(letter: str) -> str:
        category = unicodedata.category(letter)[0]
        if category in "LN":
            return "c" if unicodedata.name(letter, "").startswith(_NO_SPACES) else "a"
        return "m" if category == "M" else "'" if letter in _APOSTROPHES else " "

    return [match.span() for match in _WORD.finditer("".join(map(kind, text)))]


def negated(text: str, words: Sequence[Span]) -> list[Span]:
    """Each negation with what it negates, as one span.

    It goes from a word of `NEGATIONS`, or one that ends in n't, to the first word after it that is none of `BETWEEN`.
    Up to three of those may lie between, and no punctuation: "No, good" has no window.

    Args:
        text: the whole text.
        words: of it, from `word_spans`.

    Example:
        >>> text = "It's not a very good film, and I don't like it. No, never!"
        >>> [text[slice(*span)] for span in negated(text, word_spans(text))]
        ['not a very good', "don't like"]
    """

    def lower(span: Span) -> str:
        return text[slice(*span)].lower().replace("\u2019", "'")

    spans = []
    for index, first in enumerate(words):
        if lower(first) not in NEGATIONS and not lower(first).endswith("n't"):
            continue
        for before, span in itertools.islice(itertools.pairwise(words[index:]), MOST_BETWEEN + 1):
            if text[before[1] : span[0]].strip():
                break
            if lower(span) not in BETWEEN:
                spans.append((first[0], span[1]))
                break
    return spans


def without(text: str, spans: Iterable[Span]) -> str:
    """A text without some of its words, each with the space before it, or after it at the beginning.

    Example:
        >>> without("What a lovely surprise!", [(7, 13)]), without("What a surprise!", [(0, 4), (7, 15)])
        ('What a surprise!', 'a!')
    """
    for start, end in sorted(spans, reverse=True):
        before, after = text[:start], text[end:]
        if before[-1:].isspace():
            before = before[:-1]
        elif not before and after[:1].isspace():
            after = after[1:]
        text = before + after
    return text
