"""Which words moved an answer: every word is left out once, and the answers with and without it are compared.

Requires liminal_hf.scoring. Negations are left out together with what they negate, see `negated`.
"""

import bisect
import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import DEFAULT_CHECKPOINT
from ..export.checkpoint import find_checkpoint
from ..modeling.answers import outside
from ..modeling.errors import LiminalError
from ..modeling.modeling_liminal import LiminalForPADRegression
from ..modeling.texts import checked_text, tokenize
from ..scoring.scorer import Scorer
from .page import page
from .words import NOT_READ, Span, negated, without, word_spans

# An effect is shown in colour from a quarter of the scale on; the scale is the largest effect, but at least this.
_LEAST_SCALE, _COLOURED = 0.2, 0.25


@dataclass(frozen=True)
class Effect:
    """What a word, or a negation with what it negates, did to the answer.

    Args:
        word: what was left out; `text[start:end]`.
        start, end: offsets in characters of the text.
        effects: per target in label units, the answer of the whole text minus that without the word; None where there
            is no answer.
        error: why there is none: nothing readable is left without the word, or the model does not read so far.
    """

    word: str
    start: int
    end: int
    effects: dict[str, float | None]
    error: str | None = None


@dataclass(frozen=True)
class Explanation:
    """The answer of a text, and what each word did to it; see `explain`.

    Args:
        text: as it was given.
        answer, uncertainty: per target, as in `pipeline("pad-regression")`; None for a target that was not trained.
        in_domain: how likely the text is one like the training texts (0..1), or None.
        truncated: whether the end of the text was not read. The words there have no effect but an `error`. Where an
            earlier word is left out, what follows moves up, and a bit more of the end is read.
        words: an entry per word, in the order of the text.
        negations: an entry per negation with what it negates, in the order of the text.
    """

    text: str
    answer: dict[str, float | None]
    uncertainty: dict[str, float | None]
    in_domain: float | None
    truncated: bool
    words: list[Effect]
    negations: list[Effect]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @cached_property
    def scale(self) -> float:
        """The largest absolute effect of a word on any target."""
        return max(_LEAST_SCALE, *(abs(value or 0.0) for entry in self.words for value in entry.effects.values()))

    def strength(self, effect: float | None) -> float:
        """How much colour an effect gets: its share of the largest, 0..1, and none below a quarter."""
        share = min(abs(effect or 0.0) / self.scale, 1.0)
        return share if share >= _COLOURED else 0.0

    def pieces(self, target: str) -> Iterator[tuple[str, float | None]]:
        """The text piece by piece: each word with its effect on a target, and what stands between with None."""
        end = 0
        for entry in self.words:
            yield self.text[end : entry.start], None
            yield entry.word, entry.effects[target]
            end = entry.end
        yield self.text[end:], None

    def notes(self) -> list[str]:
        """What a reader has to know before believing it."""
        unread = sum(entry.error == NOT_READ for entry in self.words)
        notes = []
        if self.truncated:
            notes.append(
                f"The text is longer than the model reads: its last {unread} words were not read. For a text of any "
                "length, sentence by sentence: liminal timeline FILE"
            )
        if outside(self.in_domain):
            notes.append("The text is unlike the training texts (another language, code): the numbers mean little.")
        if any(entry.error not in (None, NOT_READ) for entry in self.words):
            notes.append("Without its only word nothing readable is left, so that there is nothing to compare with.")
        return notes

    def to_html(self) -> str:
        """A page without scripts and links, in light and dark mode: the text per target, and a table of the effects."""
        return page(self)


def explain(
    text: str,
    model: str | Path | LiminalForPADRegression | Scorer = DEFAULT_CHECKPOINT,
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
) -> Explanation:
    """Which words moved the answer of a text: each is left out once, and so is each negation with what it negates.

    A word is a run of letters, digits and the apostrophes between them; in Chinese and Japanese, each character. The
    space before it goes with it. An effect holds all that the word does in this sentence, also through its neighbours:
    effects don't add up to the answer. What counts as a negation is said in `liminal_hf.explaining.words.negated`.

    Args:
        text: one text.
        model: a checkpoint's folder or Hub id, a model with its `tokenizer`, or a `Scorer`, which serves many texts.
        tokenizer, max_length: as for `Scorer`; a `Scorer` has its own.

    Raises:
        LiminalError: the text can't be read or has no word; a model without its tokenizer or without an encoder.
        OSError: the checkpoint was not found.

    Example:
        >>> explanation = explain("The food was not good.")
        >>> [entry.word for entry in explanation.words], [entry.word for entry in explanation.negations]
        (['The', 'food', 'was', 'not', 'good'], ['not good'])
        >>> effects = {entry.word: entry.effects["pleasure"] for entry in explanation.words + explanation.negations}
        >>> effects["not"] < effects["not good"] < 0
        True
    """
    text = checked_text(text)
    if not isinstance(model, Scorer):
        source = find_checkpoint(model, adapters=True) if isinstance(model, str | Path) else model
        model = Scorer(source, tokenizer=tokenizer, max_length=max_length)
    # An effect is a difference of two readings, each in one piece.
    model = copy.copy(model)
    model.in_windows = False
    words = word_spans(text)
    if not words:
        raise LiminalError(f"The text has no word that could be left out: {text[:40]!r}. Give at least one word.")
    whole, *_ = model.score([text]).to_pylist()
    if whole["error"]:
        raise LiminalError(f"The text can't be read: {whole['error']}.")
    read = words[: _words_read(text, words, model)] if whole["truncated"] else words
    windows = negated(text, read)
    rows = model.score([without(text, [span]) for span in read + windows]).to_pylist()
    targets = model.config.targets

    def effect(span: Span, row: dict[str, Any]) -> Effect:
        pairs = {name: (whole[name], row[name]) for name in targets}
        effects = {name: None if None in pair else pair[0] - pair[1] for name, pair in pairs.items()}
        error = f"nothing readable is left without it ({row['error']})" if row["error"] else None
        return Effect(text[slice(*span)], *span, effects, error)

    entries = [effect(*pair) for pair in zip(read + windows, rows, strict=True)]
    unread = [Effect(text[slice(*span)], *span, dict.fromkeys(targets), NOT_READ) for span in words[len(read) :]]
    return Explanation(
        text=text,
        answer={name: whole[name] for name in targets},
        uncertainty={name: whole[f"uncertainty_{name}"] for name in targets},
        in_domain=whole["in_domain"],
        truncated=whole["truncated"],
        words=entries[: len(read)] + unread,
        negations=entries[len(read) :],
    )


def _words_read(text: str, words: Sequence[Span], scorer: Scorer) -> int:
    """How many words are read, at least in part, of a text that is longer than the model reads."""

    def is_full(span: Span) -> bool:
        return tokenize(scorer.tokenizer, [text[: span[0]]], scorer.max_length).lengths[0] >= scorer.max_length

    return bisect.bisect_left(words, True, key=is_full)
