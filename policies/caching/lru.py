"""Least recently used."""

from policies.caching.base import ResidencyPolicy, register


@register
class LRU(ResidencyPolicy):
    """What was needed longest ago leaves first."""

    name = "lru"

    def worth(self, adapter: str) -> float:
        return self.last_used(adapter)
