"""Least frequently used."""

from collections import Counter
from collections.abc import Collection

from policies.caching.base import ResidencyConfig, ResidencyPolicy, register


@register
class LFU(ResidencyPolicy):
    """What was needed least often leaves first; uses from before an eviction count too ("perfect" LFU)."""

    name = "lfu"

    def __init__(self, config: ResidencyConfig = ResidencyConfig()) -> None:
        super().__init__(config)
        self._uses: Counter[str] = Counter()

    def worth(self, adapter: str) -> float:
        return self._uses[adapter]

    def requested(self, adapters: Collection[str]) -> None:
        super().requested(adapters)
        self._uses.update(adapters)
