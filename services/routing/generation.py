"""An answer that is asked for before it is known whether it will be told."""

import asyncio
import time
from collections.abc import AsyncGenerator

from services.engine.base import Delta


class Generation:
    """A stream of pieces whose first one is asked for at once, in a task of its own. Read it once, and close it."""

    def __init__(self, stream: AsyncGenerator[Delta, None]) -> None:
        self._began = time.perf_counter()
        self._stream = stream
        self._first = asyncio.ensure_future(self._begin())
        self.first_ms: float | None = None
        """Milliseconds until the first piece came."""

    @property
    def ms(self) -> float:
        """Milliseconds since it was asked for."""
        return (time.perf_counter() - self._began) * 1000

    async def begun(self) -> None:
        """Wait for the first piece. Raises what hinders it."""
        await asyncio.wait([self._first])
        self._first.result()

    async def __aiter__(self) -> AsyncGenerator[Delta, None]:
        first = await self._first
        if first is not None:
            yield first
            async for delta in self._stream:
                yield delta

    async def aclose(self) -> None:
        """Give up what has not come yet."""
        self._first.cancel()
        await asyncio.wait([self._first])
        if not self._first.cancelled():
            self._first.exception()  # whoever wanted it has seen it
        await self._stream.aclose()

    async def _begin(self) -> Delta | None:
        first = await anext(self._stream, None)
        self.first_ms = self.ms
        return first
