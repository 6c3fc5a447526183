"""A way to Redis that loses an answer: the server has run the command, the client cannot know and sends it again."""

import asyncio
from typing import Self
from urllib.parse import urlsplit


class CuttingProxy:
    """Forwards to the server at `url`; once armed, it drops the connection instead of the next script's answer."""

    def __init__(self, url: str) -> None:
        self._upstream = urlsplit(url)
        self.armed = False
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            while request := await client.read(1 << 20):
                to_server.write(request)
                answer = await server.read(1 << 20)
                if self.armed and b"EVALSHA" in request:
                    self.armed, self.cuts = False, self.cuts + 1
                    break
                to_client.write(answer)
        finally:
            to_server.close()
            to_client.close()
