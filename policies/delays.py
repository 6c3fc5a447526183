"""How long rewards take, as counts over buckets of doubling length: they add up, and quantiles come out within 1.5×."""

import math
from collections.abc import Sequence

FIRST_S = 0.1
BUCKETS = 26
"""Bucket 0 holds delays up to `FIRST_S`, each next one twice as many seconds, the last one all beyond 19 days."""


def bucket(seconds: float) -> int:
    """Where a delay is counted."""
    return 0 if seconds <= FIRST_S else min(BUCKETS - 1, math.ceil(math.log2(seconds / FIRST_S)))


def quantile(counts: Sequence[int], q: float) -> float | None:
    """Seconds within which a share q of the delays lies, the middle of its bucket; none without delays."""
    wanted, seen = q * sum(counts), 0
    for place, count in enumerate(counts):
        seen += count
        if count and seen >= wanted:
            return float(FIRST_S * 2.0 ** (place - 0.5))
    return None


def later(a: Sequence[int], b: Sequence[int]) -> tuple[float, float]:
    """P(a delay of `a` is longer than one of `b`), ties half, and its distance from ½ in standard errors.

    Both need delays. The standard error is that of the Mann–Whitney U without ties: cautious with them.
    """
    n, m, below, wins = sum(a), sum(b), 0, 0.0
    for one, other in zip(a, b, strict=True):
        wins += one * (below + other / 2)
        below += other
    share = wins / (n * m)
    return share, (share - 0.5) / math.sqrt((n + m + 1) / (12 * n * m))
