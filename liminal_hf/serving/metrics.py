"""What a server counts: requests, texts, times, batches, and what is waiting, as Prometheus reads it.

Requires starlette and prometheus_client, which the extra `serve` brings.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOO_LARGE = "The request has more than {:,} bytes. Send several."


class Metrics:
    """The counters of one application.

    Raises:
        ImportError: prometheus_client is not installed.

    Example:
        >>> metrics = Metrics()
        >>> metrics.texts(3)
        >>> content, kind = metrics.page()
        >>> [line for line in content.decode().splitlines() if line.startswith("liminal_texts_total")]
        ['liminal_texts_total 3.0']
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise ImportError(f"A server needs more packages: pip install 'liminal_hf[serve]' ({error})") from error
        self._registry = registry = prometheus.CollectorRegistry()
        self._generate, self._kind = prometheus.generate_latest, prometheus.CONTENT_TYPE_LATEST
        self._requests = prometheus.Counter("liminal_requests", "Requests", ["path", "status"], registry=registry)
        self._seconds = prometheus.Histogram(
            "liminal_request_seconds", "From the first byte to the last", ["path"], registry=registry
        )
        self._texts = prometheus.Counter("liminal_texts", "Texts and turns that were answered", registry=registry)
        self._batches = prometheus.Histogram(
            "liminal_batch_texts", "Texts that were read together", buckets=_BATCHES, registry=registry
        )
        self._waiting = prometheus.Gauge("liminal_waiting", "Texts and turns that wait or are read", registry=registry)
        self._streams = prometheus.Gauge("liminal_streams", "Open WebSockets", registry=registry)

    def texts(self, number: int) -> None:
        """So many were answered."""
        self._texts.inc(number)

    def batch(self, size: int) -> None:
        """So many were read together."""
        self._batches.observe(size)

    def watch(self, waiting: Callable[[], int]) -> None:
        """Where to ask how many are waiting."""
        self._waiting.set_function(waiting)

    def stream(self) -> AbstractContextManager[Any]:
        """Around the time that a WebSocket is open."""
        return self._streams.track_inprogress()

    def page(self) -> tuple[bytes, str]:
        """All numbers, and the type of that content."""
        return self._generate(self._registry), self._kind

    def middleware(self, app: Any, most_bytes: int) -> Any:
        """An ASGI application around another: counts its requests, and refuses those that are too large."""
        return partial(self._call, app, most_bytes)

    async def _call(self, app: Any, most_bytes: int, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        from starlette.exceptions import HTTPException

        status, start = 500, time.perf_counter()
        length = dict(scope["headers"]).get(b"content-length", b"0")
        said, got = int(length) if length.isdigit() else 0, 0

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        async def limited() -> Any:
            nonlocal got
            if said > most_bytes:
                raise HTTPException(413, _TOO_LARGE.format(most_bytes))
            message = await receive()
            got += len(message.get("body", b""))
            if got > most_bytes:
                raise HTTPException(413, _TOO_LARGE.format(most_bytes))
            return message

        try:
            await app(scope, limited, counted)
        finally:
            # The path of a route, so that strangers can't make up names of counters.
            path = getattr(scope.get("route"), "path", "other")
            self._requests.labels(path, str(status)).inc()
            self._seconds.labels(path).observe(time.perf_counter() - start)
