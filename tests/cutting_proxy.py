"""A way to Redis that breaks: the client cannot know whether the server has run its command, and sends it again."""

import asyncio
from typing import Literal, Self
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards to the server at `url`; once armed, it breaks the connection at the next request that holds `mark`.

    What is lost is the request, or its answer: then the server has run the command. After the first cut so many
    connections are refused.
    """

    def __init__(
        self, url: str, *, mark: bytes = b"EVALSHA", lost: Literal["request", "answer"] = "answer", refusals: int = 0
    ) -> None:
        self._upstream = urlsplit(url)
        self._mark = mark
        self._lost = lost
        self._refusals = refusals
        self.armed = False
        self.cuts = 0
        self.refused = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if self.cuts and self.refused < self._refusals:
            self.refused += 1
            to_client.close()
            return
        server, to_server = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        cut = asyncio.Event()
        ways = [
            asyncio.create_task(self._up(client, to_server, cut)),
            asyncio.create_task(_down(server, to_client, cut)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        to_server.close()
        to_client.close()

    async def _up(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        while request := await client.read(1 << 20):
            if self.armed and self._mark in request:
                self.armed, self.cuts = False, self.cuts + 1
                if self._lost == "request":
                    return
                cut.set()
            to_server.write(request)


async def _down(server: asyncio.StreamReader, to_client: asyncio.StreamWriter, cut: asyncio.Event) -> None:
    while answer := await server.read(1 << 20):
        if cut.is_set():
            return
        to_client.write(answer)
