"""How often a key may ask: `auth.keys[].per_minute`, or `limits.per_minute` for a key that names no rate of its own.

Each Router counts what reaches it. Keys without a rate are not counted.
"""

import time
from math import ceil

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from cluster.settings import Settings
from services.edge.errors import ApiError


class Rates:
    """Requests of each caller in the last minute."""

    def __init__(self, settings: Settings) -> None:
        own = {key.name: key.per_minute for key in settings.auth.keys if key.per_minute is not None}
        self._own = {name: _item(rate) for name, rate in own.items()}
        self._otherwise = _item(settings.limits.per_minute)
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, caller: str) -> None:
        """Count a request; ApiError 429, with the seconds to wait, where it is one too many."""
        item = self._own.get(caller, self._otherwise)
        if item is None or self._counter.hit(item, caller):
            return
        wait = max(1, ceil(self._counter.get_window_stats(item, caller).reset_time - time.time()))
        message = f"key {caller!r} asked more than {item.amount} times a minute"
        raise ApiError(429, message, code="rate_limit_exceeded", retry_after_s=wait)


def _item(per_minute: int) -> RateLimitItem | None:
    return RateLimitItemPerMinute(per_minute) if per_minute else None
