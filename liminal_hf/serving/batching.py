"""Items of many requests, read together: a queue with an end, and batches that wait a moment for company.

Requires nothing but the standard library.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import chain
from typing import Any

from ..modeling.errors import LiminalError


class Busy(LiminalError):
    """The queue is full.

    Args:
        retry_after: whole seconds, at least 1, after which there should be room.

    Example:
        >>> Busy(3).retry_after
        3
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too much is waiting already. Ask again in {retry_after} s.")
        self.retry_after = retry_after


class Batcher:
    """Reads the items of several askers at once, in a thread; each gets the answers to its own, in order.

    What was asked first is read first. An asker that is cancelled is not read any more.

    Args:
        read: from several items to as many answers. Where it fails, each asker's items are read by themselves, so that
            what fails for one asker fails for no other.
        executor: where `read` runs.
        at_once: most items in a batch.
        wait: seconds that a batch which is not full waits for more.
        room: most items that may wait or be read at a time.
        on_batch: is told the size of each batch.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> async def ask():
        ...     batcher = Batcher(lambda items: [item * 2 for item in items], ThreadPoolExecutor(1))
        ...     async with batcher:
        ...         return await asyncio.gather(batcher.ask([1, 2]), batcher.ask([3]))
        >>> asyncio.run(ask())
        [[2, 4], [6]]
    """

    def __init__(
        self,
        read: Callable[[list[Any]], Sequence[Any]],
        executor: Executor,
        *,
        at_once: int = 64,
        wait: float = 0.002,
        room: int = 1024,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        self.read, self.executor, self.on_batch = read, executor, on_batch
        self.at_once, self.wait, self.room = at_once, wait, room
        self.waiting = 0
        self._seconds = 0.0  # that an item takes, of late
        self._pieces: asyncio.Queue[tuple[list[Any], asyncio.Future[Sequence[Any]]]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Batcher":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def ask(self, items: Sequence[Any]) -> list[Any]:
        """The answers to these items, in their order.

        Raises:
            Busy: there is no room for all of them.
            LiminalError: one of them can't be read.
        """
        if self.waiting + len(items) > self.room:
            raise Busy(max(1, math.ceil(self.waiting * self._seconds)))
        futures = []
        # Many items of one asker don't hold up the few of another.
        for start in range(0, len(items), self.at_once):
            piece, future = list(items[start : start + self.at_once]), asyncio.get_running_loop().create_future()
            self.waiting += len(piece)
            future.add_done_callback(partial(self._leave, len(piece)))
            self._pieces.put_nowait((piece, future))
            futures.append(future)
        try:
            return list(chain.from_iterable([await future for future in futures]))
        finally:
            for future in futures:
                future.cancel()

    def _leave(self, size: int, _: object) -> None:
        self.waiting -= size

    async def _run(self) -> None:
        held = None
        while True:
            batch, size = [held or await self._pieces.get()], 0
            size, held = len(batch[0][0]), None
            if size < self.at_once and self._pieces.empty():
                await asyncio.sleep(self.wait)
            while held is None and size < self.at_once and not self._pieces.empty():
                piece = self._pieces.get_nowait()
                if size + len(piece[0]) > self.at_once:
                    held = piece
                else:
                    batch.append(piece)
                    size += len(piece[0])
            if batch := [(items, future) for items, future in batch if not future.done()]:
                await self._answer(batch)

    async def _answer(self, batch: list[tuple[list[Any], "asyncio.Future[Sequence[Any]]"]]) -> None:
        items = list(chain.from_iterable(items for items, _ in batch))
        start = time.perf_counter()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self.executor, self.read, items)
        except Exception as error:
            if len(batch) > 1:
                for piece in batch:
                    if not piece[1].done():
                        await self._answer([piece])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # whoever asked may be gone, and nobody else needs to hear of it
            return
        spent = (time.perf_counter() - start) / len(items)
        self._seconds = spent if not self._seconds else 0.9 * self._seconds + 0.1 * spent
        if self.on_batch is not None:
            self.on_batch(len(items))
        rest = iter(answers)
        for asked, future in batch:
            own = [next(rest) for _ in asked]
            if not future.done():
                future.set_result(own)
