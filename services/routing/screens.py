"""The screens of the latest decisions, kept small and beside the way of a request."""

import asyncio
import io

from PIL import Image

from cluster.store import Store

MEDIA_TYPE = "image/webp"
_SIDE = 1024  # pixels of the longer side at most
_AT_ONCE = 2


class Screens:
    """Keeps the `most` latest screens that it gets to: while it is busy, those of further decisions are passed over."""

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self.most = most
        self._busy = 0

    @property
    def has_time(self) -> bool:
        """Whether a screen that comes now is kept."""
        return self._busy < min(_AT_ONCE, self.most)

    async def keep(self, decision_id: str, image: bytes) -> None:
        """Make the image smaller, in a thread, and keep it with its decision."""
        self._busy += 1
        try:
            await self._store.keep_screen(decision_id, await asyncio.to_thread(smaller, image), self.most)
        finally:
            self._busy -= 1


def smaller(image: bytes) -> bytes:
    """The image as WebP, at most `_SIDE` pixels wide and high, without its metadata."""
    with Image.open(io.BytesIO(image)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((_SIDE, _SIDE))
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=85)
    return written.getvalue()
