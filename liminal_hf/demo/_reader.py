"""What the page asks of a pipeline: a turn, a text, a table; and what one visitor may ask of the machine."""

import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..chat import rate, sharp_turn, trend
from ..data.answers import answers_table
from ..data.answers import columns_of as answers_columns
from ..data.tables import Table, TableFile, TableSettings, column_names, open_table, write_table
from ..explaining import Explanation, explain
from ..modeling.conversation import ConversationState
from ..modeling.errors import LiminalError
from ..modeling.persons import PersonMemory
from ..modeling.texts import checked_text, is_missing
from ..scoring import Scorer

# What one visitor may ask of the machine that all share.
MAX_CHARACTERS, MAX_NAME, MAX_TURNS = 20_000, 40, 200
MAX_ROWS, MAX_BYTES = 5_000, 5_000_000
# An Excel file is a packed folder, and Parquet is packed; unpacked, they may be so many times as large.
_MOST_UNPACKED = 20
_AT_ONCE = 64
_SECONDS_PER_DAY = 86_400
ENDINGS = (".csv", ".tsv", ".txt", ".xlsx", ".jsonl", ".parquet", ".sav")
# What comes in by a format that goes out by another.
_OUTPUTS = {".txt": ".csv", ".sav": ".xlsx"}


@dataclass(frozen=True)
class Conversation:
    """What one visitor's session holds; each turn makes a new one.

    Args:
        state: the memory after the last turn.
        rows: the pipeline's row of each turn, with `trend` and `sharp`.
        texts: what was said.
    """

    state: ConversationState = field(default_factory=ConversationState)
    rows: tuple[dict[str, Any], ...] = ()
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """A table with answers.

    Args:
        columns: those of the file first (one that has the name of an added one is called `given_...`), then the
            answers (see `data.answers.columns_of`).
        like: how the file was written: separator and decimal mark.
        ending: of the file that goes out, such as ".csv".
        errors, long: how many rows could not be read, and how many were read sentence by sentence.
    """

    columns: pa.Table
    like: TableSettings
    ending: str
    errors: int
    long: int

    def __str__(self) -> str:
        rows = len(self.columns)
        cut = (
            f" {count_of(self.long, 'text')} longer than the model reads at once: read sentence by sentence."
            if self.long
            else ""
        )
        wrong = " The column error says what is wrong with the others." if self.errors else ""
        return f"{rows - self.errors:,} of {count_of(rows, 'row')} read.{cut}{wrong}"

    def save(self, folder: str | Path) -> Path:
        """Writes the table as the file came in: the same format, separator and decimal mark."""
        return write_table(Path(folder) / f"predictions{self.ending}", self.columns, self.like)


class Reader:
    """What the page asks of a `pipeline("pad-regression")`; any number of threads may ask at once.

    Args:
        pipeline: of a model with an encoder.

    Example:
        >>> from transformers import pipeline
        >>> import liminal_hf
        >>> reader = Reader(pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT))
        >>> conversation = reader.say(Conversation(), "What a lovely surprise!", "Ada")
        >>> conversation.rows[0]["speaker"], conversation.rows[0]["sharp"]
        ('Ada', False)
        >>> sorted(reader.read("Good morning."))[:4]
        ['arousal', 'confidence', 'dominance', 'emotions']
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.targets: list[str] = pipeline.model.config.targets

    @cached_property
    def scorer(self) -> Scorer:
        """Of the pipeline's own model, for many texts at a time."""
        return Scorer(self.pipeline.model, tokenizer=self.pipeline.tokenizer)

    def say(self, conversation: Conversation, text: str, speaker: str) -> Conversation:
        """The conversation after one more turn.

        Raises:
            LiminalError: the text or the name can't be read, or the conversation is too long; a sentence for people.
        """
        text, speaker = _text(text), _name(speaker)
        if len(conversation.rows) >= MAX_TURNS:
            raise LiminalError(f"This page follows {MAX_TURNS} turns at most. Start a new conversation.")
        state = conversation.state
        # Everyone who speaks may come to rate, so they are remembered from the first turn on; times are in days.
        persons = {speaker: PersonMemory.empty(1, len(self.targets)), **state.persons}
        now = max(time.time() / _SECONDS_PER_DAY, float(persons[speaker].time[0]))  # a clock may be put back
        message = {"role": "user", "speaker": speaker, "content": text, "time": now}
        answer = self.pipeline(message, memory=ConversationState(state, state.turns, state.rows, persons, state.labels))
        if answer["error"] is not None:
            raise LiminalError(f"The text can't be read: {answer['error']}.")
        own = [earlier for earlier in conversation.rows if earlier["speaker"] == speaker]
        row = {
            **answer,
            "trend": trend(own, answer, self.targets),
            "sharp": bool(own) and sharp_turn(own[-1], answer),
        }
        state = answer["memory"]
        state.rows = {**state.rows, speaker: [{name: answer[name] for name in self.targets}]}
        return Conversation(state, (*conversation.rows, row), (*conversation.texts, text))

    def rate(self, conversation: Conversation, speaker: str, rating: str) -> tuple[Conversation, str]:
        """The conversation after a speaker has rated their last turn, and what is known of them now.

        Args:
            conversation: it stays as it is.
            speaker: who rates.
            rating: as it is typed after /rate in `liminal chat`.

        Raises:
            LiminalError: this speaker has not said anything yet, or the rating is none.
        """
        old = conversation.state
        state = ConversationState(old, old.turns, old.rows, old.persons, old.labels)
        known = rate(self.pipeline, state, _name(speaker), rating).plain.strip()
        return replace(conversation, state=state), known

    def read(self, text: str) -> dict[str, Any]:
        """The pipeline's row of one text.

        Raises:
            LiminalError: the text can't be read.
        """
        row: dict[str, Any] = self.pipeline(_text(text))
        return row

    def explain(self, text: str) -> Explanation:
        """Which words moved the answer.

        Raises:
            LiminalError: the text can't be read, or has no word.
        """
        return explain(_text(text), self.scorer)

    def report(
        self,
        path: str | Path,
        column: str,
        group: str | None,
        folder: str | Path,
        progress: Callable[[float], None] | None = None,
    ) -> Path:
        """What `liminal report` writes of a table, packed.

        Args:
            path, column, progress: as in `score`.
            group: column whose values are compared, or None.
            folder: gets the file `report.zip`.

        Raises:
            LiminalError: as `score`; or a text is too long.
        """
        from ..reporting import report

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress(done / max(total, 1))

        with _opened(path) as path, tempfile.TemporaryDirectory() as place:
            target, file = Path(place) / "report", _table(path, column)
            # Before all of it is read, and while nothing has been scored.
            for part in _parts(file):
                for index, text in enumerate(part.texts):
                    if isinstance(text, str) and len(text) > MAX_CHARACTERS:
                        raise LiminalError(f"The text in {part.where(index)} has {_too_long(text)}. Shorten it.")
            # Names of an earlier reading may be in the file.
            taken = {name.lower() for name in answers_columns(self.pipeline.model.config).names}
            prefix = "new_" if taken & {name.lower() for name in file.schema.names} else ""
            report(path, target, self.scorer, text=file.text, group=group, prefix=prefix, progress=tell)
            return Path(shutil.make_archive(str(Path(folder) / "report"), "zip", target))

    def score(self, path: str | Path, column: str = "text", progress: Callable[[float], None] | None = None) -> Scored:
        """A table with answers added; see `Scored`.

        Args:
            path: of a CSV, TSV, Excel, JSON-lines, Parquet or SPSS file.
            column: with the texts. A file with a single column needs no name.
            progress: is told the share that is done.

        Raises:
            LiminalError: the file is no table, too large, or lacks the column. A row that can't be read is no error: it
                says why in the column `error` and has no numbers.
        """
        with _opened(path) as path:
            file = _table(path, column)
            parts, texts, errors = [], [], []
            for part in _parts(file):
                parts.append(part.columns)
                texts += part.texts
                errors += part.errors
            if not texts:
                raise LiminalError(
                    "The file has no rows: the first line names the columns, each further line is a row."
                )
        for index, text in enumerate(texts):
            if isinstance(text, str) and len(text) > MAX_CHARACTERS:
                errors[index] = errors[index] or _too_long(text)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(texts), _AT_ONCE):
            stop = start + _AT_ONCE
            # What has an error already is not read.
            some = [None if error else text for text, error in zip(texts[start:stop], errors[start:stop], strict=True)]
            answers = self.pipeline(some, batch_size=32)
            rows += [
                {**row, "error": error or row["error"]} for row, error in zip(answers, errors[start:stop], strict=True)
            ]
            if progress is not None:
                progress(len(rows) / len(texts))
        answers = answers_table(rows, self.pipeline.model.config)
        added = dict(zip(answers.column_names, answers.columns, strict=True))
        given = pa.concat_tables(parts)
        taken = {name.lower() for name in added}
        own = [f"given_{name}" if name.strip().lower() in taken else name for name in given.column_names]
        table = pa.table({**dict(zip(own, given.columns, strict=True)), **added})
        unread, long = (sum(bool(row[name]) for row in rows) for name in ("error", "windows"))
        return Scored(table, file.like, _OUTPUTS.get(path.suffix.lower(), path.suffix.lower()), unread, long)


def columns_of(path: str | Path) -> tuple[list[str], str]:
    """The columns of a table, and the one that most likely has the texts: `text`, else the one with the longest cells.

    Raises:
        LiminalError: the file is no table, or too large.
    """
    with _opened(path) as path:
        names = column_names(path)
        likely = next((name for name in names if name.strip().lower() == "text"), None)
        first = None if likely else next(iter(open_table(path, TableSettings(text=names[0])).batches(200)), None)
    if first is None:
        return names, likely or names[0]
    cells = {name: [str(cell) for cell in first.columns[name].to_pylist() if not is_missing(cell)] for name in names}
    return names, max(names, key=lambda name: sum(map(len, cells[name])))


def _table(path: Path, column: str) -> TableFile:
    names = column_names(path)
    return open_table(path, TableSettings(text=names[0] if len(names) == 1 else column or "text"))


def _parts(file: TableFile) -> Iterator[Table]:
    """The rows of a table, some at a time; an error as soon as they are more than this page takes."""
    rows = size = 0
    for part in file.batches(_AT_ONCE):
        rows, size = rows + len(part), size + part.columns.nbytes
        if rows > MAX_ROWS:
            raise LiminalError(f"The file has more than {MAX_ROWS:,} rows, the most this page takes. Split it.")
        if size > MAX_BYTES * _MOST_UNPACKED:
            raise LiminalError(f"The file unpacks to more than {MAX_BYTES * _MOST_UNPACKED:,} bytes. Split it.")
        yield part


@contextmanager
def _opened(path: str | Path) -> Iterator[Path]:
    """The path of a file that may be read; an error in the block names the file without its folder."""
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise LiminalError(f"The file's ending is {path.suffix!r}; this page takes {', '.join(ENDINGS)}.")
    size = path.stat().st_size
    if size <= MAX_BYTES:
        size = max(size, _unpacked(path) // _MOST_UNPACKED)
    if size > MAX_BYTES:
        raise LiminalError(f"The file has {size:,} bytes; this page takes {MAX_BYTES:,} at most.")
    try:
        yield path
    except LiminalError as error:
        raise LiminalError(str(error).replace(str(path), path.name)) from error


def _unpacked(path: Path) -> int:
    """The bytes that a packed file says it has; 0 where it is none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            return sum(entry.file_size for entry in packed.infolist())
    try:
        metadata = pq.read_metadata(path) if path.suffix.lower() == ".parquet" else None
    except (pa.ArrowInvalid, OSError):  # who opens it says what is wrong
        metadata = None
    return sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)) if metadata else 0


def _too_long(text: str) -> str:
    return f"{len(text):,} characters; this page takes {MAX_CHARACTERS:,} at most"


def _text(text: Any) -> str:
    if isinstance(text, str) and len(text) > MAX_CHARACTERS:
        raise LiminalError(f"The text has {_too_long(text)}. Give it in parts.")
    return checked_text(text)


def _name(speaker: Any) -> str:
    name = checked_text(speaker, "The name of who speaks").strip()
    if len(name) > MAX_NAME:
        raise LiminalError(f"The name of who speaks has {len(name):,} characters; {MAX_NAME} at most.")
    return name


def count_of(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
