"""Chat messages, and the state of a conversation that a caller keeps: what is remembered of each speaker.

Requires torch and safetensors, which transformers brings. A speaker's memory holds that speaker's turns alone.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize

from .memory import ConversationMemory

_FIELDS = ("slots", "count", "turn", "pad")


class ConversationState(dict[str, ConversationMemory]):
    """A conversation so far: speaker -> `ConversationMemory` of one row, and how many turns were read.

    A pipeline never changes a state that it was given; the row of each turn holds the new one. It stays empty for a
    head without memory, apart from the number of turns.

    Args:
        memories: speaker -> memory.
        turns: turns read so far, of all speakers.

    Example:
        >>> state = ConversationState({"user": ConversationMemory.empty(1, 4, 8)}, turns=1)
        >>> state, state["user"].slots.shape
        (ConversationState(turns=1, remembered={'user': 0}), torch.Size([1, 4, 8]))
    """

    def __init__(self, memories: Mapping[str, ConversationMemory] | None = None, turns: int = 0) -> None:
        super().__init__(memories or {})
        self.turns = turns

    def __repr__(self) -> str:
        remembered = ", ".join(f"{speaker!r}: {int(memory.turn[0])}" for speaker, memory in self.items())
        return f"ConversationState(turns={self.turns}, remembered={{{remembered}}})"

    def after(self, speaker: str, memory: ConversationMemory | None) -> "ConversationState":
        """The state after one more turn, which left `memory` (of one row; None for a head without one) behind."""
        changed = {} if memory is None else {speaker: memory}
        return ConversationState({**self, **changed}, self.turns + 1)

    def save(self, path: str | os.PathLike) -> None:
        """Writes one safetensors file; the speakers' names are in its header.

        Raises:
            OSError: the file could not be written.

        Example:
            >>> import tempfile
            >>> path = tempfile.mkdtemp() + "/state.safetensors"
            >>> ConversationState({"user": ConversationMemory.empty(1, 4, 8)}, turns=1).save(path)
            >>> ConversationState.load(path)["user"].slots.shape
            torch.Size([1, 4, 8])
        """
        tensors = {
            f"{index}.{name}": memory[name].detach().cpu().contiguous()
            for index, memory in enumerate(self.values())
            for name in _FIELDS
        }
        metadata = {"format": "pt", "speakers": json.dumps(list(self)), "turns": str(self.turns)}
        temporary = f"{os.fspath(path)}.part"
        with open(temporary, "wb") as file:
            file.write(serialize(tensors, metadata=metadata))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ConversationState":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no safetensors, or not of a conversation.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"There is no conversation saved at {os.fspath(path)}.")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            speakers = json.loads(metadata["speakers"])
            return cls(
                {
                    speaker: ConversationMemory(**{name: tensors[f"{index}.{name}"] for name in _FIELDS})
                    for index, speaker in enumerate(speakers)
                },
                turns=int(metadata["turns"]),
            )
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{os.fspath(path)} does not hold a conversation (ConversationState.save writes one): {error}"
            ) from error


@dataclass
class Turn:
    """One message: its text, whose memory it reads and writes, and the role that it came with (or None)."""

    text: str
    speaker: str
    role: str | None


def looks_like_chat(inputs: Any) -> bool:
    """Whether the input is a message, a conversation or several, rather than a text or several.

    Example:
        >>> looks_like_chat([{"role": "user", "content": "Hi"}]), looks_like_chat(["Hi"])
        (True, False)
    """
    if isinstance(inputs, Mapping):
        return True
    return isinstance(inputs, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in inputs)


def read_message(message: Any, where: str) -> Turn:
    """Checks one chat message.

    Args:
        message: `{"role": ..., "content": text}`; `speaker` says whose memory it is where several share a role. The
            content may also be a list of parts, `[{"type": "text", "text": ...}]`.
        where: what an error calls it.

    Raises:
        ValueError: neither `role` nor `speaker` is given, or the content is no text.

    Example:
        >>> read_message({"role": "user", "speaker": "Ada", "content": "Good morning"}, "Message 0")
        Turn(text='Good morning', speaker='Ada', role='user')
    """
    if not isinstance(message, Mapping):
        raise ValueError(
            f"{where} must be a dict with 'role' and 'content', got {type(message).__name__}: {str(message)[:40]!r}."
        )
    names = {key: message[key] for key in ("role", "speaker") if message.get(key) is not None}
    if not names or not all(isinstance(name, str) and name for name in names.values()):
        raise ValueError(
            f"{where} must say who speaks: 'role' (such as 'user' or 'assistant') or 'speaker', a string; got {names}."
        )
    if "content" not in message:
        raise ValueError(f"{where} has no 'content'. It has: {', '.join(map(repr, message))}.")
    text = message["content"]
    if isinstance(text, list):
        parts = [part.get("text") if isinstance(part, Mapping) else None for part in text]
        if not all(isinstance(part, str) for part in parts):
            raise ValueError(f"{where} has parts that are no text; only text can be read.")
        text = "\n".join(parts)
    return Turn(text, names.get("speaker") or names["role"], names.get("role"))


def stack(memories: Iterable[ConversationMemory]) -> ConversationMemory:
    """Memories of one row each as the rows of one.

    Example:
        >>> stack([ConversationMemory.empty(1, 4, 8)] * 3).slots.shape
        torch.Size([3, 4, 8])
    """
    memories = list(memories)
    return ConversationMemory(**{name: torch.cat([memory[name] for memory in memories]) for name in _FIELDS})
