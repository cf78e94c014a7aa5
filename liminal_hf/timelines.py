"""A text of any length, sentence by sentence: where each stands, what the model says of it, and of the whole.

Requires torch and transformers; a table needs pyarrow, a figure matplotlib (`pip install 'liminal_hf[plot]'`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import DEFAULT_CHECKPOINT
from .modeling.errors import LiminalError
from .modeling.rows import describe
from .modeling.texts import checked_max_length, checked_text
from .modeling.windows import whole, windows

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from .modeling.configuration_liminal import LiminalConfig
    from .modeling.pipeline_liminal import PADRegressionPipeline

_NAN = float("nan")


@dataclass(frozen=True)
class Timeline:
    """What the model says of a text, sentence by sentence.

    Args:
        rows: a row of `pipeline("pad-regression")` for each sentence, with `start`, `end` (offsets in characters of the
            text) and `sentence` in front. A sentence that can't be read has an `error`, as there.
        whole: such a row for the whole text, see `timeline`.
        config: of the model.
    """

    rows: list[dict[str, Any]]
    whole: dict[str, Any]
    config: "LiminalConfig"

    def table(self) -> "pa.Table":
        """A row per sentence, with the columns that `liminal score` writes behind `start`, `end` and `sentence`."""
        import pyarrow as pa

        from .data.answers import answers_table

        table = answers_table(self.rows, self.config)
        for index, (name, kind) in enumerate((("start", pa.int64()), ("end", pa.int64()), ("sentence", pa.string()))):
            table = table.add_column(index, name, pa.array([row[name] for row in self.rows], kind))
        return table

    def save(self, path: str | Path) -> Path:
        """Writes the table; the ending says which format: .csv, .tsv, .parquet, .xlsx or .jsonl."""
        from .data import write_table

        return write_table(path, self.table())

    def figure(self, subject: str | None = None) -> "Figure":
        """A panel per target: each sentence with its interval, and the whole text; `subject` is a second title."""
        from .figures import sentence_timeline

        names = [name for name, known in zip(self.config.targets, self.config.trained_targets, strict=True) if known]
        nothing = dict.fromkeys(names, (_NAN, _NAN))
        points = [[_NAN if row[name] is None else row[name] for name in names] for row in self.rows]
        ends = [[(row["interval"] or nothing)[name] for name in names] for row in self.rows]
        has_ends = any(row["interval"] for row in self.rows)
        whole = None if self.whole["error"] else [self.whole[name] for name in names]
        low, high = self.config.label_range
        options: dict[str, Any] = {"targets": names, "value_range": (low, high), "subject": subject}
        return sentence_timeline(points, ends if has_ends else None, whole, **options)


def timeline(
    text: str,
    model: "str | Path | PADRegressionPipeline" = DEFAULT_CHECKPOINT,
    *,
    max_length: int | None = None,
    batch_size: int = 32,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> Timeline:
    """Reads a text of any length sentence by sentence, and says what becomes of the whole.

    A sentence that is longer than the model reads is divided, at a comma or between words, so that nothing is left out.

    The whole text's answer is the mean of its sentences, each weighted by its number of characters; sentences with an
    `error` do not count, and `in_domain` is averaged alike. Its uncertainty follows from theirs: errors with two
    sentences of a text correlate by 0.2, so that many sentences make it smaller, but never less than .45 of theirs.
    Both rules were compared with others on EmoBank's documents (`scripts/results/long_texts.md`).

    Args:
        text: any length.
        model: a checkpoint's folder, a run's folder or a Hub id, or a `pipeline("pad-regression")`.
        max_length: tokens per sentence; default the config's `max_seq_length`.
        batch_size: sentences at a time; no row depends on it, beyond rounding.
        progress: wraps the rows as they come, with how many there will be, for example in a bar.

    Raises:
        LiminalError: the text is empty or not a text, or see `find_checkpoint` in `liminal_hf.export.checkpoint`.
        FileNotFoundError: there is no such checkpoint.

    Example:
        >>> import liminal_hf
        >>> story = liminal_hf.timeline("The party was wonderful! Then the police came. I hate them.")
        >>> [(row["start"], row["end"], row["verdict"]["pleasure"]) for row in story.rows]
        [(0, 24, 'positive'), (25, 46, 'neutral'), (47, 59, 'negative')]
        >>> story.whole["verdict"]["pleasure"], story.table().num_rows
        ('neutral', 3)
    """
    from transformers import pipeline

    from .export.checkpoint import find_checkpoint

    checked_text(text)
    reader: Any = model
    if isinstance(model, str | Path):
        reader = pipeline("pad-regression", model=find_checkpoint(model, adapters=True))
    config, tokenizer = reader.model.config, reader.tokenizer
    if taken := {"start", "end", "sentence"} & set(config.targets):
        raise LiminalError(f"A row of a timeline has start, end and sentence, and this model a target {min(taken)!r}.")
    spans = windows(text, tokenizer, checked_max_length(max_length, config, tokenizer))
    texts = [text[start:end] for start, end in spans]
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))  # little padding
    answers = reader((texts[index] for index in order), max_length=max_length, batch_size=batch_size)
    answers = answers if progress is None else progress(answers, len(texts))
    by_index = dict(zip(order, answers, strict=True))
    rows = [
        {"start": start, "end": end, "sentence": sentence, **by_index[index]}
        for index, ((start, end), sentence) in enumerate(zip(spans, texts, strict=True))
    ]
    return Timeline(rows, {"start": 0, "end": len(text), **_whole(rows, config)}, config)


def _whole(rows: list[dict[str, Any]], config: "LiminalConfig") -> dict[str, Any]:
    # A target that was not trained has no values, and what is computed for it is never shown.
    def values(row: dict[str, Any] | None) -> list[float] | None:
        return None if row is None else [row[name] or 0.0 for name in config.targets]

    read = {
        index: {"logits": values(row), "uncertainty": values(row["uncertainty"]), "in_domain": row["in_domain"]}
        for index, row in enumerate(rows)
        if row["error"] is None
    }
    found = whole([(row["start"], row["end"]) for row in rows], read, config.label_range)
    if found is None:
        return describe(None, None, config, error=rows[0]["error"])
    return describe(found["logits"], found["uncertainty"], config, in_domain=found["in_domain"])
