"""Images as agents send them."""

import base64
import io
from typing import Any

from PIL import Image


def encoded(width: int = 8, height: int = 6, *, color: str = "red", kind: str = "PNG") -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, kind)
    return buffer.getvalue()


def data_url(image: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def image_message(text: str, *, color: str = "red") -> tuple[dict[str, Any], bytes]:
    """A user turn with a screen and a text, and the screen's bytes."""
    image = encoded(color=color)
    return {"role": "user", "content": [image_part(data_url(image)), {"type": "text", "text": text}]}, image
