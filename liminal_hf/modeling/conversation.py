"""Chat messages, and the state of a conversation that a caller keeps: what is remembered of each speaker.

Requires torch and safetensors, which transformers brings. A speaker's memory holds that speaker's turns alone.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize

from .errors import LiminalError
from .files import atomic_write
from .memory import MEMORY_FIELDS, ConversationMemory
from .person_prior import PersonPrior
from .persons import PERSON_FIELDS, PersonMemory, rating_row
from .texts import text_error

# Instructions and the results of tools: no person says them.
UNREAD_ROLES = ("system", "developer", "tool", "function")


class ConversationState(dict[str, ConversationMemory]):
    """A conversation so far: speaker -> `ConversationMemory` of one row, and how many turns were read.

    A pipeline never changes a state that it was given; the row of each turn holds the new one. It stays empty for a
    head without memory, apart from the number of turns.

    Args:
        memories: speaker -> memory.
        turns: turns read so far, of all speakers.
        rows: speaker -> what a program wants to keep of that speaker's last rows, plain values for JSON; the model
            does not read it. `liminal chat` keeps the last three, for trends.
        persons: speaker -> `PersonMemory` of one row, of those whose messages carry a rating or a time.
        labels: `targets` and `label_range` of the model that read the turns of `persons`; another one is refused.

    Example:
        >>> state = ConversationState({"user": ConversationMemory.empty(1, 4, 8)}, turns=1)
        >>> state, state["user"].slots.shape
        (ConversationState(turns=1, remembered={'user': 0}), torch.Size([1, 4, 8]))
    """

    def __init__(
        self,
        memories: Mapping[str, ConversationMemory] | None = None,
        turns: int = 0,
        rows: Mapping[str, list[dict[str, Any]]] | None = None,
        persons: Mapping[str, PersonMemory] | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(memories or {})
        self.turns = turns
        self.rows = dict(rows or {})
        self.persons = dict(persons or {})
        self.labels = None if labels is None else dict(labels)

    def __repr__(self) -> str:
        remembered = ", ".join(f"{speaker!r}: {int(memory.turn[0])}" for speaker, memory in self.items())
        return f"ConversationState(turns={self.turns}, remembered={{{remembered}}})"

    def after(
        self, speaker: str, memory: ConversationMemory | None, person: PersonMemory | None = None
    ) -> "ConversationState":
        """The state after one more turn, which left `memory` (of one row; None for a head without one) behind."""
        changed = {} if memory is None else {speaker: memory}
        persons = self.persons if person is None else {**self.persons, speaker: person}
        return ConversationState({**self, **changed}, self.turns + 1, self.rows, persons, self.labels)

    def to_bytes(self) -> bytes:
        """The state as one safetensors file in memory; the speakers' names are in its header.

        Example:
            >>> state = ConversationState({"user": ConversationMemory.empty(1, 4, 8)}, turns=1)
            >>> ConversationState.from_bytes(state.to_bytes())
            ConversationState(turns=1, remembered={'user': 0})
        """
        tensors = {
            f"{index}.{name}": memory[name].detach().cpu().contiguous()
            for index, memory in enumerate(self.values())
            for name in MEMORY_FIELDS
        }
        metadata = {"format": "pt", "speakers": json.dumps(list(self)), "turns": str(self.turns)}
        if self.persons:
            metadata |= {"persons": json.dumps(list(self.persons)), "labels": json.dumps(self.labels)}
            tensors |= {
                f"person.{index}.{name}": person[name].detach().cpu().contiguous()
                for index, person in enumerate(self.persons.values())
                for name in PERSON_FIELDS
            }
        if self.rows:
            metadata["rows"] = json.dumps(self.rows)
        return serialize(tensors, metadata=metadata)

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "The content") -> "ConversationState":
        """Reads what `to_bytes` gave.

        Args:
            content: the bytes.
            name: what an error calls them.

        Raises:
            LiminalError: these bytes are no safetensors, or not of a conversation.
        """
        try:
            tensors = deserialize(content)
            length = int.from_bytes(content[:8], "little")
            metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
            memories = {
                speaker: ConversationMemory(**{field: tensors[f"{index}.{field}"] for field in MEMORY_FIELDS})
                for index, speaker in enumerate(json.loads(metadata["speakers"]))
            }
            persons = {
                speaker: PersonMemory(**{field: tensors[f"person.{index}.{field}"] for field in PERSON_FIELDS})
                for index, speaker in enumerate(json.loads(metadata.get("persons", "[]")))
            }
            rows, labels = json.loads(metadata.get("rows", "{}")), json.loads(metadata.get("labels", "null"))
            return cls(memories, int(metadata["turns"]), rows, persons, labels)
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise LiminalError(
                f"{name} does not hold a conversation (ConversationState.save writes one): {error}"
            ) from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes one safetensors file, whole or not at all, also where several write the same one.

        Raises:
            OSError: the file could not be written.

        Example:
            >>> import tempfile
            >>> path = tempfile.mkdtemp() + "/state.safetensors"
            >>> ConversationState({"user": ConversationMemory.empty(1, 4, 8)}, turns=1).save(path)
            >>> ConversationState.load(path)["user"].slots.shape
            torch.Size([1, 4, 8])
        """
        with atomic_write(Path(path)) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ConversationState":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            LiminalError: the file is no safetensors, or not of a conversation.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no conversation saved at {os.fspath(path)}.")
        return cls.from_bytes(Path(path).read_bytes(), os.fspath(path))

    def to_dict(self) -> dict[str, Any]:
        """The state as plain values for JSON; `from_dict` reads them back, bit by bit.

        Example:
            >>> state = ConversationState({"user": ConversationMemory.empty(1, 4, 8)}, turns=1)
            >>> ConversationState.from_dict(json.loads(json.dumps(state.to_dict())))
            ConversationState(turns=1, remembered={'user': 0})
        """
        speakers = {
            speaker: {name: memory[name].detach().cpu().tolist() for name in MEMORY_FIELDS}
            for speaker, memory in self.items()
        }
        persons = {
            speaker: {name: person[name].tolist() for name in PERSON_FIELDS} for speaker, person in self.persons.items()
        }
        return {
            "turns": self.turns,
            "speakers": speakers,
            "rows": self.rows,
            **({"persons": persons, "labels": self.labels} if persons else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ConversationState":
        """Reads what `to_dict` gave; floating-point values become float32.

        Raises:
            LiminalError: this is no conversation.
        """
        try:
            memories = {
                speaker: ConversationMemory(**{name: torch.tensor(memory[name]) for name in MEMORY_FIELDS})
                for speaker, memory in values["speakers"].items()
            }
            persons = {speaker: PersonMemory.of_lists(one) for speaker, one in values.get("persons", {}).items()}
            return cls(memories, int(values["turns"]), values.get("rows"), persons, values.get("labels"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LiminalError(
                f"This does not hold a conversation (ConversationState.to_dict gives one): {error!r}"
            ) from error


class TurnRow(dict[str, Any]):
    """A turn's row whose `memory` is an attribute, so that `json.dumps(row)` works; `row["memory"]` gives it, too.

    Example:
        >>> row = TurnRow({"turn": 0}, ConversationState(turns=1))
        >>> json.dumps(row), row["memory"]
        ('{"turn": 0}', ConversationState(turns=1, remembered={}))
    """

    def __init__(self, values: Mapping[str, Any], memory: ConversationState) -> None:
        super().__init__(values)
        self.memory: ConversationState = memory

    def __missing__(self, key: str) -> Any:
        if key == "memory":
            return self.memory
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return key == "memory" or super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As in a dict, `memory` included."""
        return self.memory if key == "memory" else super().get(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        """As in a dict; `memory` is given and stays."""
        return self.memory if key == "memory" else super().pop(key, *default)


@dataclass
class Turn:
    """One message: its text, whose memory it reads and writes, its role (or None), and why it can't be read.

    `pad` is how the speaker rates it, by target; `time` is when it was said.
    """

    text: str | None
    speaker: str
    role: str | None
    error: str | None = None
    pad: dict[str, float] | None = None
    time: float | None = None


def is_message(item: Any) -> bool:
    """Whether something is meant as a chat message: a mapping that is not just `{"text": ...}`.

    Example:
        >>> is_message({"role": "user", "content": "Hi"}), is_message({"text": "Hi"}), is_message("Hi")
        (True, False, False)
    """
    return isinstance(item, Mapping) and ("text" not in item or any(name in item for name in ("role", "content")))


def looks_like_chat(inputs: Any) -> bool:
    """Whether the input is a message, a conversation or several, rather than a text or several: its first item tells.

    Example:
        >>> looks_like_chat([{"role": "user", "content": "Hi"}]), looks_like_chat(["Hi"])
        (True, False)
    """
    if isinstance(inputs, list | tuple):
        first = next((item for item in inputs if item is not None), None)
        return is_message(first) or isinstance(first, list | tuple)
    return is_message(inputs)


def read_message(message: Any, where: str, roles: Iterable[str] | None = None) -> Turn:
    """One chat message as a turn.

    Args:
        message: `{"role": ..., "content": text}`, as in OpenAI's interface and the chat templates of transformers. The
            speaker, whose memory it reads and writes, is `speaker`, else `name`, else the role. The content may be a
            list of parts (`[{"type": "text", "text": ...}]`): parts without a text, such as images, are left out. `pad`
            may hold the speaker's own rating, by target, in label units: `{"pleasure": 0.5}`; `time` a number.
        where: what an error calls it.
        roles: whose messages are read; None reads all but `UNREAD_ROLES`, which no person writes.

    Returns:
        A turn with an `error` where the message has no text (a tool call), or its role is not read.

    Raises:
        LiminalError: it is no message: no mapping, without `role` and speaker, or without `content`; a rating or a time
            that is none.

    Example:
        >>> read_message({"role": "user", "name": "Ada", "content": "Good morning"}, "Message 0")
        Turn(text='Good morning', speaker='Ada', role='user', error=None, pad=None, time=None)
    """
    if not isinstance(message, Mapping):
        raise LiminalError(
            f"{where} must be a dict with 'role' and 'content', got {type(message).__name__}: {str(message)[:40]!r}."
        )
    names = {key: message[key] for key in ("role", "name", "speaker") if message.get(key) is not None}
    if not names or not all(isinstance(name, str) and name for name in names.values()):
        raise LiminalError(
            f"{where} must say who speaks: 'role' (such as 'user' or 'assistant') or 'speaker', a string; got {names}."
        )
    text = message.get("content")
    if "content" not in message and not message.keys() & {"tool_calls", "function_call"}:
        raise LiminalError(f"{where} has no 'content'. It has: {', '.join(map(repr, message))}.")
    role = names.get("role")
    error = None
    if role is not None and (role in UNREAD_ROLES if roles is None else role not in roles):
        error = f"role {role!r} is not read"
    elif isinstance(text, list | tuple):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in text]
        text = "\n".join(part for part in parts if isinstance(part, str))
        error = text_error(text) if text else "no text (no part of the content is a text)"
    else:
        error = text_error(text)
    speaker = names.get("speaker") or names.get("name") or names["role"]
    rating, time = message.get("pad"), message.get("time")
    if rating is not None and not (isinstance(rating, Mapping) and all(map(_is_number, rating.values()))):
        raise LiminalError(f"{where}: 'pad' is the speaker's rating by target, {{'pleasure': 0.5}}; got {rating!r}.")
    if time is not None and not _is_number(time):
        raise LiminalError(f"{where}: 'time' is a number, such as days or seconds since some moment; got {time!r}.")
    return Turn(text, speaker, role, error, None if rating is None else dict(rating), time)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_messages(messages: Iterable[Any], where: str, config: Any, roles: Iterable[str] | None = None) -> list[Turn]:
    """The turns of a conversation, as `read_message` reads each.

    Args:
        messages: of one conversation.
        where: what an error calls them; a message's number follows.
        config: the model's.
        roles: whose messages are read.

    Raises:
        LiminalError: one is no message, or its rating is of a target that the model does not have, or outside of its
            labels.
    """
    turns = [read_message(message, f"{where} {position}", roles) for position, message in enumerate(messages)]
    trained = [name for name, is_trained in zip(config.targets, config.trained_targets, strict=True) if is_trained]
    for position, turn in enumerate(turns):
        try:
            rating_row(turn.pad, trained, config.label_range)
        except LiminalError as error:
            raise LiminalError(f"{where} {position}: {error}") from None
    return turns


def check_times(conversations: Sequence[Sequence[Turn]], states: Sequence[ConversationState], several: bool) -> None:
    """Raises where a speaker's times go backwards, before anything is read.

    Args:
        conversations: the turns of each.
        states: what was before each.
        several: whether the caller gave several conversations, so that an error says in which.

    Raises:
        LiminalError: a turn is earlier than the last one of its speaker.
    """
    for index, (turns, state) in enumerate(zip(conversations, states, strict=True)):
        persons = getattr(state, "persons", {})
        last = {speaker: float(person.time[0]) for speaker, person in persons.items() if int(person.turn[0])}
        counted = set(persons)  # whose turns are one later each, where no time is given
        for position, turn in enumerate(turns):
            if turn.error is not None:
                continue
            counted |= {turn.speaker} if turn.pad is not None or turn.time is not None else set()
            before = last.get(turn.speaker)
            if turn.time is not None and before is not None and turn.time < before:
                where = f"Conversation {index}, message" if several else "Message"
                raise LiminalError(
                    f"{where} {position}: a turn at time {turn.time:.15g} after one at {before:.15g} of "
                    f"{turn.speaker!r}. Give the messages of a speaker in the order of their times."
                )
            if turn.time is not None:
                last[turn.speaker] = turn.time
            elif turn.speaker in counted:
                last[turn.speaker] = 0.0 if before is None else before + 1


def labels_of(config: Any) -> dict[str, Any]:
    """What ratings of one model must share with those of another.

    Example:
        >>> from types import SimpleNamespace
        >>> labels_of(SimpleNamespace(targets=("valence",), label_range=(1, 9)))
        {'targets': ['valence'], 'label_range': [1.0, 9.0]}
    """
    return {"targets": list(config.targets), "label_range": list(map(float, config.label_range))}


def check_persons(state: ConversationState, config: Any, where: str = "The conversation") -> None:
    """Raises where the persons of a state are those of a model with other targets, or another range of labels.

    Raises:
        LiminalError: they are.
    """
    mine, theirs = labels_of(config), getattr(state, "labels", None)
    persons = getattr(state, "persons", {})
    sizes = {int(person.count.shape[-1]) for person in persons.values()}
    if persons and (sizes != {len(config.targets)} or theirs not in (None, mine)):
        before = f"{', '.join(theirs['targets'])} in {theirs['label_range']}" if theirs else f"{max(sizes)} targets"
        raise LiminalError(
            f"{where} holds ratings of another model: of {before}, and this one has {', '.join(mine['targets'])} in "
            f"{mine['label_range']}. Start a new conversation, or take that model."
        )


def after_turn(
    turn: Turn, row: Mapping[str, Any], person: PersonMemory | None, config: Any, prior: PersonPrior | None = None
) -> tuple[dict[str, float | None] | None, PersonMemory | None]:
    """What a turn's answer is for its speaker, by their earlier ratings, and the speaker's state after it.

    Args:
        turn: the turn, with its rating, if there is one.
        row: the model's answer.
        person: the speaker's state before, or None for one whose turns had neither a rating nor a time.
        config: the model's.
        prior: what is known of persons; None is `PersonPrior.of_model(config)`.

    Returns:
        By target, the adjusted answer, or None without an earlier rating; and the state, or None without one.
    """
    if person is None and turn.pad is None and turn.time is None:
        return None, None
    low, high = config.label_range
    values = [math.nan if row[name] is None else row[name] for name in config.targets]
    prediction = torch.tensor([values], dtype=torch.float64)
    person = PersonMemory.empty(1, len(values)) if person is None else person
    adjusted = None
    if bool(person.count.any()):
        answer = person.adjust(prediction, prior or PersonPrior.of_model(config))[0].clamp(low, high)[0].tolist()
        adjusted = {
            name: None if math.isnan(value) else value for name, value in zip(config.targets, answer, strict=True)
        }
    return adjusted, person.observe(prediction, rating_row(turn.pad, config.targets, config.label_range), turn.time)


def checked_states(memory: Any, number: int, several: bool, config: Any, has_memory: bool) -> list[ConversationState]:
    """A state per conversation, from what a caller of a pipeline gave as `memory`.

    Args:
        memory: a state, a list of one for each conversation, or None, True and False for new ones.
        number: of conversations.
        several: whether the caller gave several conversations.
        config: the model's.
        has_memory: whether its head has a memory.

    Raises:
        LiminalError: there are more states or fewer, or one is of another model.
    """
    if memory is None or isinstance(memory, bool):
        return [ConversationState() for _ in range(number)]
    states = list(memory) if several and isinstance(memory, list | tuple) else [memory]
    # By what it has and not by its class: code that came with a checkpoint has a class of its own.
    if len(states) != number or not all(hasattr(state, "turns") and hasattr(state, "after") for state in states):
        raise LiminalError(
            f"memory must be a ConversationState{f' for each of the {number} conversations' if several else ''}: "
            "the `memory` of the last row, ConversationState.load(path), or True to start anew. Got "
            f"{[type(state).__name__ for state in states][:5]}."
        )
    for index, state in enumerate(states):
        check_persons(state, config, f"The memory of conversation {index}")
        for speaker, remembered in state.items():
            try:
                if not has_memory:
                    raise ValueError(f"head {config.head!r} has no memory.")
                remembered.check(1, config.memory_slots, config.latent_size, config.num_labels)
            except ValueError as error:
                raise LiminalError(
                    f"The memory of {speaker!r} in conversation {index} is not this model's: {error}"
                ) from None
    return states


def stack(memories: Iterable[ConversationMemory]) -> ConversationMemory:
    """Memories of one row each as the rows of one.

    Example:
        >>> stack([ConversationMemory.empty(1, 4, 8)] * 3).slots.shape
        torch.Size([3, 4, 8])
    """
    memories = list(memories)
    return ConversationMemory(**{name: torch.cat([memory[name] for memory in memories]) for name in MEMORY_FIELDS})
