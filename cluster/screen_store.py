"""The latest screens, for those who look at decisions: bounded in number, and never needed by anything else."""

from collections.abc import Sequence
from typing import cast

from cluster.connection import Connection


class ScreenStore(Connection):
    """The store as whoever keeps and shows screens sees it."""

    async def keep_screen(self, decision_id: str, image: bytes, most: int) -> None:
        """Keep the image that a decision was taken on, and of all the `most` latest."""
        keys = [self._key("screens"), self._key("screens", "order"), self._key("decision", decision_id)]
        await self._scripts["screen"](keys, [decision_id, image, most, self._key_ttl_s])

    async def screen(self, decision_id: str) -> bytes | None:
        """The image of a decision; None if it is not kept."""
        return cast(bytes | None, await self._redis.hget(self._key("screens"), decision_id))

    async def with_screen(self, decision_ids: Sequence[str]) -> set[str]:
        """Those of the decisions whose images are kept."""
        pipeline = self._redis.pipeline(transaction=False)
        for decision_id in decision_ids:
            pipeline.hexists(self._key("screens"), decision_id)
        there = await pipeline.execute()
        return {decision_id for decision_id, kept in zip(decision_ids, there, strict=True) if kept}
