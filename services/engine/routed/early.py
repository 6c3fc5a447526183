"""What reading a prompt for the router leaves: the states of the first blocks, with which a generation goes on."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch

from services.engine.routed.layout import Adapter
from services.engine.tokens import Tokens


class Early(NamedTuple):
    """T tokens after the first blocks of the base."""

    states: torch.Tensor  # [T, hidden]
    keys: Sequence[torch.Tensor]  # of each block: [T, kv_heads, d]
    values: Sequence[torch.Tensor]


class EarlyStates:
    """The latest `capacity` prompts that were encoded. A prompt that begins as one of them can go on from there."""

    def __init__(self, blocks: int, capacity: int) -> None:
        self._blocks = blocks
        self._capacity = capacity
        self._kept: OrderedDict[tuple[tuple[bytes, ...], bytes], Early] = OrderedDict()
        self._late: WeakKeyDictionary[Adapter, bool] = WeakKeyDictionary()

    def keep(self, tokens: Tokens, early: Early) -> None:
        """Keep what came of a prompt, in place of the one that was used longest ago."""
        key = _key(tokens)
        self._kept[key] = early
        self._kept.move_to_end(key)
        while len(self._kept) > self._capacity:
            self._kept.popitem(last=False)

    def find(self, tokens: Tokens, adapters: Sequence[Adapter]) -> Early | None:
        """States that begin a prompt, if there are any and its adapters leave them, and its screens, as they are."""
        if not self._kept or (tokens.images and tokens.tower.key) or not all(map(self._leaves, adapters)):
            return None
        images, ids = _key(tokens)
        for key in reversed(self._kept):
            if images[: len(key[0])] == key[0] and ids.startswith(key[1]):
                self._kept.move_to_end(key)
                return self._kept[key]
        return None

    def _leaves(self, adapter: Adapter) -> bool:
        if adapter not in self._late:
            expands = [rows[: self._blocks] for page in adapter.pages for rows in page.expand.values()]
            self._late[adapter] = not any(bool(rows.any()) for rows in expands)
        return self._late[adapter]


def _key(tokens: Tokens) -> tuple[tuple[bytes, ...], bytes]:
    return tuple(image.key for image in tokens.images), tokens.ids.numpy().tobytes()
