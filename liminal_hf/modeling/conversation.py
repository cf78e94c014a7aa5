"""Chat messages, and the state of a conversation that a caller keeps: what is remembered of each speaker.

Requires torch and safetensors, which transformers brings. A speaker's memory holds that speaker's turns alone.
"""

import json
import os
from collections.abc import Iterable, Mapping
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
    ) -> None:
        super().__init__(memories or {})
        self.turns = turns
        self.rows = dict(rows or {})

    def __repr__(self) -> str:
        remembered = ", ".join(f"{speaker!r}: {int(memory.turn[0])}" for speaker, memory in self.items())
        return f"ConversationState(turns={self.turns}, remembered={{{remembered}}})"

    def after(self, speaker: str, memory: ConversationMemory | None) -> "ConversationState":
        """The state after one more turn, which left `memory` (of one row; None for a head without one) behind."""
        changed = {} if memory is None else {speaker: memory}
        return ConversationState({**self, **changed}, self.turns + 1, self.rows)

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
            return cls(memories, int(metadata["turns"]), json.loads(metadata.get("rows", "{}")))
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
        return {"turns": self.turns, "speakers": speakers, "rows": self.rows}

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
            return cls(memories, int(values["turns"]), values.get("rows"))
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
    """One message: its text, whose memory it reads and writes, its role (or None), and why it can't be read."""

    text: str | None
    speaker: str
    role: str | None
    error: str | None = None


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
            list of parts (`[{"type": "text", "text": ...}]`): parts without a text, such as images, are left out.
        where: what an error calls it.
        roles: whose messages are read; None reads all but `UNREAD_ROLES`, which no person writes.

    Returns:
        A turn with an `error` where the message has no text (a tool call), or its role is not read.

    Raises:
        LiminalError: it is no message: no mapping, without `role` and speaker, or without `content`.

    Example:
        >>> read_message({"role": "user", "name": "Ada", "content": "Good morning"}, "Message 0")
        Turn(text='Good morning', speaker='Ada', role='user', error=None)
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
    return Turn(text, names.get("speaker") or names.get("name") or names["role"], role, error)


def stack(memories: Iterable[ConversationMemory]) -> ConversationMemory:
    """Memories of one row each as the rows of one.

    Example:
        >>> stack([ConversationMemory.empty(1, 4, 8)] * 3).slots.shape
        torch.Size([3, 4, 8])
    """
    memories = list(memories)
    return ConversationMemory(**{name: torch.cat([memory[name] for memory in memories]) for name in MEMORY_FIELDS})
