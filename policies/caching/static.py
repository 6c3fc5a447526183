"""Always the same set."""

from policies.caching.base import ResidencyConfig, register
from policies.caching.lru import LRU


@register
class Static(LRU):
    """Keeps the configured pins, most wanted first; what else is needed passes through, least recently used first."""

    name = "static"

    def __init__(self, config: ResidencyConfig = ResidencyConfig()) -> None:
        super().__init__(config)
        self._target = tuple(dict.fromkeys(config.pins))
