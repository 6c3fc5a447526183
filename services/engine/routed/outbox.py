"""From the engine's thread to the event loops: what one step says wakes each loop once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from services.engine.base import Delta

Item = Delta | Exception | None
"""The last is None: the engine has let go of the request."""


class Outbox:
    """Where the answers of one request go, as many as there are choices. Made on its event loop."""

    def __init__(self, choices: int = 1) -> None:
        self._choices = choices
        self.loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Delta | Exception] = asyncio.Queue()
        self.closed = asyncio.Event()  # the engine has let go of the request

    def put(self, item: Item) -> None:
        """Hand over the next piece, on the event loop."""
        if item is None:
            self.closed.set()
        else:
            self._items.put_nowait(item)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        """The pieces up to the one that ends the last answer. Raises what made the request fail."""
        unfinished = self._choices
        while unfinished:
            item = await self._items.get()
            if isinstance(item, Exception):
                raise item
            yield item
            unfinished -= bool(item.finish_reason)


class Postman:
    """Collects what a step says. Used by the engine's thread."""

    def __init__(self) -> None:
        self._mail: dict[asyncio.AbstractEventLoop, list[tuple[Outbox, Item]]] = {}

    def take(self, outbox: Outbox, item: Item) -> None:
        """Hold an item until the next delivery."""
        self._mail.setdefault(outbox.loop, []).append((outbox, item))

    def deliver(self) -> None:
        """Hand everything over. A loop that is closed has nobody waiting."""
        mail, self._mail = self._mail, {}
        for loop, letters in mail.items():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_open, letters)


def _open(letters: list[tuple[Outbox, Item]]) -> None:
    for outbox, item in letters:
        outbox.put(item)
