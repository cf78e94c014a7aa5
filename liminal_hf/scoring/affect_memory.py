"""An affect memory for agents: messages of many persons in, each one's level and present state out, in one SQLite file.

Requires torch. A person is one row of about a kilobyte, whatever the number of messages; no text is kept. Several
threads and processes may use the same file.
"""

import datetime as dt
import json
import math
import os
import sqlite3
import threading
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..modeling.errors import LiminalError
from ..modeling.person_prior import PersonPrior
from ..modeling.persons import PERSON_FIELDS, PersonMemory, rating_row

_SECONDS_PER_DAY = 86_400
_TABLES = (
    "CREATE TABLE IF NOT EXISTS persons (person TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
# How long one process waits for another.
_PATIENCE_SECONDS = 60


class AffectMemory:
    """What is known of the affect of persons, from what they write and what they say of it themselves.

    Every message updates a person's state: how far they lie from what their texts say (from ratings, where there are
    any), their usual level, the last value. Between messages the state returns to that level; see `PersonMemory`.

    Args:
        path: the SQLite file; it is made where there is none.
        reader: a `pipeline("pad-regression")`, or a `Scorer` (`Scorer(folder, backend="int8")` is the fastest).
        prior: what is known of persons; None is `PersonPrior.of_model`. Its time is in days.

    Raises:
        LiminalError: the path is no SQLite file, or one of a model with other targets or another range of labels.
        FileNotFoundError: there is no folder for the file.

    Example:
        >>> import tempfile
        >>> from transformers import pipeline
        >>> import liminal_hf
        >>> reader = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
        >>> memory = AffectMemory(tempfile.mkdtemp() + "/affect.db", reader)
        >>> row = memory.add("Ada", "What a lovely surprise!", time=0, rating={"pleasure": 0.9})
        >>> row = memory.add("Ada", "I went home.", time=3600)
        >>> row["adjusted"]["pleasure"] > row["pleasure"]
        True
        >>> state = memory.state("Ada", at=30 * 86400)
        >>> state["turns"], abs(state["pleasure"]["now"] - state["pleasure"]["level"]) < 1e-6
        (2, True)
        >>> memory.delete("Ada"), memory.state("Ada")
        (True, None)
    """

    def __init__(self, path: str | os.PathLike, reader: Any, prior: PersonPrior | None = None) -> None:
        config = getattr(reader, "config", None) or reader.model.config
        self.targets: list[str] = list(config.targets)
        self._trained = [
            name for name, is_trained in zip(self.targets, config.trained_targets, strict=True) if is_trained
        ]
        self._span = tuple(config.label_range)
        self._read: Callable[[list[str]], list[dict[str, Any]]] = _rows_of(reader, self.targets)
        self.prior = PersonPrior.of_model(config) if prior is None else prior
        PersonMemory.empty(1, len(self.targets)).level(self.prior)  # an error where the prior is of other targets
        self.path = os.fspath(path)
        self._lock = threading.RLock()
        if Path(self.path).is_dir():
            raise LiminalError(f"{self.path} is a folder. Give a file in it, such as {self.path}/affect.db.")
        if not Path(self.path).parent.is_dir():
            raise FileNotFoundError(
                f"There is no folder {Path(self.path).parent} for the affect memory. Make it first."
            )
        self._connection = sqlite3.connect(
            self.path, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._connection.execute("PRAGMA secure_delete = ON")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            for table in _TABLES:
                self._connection.execute(table)
            self._check_model()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise LiminalError(f"{self.path} is no affect memory ({error}). Give another path.") from error
        except LiminalError:
            self._connection.close()
            raise

    def add(
        self,
        person: str,
        text: str,
        time: float | dt.datetime | None = None,
        rating: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Reads a message, updates its person, and says both.

        Args:
            person: who wrote it, any name that is not empty.
            text: the message.
            time: a datetime, or seconds since 1970, not before the person's last message. None is now, or the time of
                that last message where it is later, as after a clock was put back.
            rating: how the person says it felt, by target, in label units; any of the targets.

        Returns:
            The model's row; `adjusted`, the answer by target for this person, by their earlier ratings; `state` after
            it, as in `state`. A text that can't be read changes nothing: its row has an `error`.

        Raises:
            LiminalError: a time before the person's last message, a text that is neither a string nor None, a rating
                of an unknown target, or one that is no number within the labels.
        """
        return self.add_many([{"person": person, "text": text, "time": time, "rating": rating}])[0]

    def add_many(self, messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """As `add`, for several messages in their order: one reading of the model, one transaction.

        All of them are added or none.

        Args:
            messages: mappings with `person`, `text`, and where wanted `time`, `rating`; also `prediction`, an answer
                for each target that was read before, instead of `text`.

        Returns:
            A row per message.
        """
        items = [self._checked(message) for message in messages]
        ratings = torch.cat([torch.empty(0, len(self.targets), dtype=torch.float64), *map(self._rating, items)])
        unread = [item for item in items if item.get("prediction") is None]
        answers = iter(self._read([item["text"] for item in unread])) if unread else iter(())
        rows = [
            dict(next(answers)) if item.get("prediction") is None else {"error": None, **item["prediction"]}
            for item in items
        ]
        predictions = torch.tensor(
            [[math.nan if row.get(name) is None else row[name] for name in self.targets] for row in rows],
            dtype=torch.float64,
        ).reshape(len(rows), len(self.targets))
        ratings = ratings.masked_fill(predictions.isnan(), math.nan)  # of a text that could not be read
        times = torch.tensor([item["time"] for item in items], dtype=torch.float64)  # NaN for now
        with self._transaction():
            people = list(dict.fromkeys(item["person"] for item in items))
            known = self._load(people)
            where = {person: index for index, person in enumerate(people)}
            for turn in _turns([where[item["person"]] for item in items]):
                who = torch.tensor([where[items[index]["person"]] for index in turn])
                before = known.rows(who)
                # Now is known here alone, where no other message of the person can come between.
                times[turn] = torch.where(times[turn].isnan(), before.time.clamp_min(_days(None)), times[turn])
                adjusted = before.adjust(predictions[turn], self.prior)[0].clamp(*self._span)
                try:
                    after = before.observe(predictions[turn], ratings[turn], times[turn])
                except LiminalError as error:
                    raise LiminalError(f"{self._late(before, times[turn], items, turn)} ({error})") from None
                states = self._describe(after, times[turn])
                for place, index in enumerate(turn):
                    values = zip(self.targets, adjusted[place].tolist(), strict=True)
                    rows[index]["adjusted"] = {name: None if math.isnan(value) else value for name, value in values}
                    rows[index]["state"] = states[place]
                for name, value in known.items():
                    value[who] = after[name]
            self._store(people, known)
        for item, row, time in zip(items, rows, times.tolist(), strict=True):
            row |= {"person": item["person"], "time": round(time * _SECONDS_PER_DAY, 3)}
        return rows

    def rate(self, person: str, rating: Mapping[str, float]) -> dict[str, Any]:
        """Takes note of how a person says that their last message felt, and gives their state.

        Where that message has a rating already, the new one takes its place.

        Raises:
            LiminalError: the person is not known; a rating of an unknown target, or no number within the labels.
        """
        with self._transaction():
            memory = self.memory(person)
            if memory is None:
                raise LiminalError(f"{person!r} is not known. A rating belongs to a message: add one first.")
            values = rating_row(rating, self._all_trained(), self._span)
            memory = memory.rate(memory.last, values)
            self._store([person], memory)
        return self._describe(memory, memory.time)[0]

    def state(self, person: str, at: float | dt.datetime | None = None) -> dict[str, Any] | None:
        """What is known of a person at a moment; None where the person is not known.

        Args:
            person: the name.
            at: a datetime, or seconds since 1970, not before the last message; None is now.

        Returns:
            `turns`; `time` of the last message; and per target `ratings`, the usual `level`, `offset` (how far from
            what the texts say), `last`, `now` (what is expected at that moment), and the ends of its 80% interval,
            `low` and `high`.

        Raises:
            LiminalError: a moment before the last message.
        """
        with self._lock:
            memory = self.memory(person)
        if memory is None:
            return None
        last = float(memory.time[0])
        if at is not None and _days(at) < last:
            raise LiminalError(f"The last message of {person!r} is later than that. What was before is not kept.")
        return self._describe(memory, max(_days(at), last))[0]

    def memory(self, person: str) -> PersonMemory | None:
        """All that is kept of a person, as a `PersonMemory` of one row (`save` makes a file of it); None if unknown."""
        with self._lock:
            found = self._connection.execute("SELECT state FROM persons WHERE person = ?", (person,)).fetchone()
        return None if found is None else PersonMemory.from_bytes(found[0], f"The row of {person!r} in {self.path}")

    def persons(self) -> list[str]:
        """The names, sorted."""
        with self._lock:
            return [name for (name,) in self._connection.execute("SELECT person FROM persons ORDER BY person")]

    def __len__(self) -> int:
        with self._lock:
            return int(self._connection.execute("SELECT count(*) FROM persons").fetchone()[0])

    def __contains__(self, person: object) -> bool:
        return isinstance(person, str) and self.memory(person) is not None

    def delete(self, person: str) -> bool:
        """Forgets a person: no byte of the row is left in the file or in the log beside it. True where there was one.

        The whole file is written anew for that, also where there was no such row (an earlier deletion may have been
        held up), so it takes longer than everything else.

        Raises:
            LiminalError: another process is using the file, so that it can't be emptied yet; the message says whether
                the row is deleted, and to delete again.
        """
        with self._lock:
            done = "is not deleted"
            try:
                count = self._connection.execute("DELETE FROM persons WHERE person = ?", (person,)).rowcount
                done = "is deleted, but bytes of the row may be left"
                self._connection.execute("VACUUM")
                busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if busy:
                    raise sqlite3.OperationalError("its log is being read")
            except sqlite3.OperationalError as error:
                raise LiminalError(
                    f"{person!r} {done}: another process uses {self.path} ({error}). Delete again when that ends."
                ) from error
        return bool(count)

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> "AffectMemory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One writer at a time, in this process and among all."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _check_model(self) -> None:
        """Raises where the file is of a model with other labels; writes down those of this one where there are none."""
        mine = {"targets": self.targets, "label_range": list(self._span)}
        found = self._connection.execute("SELECT state FROM persons LIMIT 1").fetchone()
        if found and PersonMemory.from_bytes(found[0], self.path).count.shape[1] != len(self.targets):
            raise LiminalError(f"{self.path} was made with other targets than {', '.join(self.targets)}.")
        written = "SELECT value FROM meta WHERE name = 'labels'"
        if self._connection.execute(written).fetchone() is None:
            self._connection.execute("INSERT OR IGNORE INTO meta VALUES ('labels', ?)", (json.dumps(mine),))
        theirs = json.loads(self._connection.execute(written).fetchone()[0])
        if theirs != mine:
            raise LiminalError(
                f"{self.path} was made with the targets {', '.join(theirs['targets'])} in {theirs['label_range']}, and "
                f"this model has {', '.join(self.targets)} in {mine['label_range']}. Give another path, or that model."
            )

    def _checked(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The message with its time in days, NaN for now."""
        if not isinstance(message, Mapping):
            raise LiminalError(f"A message is a mapping with 'person' and 'text', got {type(message).__name__}.")
        person, text, prediction = message.get("person"), message.get("text"), message.get("prediction")
        if not isinstance(person, str) or not person:
            raise LiminalError(f"A person is a name that is not empty, got {person!r}.")
        if prediction is None and "text" not in message:
            raise LiminalError(f"A message of {person!r} has no 'text'. It has: {', '.join(map(repr, message))}.")
        if not isinstance(text, str | None):
            raise LiminalError(f"The text of a message is a string, or None, got {type(text).__name__} {text!r:.40}.")
        if prediction is not None:
            self._check_prediction(prediction)
        return {
            **message,
            "person": person,
            "time": math.nan if message.get("time") is None else _days(message["time"]),
        }

    def _check_prediction(self, prediction: Any) -> None:
        """Raises unless it has a number for each target that the model answers; None for one that it does not."""
        low, high = self._span
        names = prediction if isinstance(prediction, Mapping) else {}
        values = [prediction[name] for name in self._trained if name in names]
        values += [prediction[name] for name in names if name not in self._trained and prediction[name] is not None]
        if (
            not set(self._trained) <= set(names) <= set(self.targets)
            or not all(isinstance(value, Real) and not isinstance(value, bool) for value in values)
            or not all(low <= value <= high for value in values)
        ):
            raise LiminalError(
                f"A prediction has a number between {low:g} and {high:g} for each of {', '.join(self._trained)}, and "
                f"nothing else; got {prediction!r:.200}."
            )

    def _load(self, people: Sequence[str]) -> PersonMemory:
        """The states of these persons, a row each."""
        nobody = PersonMemory.empty(1, len(self.targets))
        found = [self.memory(person) or nobody for person in people]
        if not found:
            return PersonMemory.empty(0, len(self.targets))
        return PersonMemory(**{name: torch.cat([one[name] for one in found]) for name in PERSON_FIELDS})

    def _store(self, people: Sequence[str], memory: PersonMemory) -> None:
        """Writes the rows of those who have one."""
        rows = [
            (person, memory.rows(torch.tensor([index])).to_bytes())
            for index, person in enumerate(people)
            if int(memory.turn[index])
        ]
        self._connection.executemany("INSERT OR REPLACE INTO persons VALUES (?, ?)", rows)

    def _rating(self, item: Mapping[str, Any]) -> Tensor:
        return rating_row(item.get("rating"), self._all_trained(), self._span)

    def _all_trained(self) -> list[str]:
        """The targets, where one that can't be rated has no name."""
        return [name if name in self._trained else "" for name in self.targets]

    def _late(self, before: PersonMemory, times: Tensor, items: list[dict[str, Any]], turn: list[int]) -> str:
        """Whose message came too late."""
        late = [items[index]["person"] for place, index in enumerate(turn) if times[place] < before.time[place]]
        return f"A message of {late[0]!r} is older than their last one" if late else "A message can't be added"

    def _describe(self, memory: PersonMemory, at: Any) -> list[dict[str, Any]]:
        """States for people, a row each."""
        known = memory.turn > 0
        at = torch.as_tensor(at, dtype=torch.float64).expand_as(memory.time)
        forecast = memory.forecast(self.prior, torch.where(known, torch.maximum(at, memory.time), at))
        columns = {
            "ratings": memory.count,
            "level": memory.level(self.prior).clamp(*self._span),
            "offset": memory.offset(self.prior),
            "last": memory.last,
            "now": forecast.mean.clamp(*self._span),
            "low": forecast.low.clamp(*self._span),
            "high": forecast.high.clamp(*self._span),
        }
        plain = {name: value.tolist() for name, value in columns.items()}
        turns, times = memory.turn.tolist(), (memory.time * _SECONDS_PER_DAY).tolist()
        return [
            {
                "turns": turns[row],
                "time": round(times[row], 3) if turns[row] else None,
                **{
                    target: {name: values[row][index] for name, values in plain.items()}
                    for index, target in enumerate(self.targets)
                    if target in self._trained
                },
            }
            for row in range(len(turns))
        ]


def _rows_of(reader: Any, targets: Sequence[str]) -> Callable[[list[str]], list[dict[str, Any]]]:
    """A function from texts to rows, of a pipeline or a `Scorer`."""
    if not hasattr(reader, "score"):
        return lambda texts: reader(list(texts), batch_size=32)

    def rows(texts: list[str]) -> list[dict[str, Any]]:
        found = reader.score(list(texts)).to_pylist()
        for row in found:
            row["uncertainty"] = {name: row.pop(f"uncertainty_{name}") for name in targets}
        return found

    return rows


def _days(time: float | dt.datetime | None) -> float:
    if isinstance(time, dt.datetime):
        time = time.timestamp()
    elif time is None:
        time = clock.time()
    if isinstance(time, bool) or not isinstance(time, int | float) or not math.isfinite(time):
        raise LiminalError(f"A time is a datetime or seconds since 1970, got {time!r}.")
    return time / _SECONDS_PER_DAY


def _turns(people: Sequence[int]) -> list[list[int]]:
    """The messages that are each person's first, second, ...

    Example:
        >>> _turns([7, 7, 3, 7])
        [[0, 2], [1], [3]]
    """
    turns: list[list[int]] = []
    begun: dict[int, int] = {}
    for index, person in enumerate(people):
        place = begun.get(person, 0)
        if place == len(turns):
            turns.append([])
        turns[place].append(index)
        begun[person] = place + 1
    return turns
