"""What a Model replica says of itself, and how it measures it."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Final, NamedTuple

_RECENT: Final = 32


class Report(NamedTuple):
    """A replica's state when it sent this, `number`-th of its reports. Adapters go by content hash.

    resident: adapters that serve without a page-in.  arriving: those on their way.  broken: those that could not be
    loaded in the last seconds.  busy: requests being answered or
    waiting.  slots: requests answered together.  Milliseconds are medians of the latest, 0 before the first: of an
    answer, of an encoding, of a page-in.
    """

    replica: str
    number: int
    resident: tuple[str, ...] = ()
    arriving: tuple[str, ...] = ()
    busy: int = 0
    slots: int = 1
    answer_ms: float = 0.0
    encode_ms: float = 0.0
    page_in_ms: float = 0.0
    broken: tuple[str, ...] = ()


class Encoded(NamedTuple):
    """What `encode` tells the Router: raw h, float16 [D] (text ‖ vision ‖ has_image), and the replica that read it."""

    features: bytes
    report: Report


class ReplicaLost(RuntimeError):
    """The replica that was to answer is gone. Carries its message alone, so that it survives a process boundary."""


class Meter:
    """How long the latest of something took, and how many are under way."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_RECENT)
        self.under_way = 0

    @property
    def ms(self) -> float:
        """The median, 0 before the first."""
        return median(self._latest) if self._latest else 0.0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Time the body; one that fails or is given up does not count."""
        start = time.perf_counter()
        self.under_way += 1
        try:
            yield
            self._latest.append((time.perf_counter() - start) * 1000)
        finally:
            self.under_way -= 1
