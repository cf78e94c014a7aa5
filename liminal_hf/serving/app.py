"""The HTTP interface: /predict, /conversation, /stream, /health, /metrics, with a description in OpenAPI.

Requires fastapi and prometheus_client (`pip install 'liminal_hf[serve]'`); uvicorn runs it, see `liminal serve`.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from .._version import __version__
from ..modeling.conversation import ConversationState
from ..modeling.errors import LiminalError
from ..scoring import Scorer
from .batching import Batcher, Busy
from .metrics import Metrics

_INSTALL = "A server needs more packages: pip install 'liminal_hf[serve]'"
# What one request may ask of the machine that all share.
MAX_BYTES, MAX_TEXTS, MAX_CHARACTERS, MAX_MESSAGES = 1_000_000, 256, 20_000, 200
# Whoever asked is gone: the number that nginx gives to this.
GONE = 499
_CONVERSATIONS_AT_ONCE = 16
_EXAMPLE = '/predict takes {"texts": ["..."]}, /conversation {"messages": [{"role": "user", "content": "..."}]}.'
_BACKLOG, _PATIENCE_SECONDS = 2048, 30

Text = Annotated[Any, WithJsonSchema({"type": ["string", "null"], "maxLength": MAX_CHARACTERS})]


class Texts(BaseModel):
    """Texts to read, each by itself."""

    model_config = ConfigDict(extra="forbid")
    texts: list[Text] = Field(
        max_length=MAX_TEXTS,
        description="One row comes back for each, in this order, also for those without an answer.",
    )


class Messages(BaseModel):
    """A conversation to read turn by turn."""

    model_config = ConfigDict(extra="forbid")
    messages: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        description='{"role": "user", "content": "..."}, in order; also `name`, and `pad` (how it felt) with `time`.',
    )


class Row(BaseModel):
    """An answer; also a number for each target (`pleasure`, `arousal`, `dominance`) on the scale -1..1."""

    model_config = ConfigDict(extra="allow")
    uncertainty: dict[str, float | None] | None = Field(description="Standard deviation by target, in its unit.")
    interval: dict[str, list[float] | None] | None = Field(description="Holds the label with a probability of 80%.")
    probability: dict[str, float | None] | None = Field(description="0..1, of being above the neutral point.")
    verdict: dict[str, str | None] | None
    octant: str | None
    octant_probability: float | None = Field(description="0..1")
    emotions: dict[str, float] | None = Field(description="Words, 0..1 each, the likeliest first.")
    in_domain: float | None = Field(description="0..1; below 0.5 the text is unlike the training texts.")
    percentile: dict[str, float | None] | None = Field(description="0..100, among predictions on training texts.")
    confidence: float | None = Field(description="Goes with the next version.", deprecated=True)
    truncated: bool = Field(description="Whether the end of the text was left out.")
    windows: list[dict[str, Any]] | None = Field(description="The sentences of a text longer than is read at once.")
    error: str | None = Field(description="Why there are no numbers.")


class Rows(BaseModel):
    """Answers, in the order of what was asked."""

    rows: list[Row]


class Problem(BaseModel):
    """Why there is no answer, and what to do."""

    error: str


_PROBLEMS = {413: "too large", 422: "can't be read", 429: "full; Retry-After says when to ask again"}
_RESPONSES: dict[int | str, Any] = {
    200: {"model": Rows},
    **{code: {"model": Problem, "description": what} for code, what in _PROBLEMS.items()},
}


def create_app(
    scorer: Scorer, pipeline: Any = None, *, at_once: int = 64, wait: float = 0.002, room: int = 1024
) -> Any:
    """The application.

    Args:
        scorer: reads the texts of /predict.
        pipeline: a `pipeline("pad-regression")`, reads /conversation and /stream; None leaves those out.
        at_once: most texts in a batch.
        wait: seconds that a batch which is not full waits for more.
        room: most texts, and most conversations, that wait at a time; beyond it the answer is 429 with Retry-After.

    Returns:
        A `fastapi.FastAPI`.

    Raises:
        ImportError: the extra is not installed.
        LiminalError: there is less room than the texts of one request.

    Example:
        >>> from fastapi.testclient import TestClient
        >>> import liminal_hf
        >>> with TestClient(create_app(Scorer(liminal_hf.DEFAULT_CHECKPOINT))) as client:
        ...     answer = client.post("/predict", json={"texts": ["What a lovely surprise!", " "]})
        >>> [(row["octant"], row["error"]) for row in answer.json()["rows"]]
        [('exuberant', None), (None, 'empty')]
    """
    try:
        from fastapi import FastAPI
    except ImportError as error:
        raise ImportError(f"{_INSTALL} ({error})") from error

    if room < MAX_TEXTS:
        raise LiminalError(f"There must be room for the {MAX_TEXTS} texts of one request, got {room}.")
    thread = ThreadPoolExecutor(1, "reader")
    metrics = Metrics()
    options: dict[str, Any] = {"wait": wait, "room": room, "on_batch": metrics.batch}
    texts = Batcher(scorer.rows, thread, at_once=at_once, **options)
    turns = Batcher(partial(_read_conversations, pipeline), thread, at_once=_CONVERSATIONS_AT_ONCE, **options)

    def waiting() -> int:
        return texts.waiting + turns.waiting

    metrics.watch(waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with texts, turns:
            yield
        thread.shutdown()

    app = FastAPI(
        title="liminal_hf",
        version=__version__,
        description="Pleasure, arousal and dominance of English texts. What readers would say of a text: no diagnosis.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.add_middleware(metrics.middleware, most_bytes=MAX_BYTES)
    _add_errors(app)
    _add_texts(app, texts, metrics)
    if pipeline is not None:
        _add_conversations(app, turns, metrics)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the server answers, and what it is."""
        about = {"version": __version__, "backend": scorer.backend, "targets": list(scorer.config.targets)}
        return {"status": "ok", "waiting": waiting(), **about}

    return app


def _add_errors(app: Any) -> None:
    """Every error is `{"error": ...}`, with what to do."""
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response
    from starlette.exceptions import HTTPException

    @app.exception_handler(RequestValidationError)
    async def not_valid(_: Request, error: Any) -> Response:
        found = error.errors()
        if found[0]["type"] == "json_invalid":
            where, why = found[0]["loc"][-1], found[0]["ctx"]["error"]
            return _json({"error": f"The body is no JSON: {why}, at character {where}. {_EXAMPLE}"}, 422)
        problems = [f"{'.'.join(map(str, one['loc'][1:])) or 'the body'}: {one['msg']}" for one in found[:3]]
        return _json({"error": f"{'; '.join(problems)}. {_EXAMPLE}"}, 422)

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: Any) -> Response:
        return _json({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(LiminalError)
    async def for_people(_: Request, error: LiminalError) -> Response:
        if isinstance(error, Busy):
            return _json({"error": str(error)}, 429, {"Retry-After": str(error.retry_after)})
        return _json({"error": str(error)}, 422)


def _add_texts(app: Any, texts: Batcher, metrics: Metrics) -> None:
    """`/predict` and `/metrics`."""
    from fastapi import Request
    from fastapi.responses import Response

    @app.post("/predict", responses=_RESPONSES)
    async def predict(request: Request, body: Texts) -> Response:
        """Read texts, each by itself."""
        for index, text in enumerate(body.texts):
            _check_length(f"Text {index}", text)
        rows = await _unless_gone(request, texts.ask(body.texts))
        metrics.texts(len(rows))
        return _json({"rows": rows})

    @app.get("/metrics")
    async def numbers() -> Response:
        """Counters and times, as Prometheus reads them."""
        content, kind = metrics.page()
        return Response(content, media_type=kind)


def _add_conversations(app: Any, turns: Batcher, metrics: Metrics) -> None:
    """`/conversation` and `/stream`."""
    from fastapi import Request, WebSocket
    from fastapi.responses import Response
    from starlette.websockets import WebSocketDisconnect

    @app.post("/conversation", responses=_RESPONSES)
    async def conversation(request: Request, body: Messages) -> Response:
        """Read a conversation turn by turn, each speaker with a memory of their own."""
        for index, message in enumerate(body.messages):
            _check_length(f"Message {index}", message.get("content"))
        (rows,) = await _unless_gone(request, turns.ask([(body.messages, ConversationState())]))
        metrics.texts(len(rows))
        return _json({"rows": rows})

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        """A conversation turn by turn: a message in, its row out; what was said is remembered until the end."""
        await socket.accept()
        state, answer = ConversationState(), {}
        with metrics.stream():
            while (event := await socket.receive())["type"] != "websocket.disconnect":
                try:
                    ((row,),) = await turns.ask([([_message(event.get("text"))], state)])
                    state, answer = row.memory, row
                    metrics.texts(1)
                except Busy as error:
                    answer = {"error": str(error), "retry_after": error.retry_after}
                except LiminalError as error:
                    answer = {"error": str(error)}
                try:
                    await socket.send_text(_dumped(answer))
                except WebSocketDisconnect:
                    return


async def _unless_gone(request: Any, question: Awaitable[Any]) -> Any:
    """The answer, unless whoever asked hangs up before; then nothing is read for them any more."""
    from starlette.exceptions import HTTPException

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    asked, gone = asyncio.ensure_future(question), asyncio.ensure_future(hung_up())
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        raise HTTPException(GONE, "Whoever asked has hung up.")
    finally:
        asked.cancel()
        gone.cancel()


def _message(text: str | None) -> Any:
    """What a frame holds."""
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        raise LiminalError('A message is JSON, in a text frame: {"role": "user", "content": "..."}') from None
    if isinstance(message, dict):
        _check_length("The message", message.get("content"))
    return message


def _check_length(where: str, content: Any) -> None:
    """Refuses a text, or the parts of a message together, with more characters than one request may ask to read."""
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    length = sum(len(text) for text in texts if isinstance(text, str))
    if length > MAX_CHARACTERS:
        raise LiminalError(f"{where} has {length:,} characters; {MAX_CHARACTERS:,} are read. Cut it up.")


def _dumped(answer: Any) -> str:
    """JSON in ASCII: names that come back may hold half of a character, which UTF-8 can't write."""
    return json.dumps(answer, allow_nan=False)


def _json(answer: Any, status: int = 200, headers: Any = None) -> Any:
    from fastapi.responses import Response

    return Response(_dumped(answer), status, headers, media_type="application/json")


def _read_conversations(pipeline: Any, items: list[tuple[list[Any], ConversationState]]) -> list[list[Any]]:
    """Rows of each conversation, that goes on from its state."""
    messages, states = zip(*items, strict=True)
    return pipeline(list(messages), memory=list(states))


def run(app: Any, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves the application until a signal ends it; what was asked by then is answered first.

    Args:
        app: of `create_app`.
        host: the address to listen on.
        port: 0 takes a free one.

    Raises:
        OSError: the address can't be listened on, because the port is taken, for example.
        ImportError: the extra is not installed.

    Example:
        >>> run(None, "256.0.0.1")
        Traceback (most recent call last):
        OSError: 256.0.0.1, port 8000: ...
    """
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError(f"{_INSTALL} ({error})") from error
    listening = _listen(host, port)
    print(f"liminal: http://{host}:{listening.getsockname()[1]} (Ctrl-C ends it).", file=sys.stderr, flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        ws_max_size=MAX_BYTES,
        timeout_graceful_shutdown=_PATIENCE_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    # asyncio sends small answers at once (TCP_NODELAY) on sockets that say they are TCP; `create_server` makes others.
    listening = socket.socket(
        socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        raise OSError(f"{host}, port {port}: {error.strerror}. Give another --host or --port.") from error
    return listening
