"""Tasks beside the requests: loops that go on as long as their owner, and work that outlives its request."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger(__name__)


class Loops:
    """Coroutines that run until they are stopped. Belongs to the event loop in which the first one starts."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, *loops: Coroutine[Any, Any, None]) -> None:
        """Run these, too."""
        self._tasks += [asyncio.get_running_loop().create_task(loop) for loop in loops]

    def check(self) -> None:
        """Raise what ended one of them, if one has ended."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def stop(self) -> None:
        """End them all, whatever they are doing."""
        for task in self._tasks:
            while not task.done():
                task.cancel()  # more than once: on Python 3.11 the Redis client can swallow one
                await asyncio.wait([task], timeout=0.1)
        self._tasks.clear()


class Background:
    """Work that runs to its end even if the request that began it is cancelled; a failure is logged."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Run it now."""
        task = asyncio.ensure_future(work)
        self.running.add(task)
        task.add_done_callback(self._ended)

    async def finish(self) -> None:
        """Wait for all that runs."""
        await asyncio.gather(*self.running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.warning("what follows a request could not be written: %s", error)
