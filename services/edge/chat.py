"""From a chat request to a prompt: roles, texts, and images that are small enough and really images."""

import io
import json

import pybase64
from PIL import Image, UnidentifiedImageError

from cluster.settings import LimitSettings
from services.edge.errors import invalid
from services.edge.fetching import ImageFetcher
from services.engine.base import Message, Part, Prompt
from services.schemas import ChatMessage, ChatRequest, ImagePart, ImageUrl, TextPart

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


class ChatReader:
    """Reads chats within limits. Every refusal is an ApiError 400 that names the field."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits
        self._fetcher = ImageFetcher(limits)

    async def read(self, request: ChatRequest) -> Prompt:
        """The prompt of a request, images decoded from base64 or fetched, not yet to pixels."""
        if len(request.messages) > self._limits.messages:
            raise invalid("messages", f"{len(request.messages)} messages, expected at most {self._limits.messages}")
        images = sum(isinstance(part, ImagePart) for m in request.messages for part in _parts(m))
        if images > self._limits.images:
            raise invalid("messages", f"{images} images, expected at most {self._limits.images}")
        return Prompt(tuple([await self._message(i, message) for i, message in enumerate(request.messages)]))

    async def _message(self, index: int, message: ChatMessage) -> Message:
        parts = [await self._part(f"messages[{index}].content[{i}]", part) for i, part in enumerate(_parts(message))]
        called = [Part(text=_called(message))] if message.tool_calls else []
        return Message("system" if message.role == "developer" else message.role, (*parts, *called))

    async def _part(self, field: str, part: TextPart | ImagePart) -> Part:
        if isinstance(part, TextPart):
            return Part(text=part.text)
        field = f"{field}.image_url.url"
        image = await self._bytes(field, part.image_url)
        self._check(field, image)
        return Part(image=image)

    async def _bytes(self, field: str, image: ImageUrl) -> bytes:
        if image.url.startswith("data:"):
            return _data_url(field, image.url)
        return await self._fetcher.fetch(field, image.url)

    def _check(self, field: str, image: bytes) -> None:
        """Read the header alone: format and size. The pixels are decoded where they are used."""
        try:
            with Image.open(io.BytesIO(image), formats=_FORMATS) as opened:
                width, height = opened.size
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise invalid(field, f"{len(image)} bytes that are no {', '.join(_FORMATS)} image") from None
        if width * height > self._limits.image_pixels:
            raise invalid(field, f"{width}×{height} pixels, expected at most {self._limits.image_pixels} in all")


def _parts(message: ChatMessage) -> list[TextPart | ImagePart]:
    if isinstance(message.content, str):
        return [TextPart(type="text", text=message.content)]
    return list(message.content or [])


def _called(message: ChatMessage) -> str:
    """The tool calls of an assistant's turn, as Qwen3-VL wrote them before a client took them apart."""
    calls = [call.function for call in message.tool_calls or []]
    written = [
        f'<tool_call>\n{{"name": {json.dumps(c.name)}, "arguments": {c.arguments}}}\n</tool_call>' for c in calls
    ]
    return ("\n" if message.content else "") + "\n".join(written)


def _data_url(field: str, url: str) -> bytes:
    header, comma, payload = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise invalid(field, f"{url[:40]!r}, expected data:image/<type>;base64,<data>")
    try:
        return pybase64.b64decode(payload, validate=True)
    except ValueError as error:
        raise invalid(field, f"broken base64: {error}") from None
