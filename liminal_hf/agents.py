"""A server of the Model Context Protocol: what agents ask about texts, conversations and persons.

Requires torch, transformers and the extra `mcp`. What is known of persons is kept in an `AffectMemory`, and no text.
"""

import time as clock
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ._version import __version__
from .modeling.errors import LiminalError
from .scoring.affect_memory import AffectMemory

_INSTALL = "An MCP server needs one more package: pip install 'liminal_hf[mcp]'"
# What one call may ask of the machine.
MAX_CHARACTERS, MAX_MESSAGES, MAX_NAME = 20_000, 200, 200
# What costs an agent tokens and tells it nothing: see `PADRegressionPipeline` for the whole row.
_LEFT_OUT = ("confidence", "percentile", "windows")
_SECONDS_PER_HOUR = 3600
# Clocks differ. A message from the far future (milliseconds, for example) would make all later ones too old.
_AHEAD_SECONDS = 86_400
_PLACES = 3

Text = Annotated[str, Field(max_length=MAX_CHARACTERS, description="One text, English: a sentence, a post, a turn.")]
Person = Annotated[str, Field(min_length=1, max_length=MAX_NAME, description="The name under which they are kept.")]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: str = Field(description="Who speaks: user, assistant, ...; system and tool are not read.", min_length=1)
    content: str = Field(description="What is said.", max_length=MAX_CHARACTERS)
    name: str | None = Field(None, description="Tells apart persons that share a role.", min_length=1)


class _Tools:
    """What each tool does; `build` says it to agents."""

    def __init__(self, pipeline: Any, memory: AffectMemory) -> None:
        self.pipeline, self.memory = pipeline, memory

    def read_text(
        self,
        text: Text,
        person: Annotated[Person | None, Field(description="Who wrote it; none: nothing is kept.")] = None,
        time: Annotated[
            float | None, Field(description="When, seconds since 1970, not before their last message; none: now.")
        ] = None,
    ) -> dict[str, Any]:
        if time is not None and not time <= clock.time() + _AHEAD_SECONDS:
            raise LiminalError(f"A time is in seconds since 1970; {time:g} lies in the future. None is this moment.")
        if person is not None:
            return self.memory.add(person, text, time)
        if time is not None:
            raise LiminalError("A time goes with a person: say whose message it is, or leave the time out.")
        return dict(self.pipeline(text))

    def read_conversation(
        self, messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    ) -> dict[str, Any]:
        return {"turns": self.pipeline([message.model_dump(exclude_none=True) for message in messages])}

    def rate(
        self,
        person: Person,
        rating: Annotated[
            dict[str, float], Field(min_length=1, description='For any of the targets, such as {"pleasure": 0.5}.')
        ],
    ) -> dict[str, Any]:
        return self.memory.rate(person, rating)

    def forecast(
        self,
        person: Person,
        hours: Annotated[float, Field(ge=0, le=24 * 365, description="From now on; 0 is now.")] = 0.0,
    ) -> dict[str, Any]:
        found = self.memory.state(person, at=clock.time() + hours * _SECONDS_PER_HOUR if hours else None)
        if found is None:
            raise LiminalError(f"{person!r} is not known. Read a text of theirs first: read_text with person.")
        return found

    def forget(self, person: Person) -> dict[str, Any]:
        return {"forgotten": self.memory.delete(person)}


def build(pipeline: Any, memory: AffectMemory) -> Any:
    """The server with its tools: read_text, read_conversation, rate, forecast, forget.

    Args:
        pipeline: a `pipeline("pad-regression")`.
        memory: where what is known of persons is kept; its reader is that pipeline.

    Returns:
        An `mcp.server.mcpserver.MCPServer`; `run("stdio")` or `run("streamable-http", port=...)` starts it.

    Raises:
        ImportError: the extra is not installed.

    Example:
        >>> import asyncio
        >>> from mcp import Client
        >>> from transformers import pipeline
        >>> import liminal_hf
        >>> pad = pipeline("pad-regression", model=liminal_hf.DEFAULT_CHECKPOINT)
        >>> async def ask(tool, **arguments):
        ...     async with Client(build(pad, AffectMemory(":memory:", pad))) as client:
        ...         return (await client.call_tool(tool, arguments)).structured_content
        >>> asyncio.run(ask("read_text", text="What a lovely surprise!"))["octant"]
        'exuberant'
    """
    try:
        from mcp.server.mcpserver import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.types import ToolAnnotations
    except ImportError as error:
        raise ImportError(f"{_INSTALL} ({error})") from error

    config = pipeline.model.config
    low, high = config.label_range
    scale, targets = f"{low:g}..{high:g}", ", ".join(config.targets)
    row = (
        f"a number in {scale} for each of {targets}; uncertainty (standard deviation, same unit); interval (holds a "
        "reader's rating with 80%); probability (0..1, of being above the middle); verdict in words; octant and "
        "emotions (0..1 each); in_domain (0..1, below 0.5 the text is unlike the training texts: don't use the "
        "numbers); truncated; error (why there are no numbers)"
    )
    state = (
        "turns (how many messages), time (of the last one, seconds since 1970), and for each target level (usual), "
        f"last, now (expected at that moment) with low and high (its 80% interval), all in {scale}, offset (how far "
        "from what the texts say, by the ratings), ratings (how many)"
    )
    server = MCPServer(
        "liminal_hf",
        version=__version__,
        log_level="WARNING",
        instructions=(
            f"Reads {targets} from English text, each in {scale}; most texts lie close to the middle, so a tenth of "
            "the scale from it is a lot. Look at interval and in_domain before you rely on a number. It is what "
            "readers would say of the text: no diagnosis, and no ground for a decision about a person."
        ),
    )

    def add(tool: Callable[..., Any], description: str, **hints: Any) -> None:
        @wraps(tool)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                return _short(tool(*args, **kwargs))
            except LiminalError as error:
                raise ToolError(str(error)) from error

        server.add_tool(call, description=description, annotations=ToolAnnotations(open_world_hint=False, **hints))

    tools = _Tools(pipeline, memory)
    add(
        tools.read_text,
        f"Read one text. Returns {row}. With person, the message is added to what is kept of them (numbers, no text): "
        f"the answer then also has adjusted (corrected by that person's own ratings) and state: {state}.",
        read_only_hint=False,
        destructive_hint=False,
    )
    add(
        tools.read_conversation,
        "Read a conversation turn by turn, each speaker with a memory of their own; nothing is kept. Returns turns, "
        f"for each message in order: turn (0, 1, ...), role, speaker, and {row}.",
        read_only_hint=True,
    )
    add(
        tools.rate,
        f"Take note of how a person says that their last message felt: a number in {scale} for any of {targets}. A "
        f"second rating replaces the first. Later answers follow such ratings. Returns their state: {state}.",
        read_only_hint=False,
        destructive_hint=False,
        idempotent_hint=True,
    )
    add(
        tools.forecast,
        f"What is expected of a person some hours from now. Returns their state: {state}.",
        read_only_hint=True,
    )
    add(
        tools.forget,
        "Forget a person for good: no byte of what was kept of them is left. Returns forgotten: whether there was one.",
        read_only_hint=False,
        destructive_hint=True,
        idempotent_hint=True,
    )
    return server


def _short(value: Any) -> Any:
    """An answer with few digits and without what tells an agent nothing."""
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items() if name not in _LEFT_OUT}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return round(value, _PLACES) if isinstance(value, float) else value
