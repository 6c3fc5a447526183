"""Clients that ask as fast as they are answered, and what they saw."""

import asyncio
import base64
import io
import json
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import httpcore
import numpy as np
from PIL import Image, ImageDraw

_SCREEN: Final = (1280, 800)
_JSON: Final = [(b"content-type", b"application/json")]


class Reply(NamedTuple):
    """One answer: its status, the seconds until it was whole, and its headers by lower-case name."""

    status: int
    seconds: float
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Burst(NamedTuple):
    """What `workers` clients got together."""

    workers: int
    seconds: float
    replies: list[Reply]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.replies) / self.seconds

    def ms(self, quantile: float) -> float:
        """Milliseconds of the answers at a quantile."""
        return float(np.quantile([reply.seconds for reply in self.replies], quantile)) * 1000


class Line:
    """HTTP connections to one host that stay open. The client costs little, so that what it measures is the service."""

    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._pool = httpcore.AsyncConnectionPool(max_connections=connections, max_keepalive_connections=connections)

    async def close(self) -> None:
        await self._pool.aclose()

    async def post(self, path: str, body: bytes) -> Reply:
        began = time.perf_counter()
        response = await self._pool.request("POST", f"{self._url}{path}", headers=_JSON, content=body)
        headers = {name.lower(): value for name, value in response.headers}
        return Reply(response.status, time.perf_counter() - began, headers, response.content)

    async def burst(self, path: str, bodies: Sequence[bytes], workers: int) -> Burst:
        """Post every body, `workers` at a time."""
        left, replies, began = iter(bodies), list[Reply](), time.perf_counter()

        async def work() -> None:
            for body in left:
                replies.append(await self.post(path, body))

        await asyncio.gather(*(work() for _ in range(workers)))
        return Burst(workers, time.perf_counter() - began, replies)


def screen(number: int) -> bytes:
    """A PNG of the size and kind of a browser's window: text, boxes, and a photograph."""
    chance = np.random.default_rng(number)
    image = Image.new("RGB", _SCREEN, "white")
    draw = ImageDraw.Draw(image)
    for row in range(60):
        words = "".join(chance.choice(list("etaoin shrdlu "), 90))
        draw.text((40, 20 + 13 * row), words, fill=(30, 30, 30))
    noise = Image.fromarray(chance.integers(0, 255, (20, 32, 3), np.uint8)).resize((320, 200), Image.Resampling.BICUBIC)
    image.paste(noise, (900, 40))
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def chat(instruction: str, image: bytes | None = None, **fields: Any) -> bytes:
    """The body of a chat with a screenshot."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": instruction}]
    if image is not None:
        url = f"data:image/png;base64,{base64.b64encode(image).decode()}"
        parts.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return json.dumps({"model": "auto", "messages": [{"role": "user", "content": parts}], **fields}).encode()
