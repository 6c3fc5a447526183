"""How requests went over time, as JSON-ready models: success, regret and who served what, bucket by bucket."""

from pydantic import BaseModel

from services.insight.inspection import wilson
from services.learning.timeline import LENGTHS, TIMELINE, Bucket, Place
from services.routing.router import Router


class CellView(BaseModel):
    """The requests of one task that one arm served; no task's name is given to a tenant's key."""

    task: str
    arm: str
    requests: int
    rewarded: int
    reward: float  # sum


class BucketView(BaseModel):
    """The requests of `seconds` from `start` (unix s) on; what is none of rewarded, unanswered, dropped is waiting.

    `success` is the mean reward. `regret` is what the best arm was believed to earn when each request came, less what
    was earned, a mean over the rewarded ones. Both have 95% intervals for the chance in the rewards (Wilson).
    """

    start: float
    seconds: int
    requests: int
    rewarded: int
    waiting: int
    unanswered: int
    dropped: int
    explored: int
    success: float | None
    success_interval: tuple[float, float] | None
    regret: float | None
    regret_interval: tuple[float, float] | None
    cells: list[CellView]


async def timeline(router: Router, seconds: int, tenant: str | None = None) -> list[BucketView]:
    """The buckets of a length that is one of LENGTHS, oldest first, as folded so far."""
    states = await router.store.states(f"{TIMELINE}{seconds}/")
    buckets = sorted((Place.named(name), Bucket.from_bytes(data)) for name, data in states.items())
    return [_view(router, place, bucket, tenant) for place, bucket in buckets[-LENGTHS[seconds] :]]


def _view(router: Router, place: Place, bucket: Bucket, tenant: str | None) -> BucketView:
    cells = _cells(router, bucket, tenant)
    requests, n = sum(cell.requests for cell in cells), sum(cell.rewarded for cell in cells)
    total = sum(cell.reward for cell in cells)
    expected, (low, high) = bucket.expected / n if n else 0.0, wilson(total, n) if n else (0.0, 1.0)
    return BucketView(
        start=place.number * place.length,
        seconds=place.length,
        requests=requests,
        rewarded=n,
        waiting=requests - n - bucket.unanswered - bucket.dropped,
        unanswered=bucket.unanswered,
        dropped=bucket.dropped,
        explored=bucket.explored,
        success=total / n if n else None,
        success_interval=(low, high) if n else None,
        regret=expected - total / n if n else None,
        regret_interval=(expected - high, expected - low) if n else None,
        cells=cells,
    )


def _cells(router: Router, bucket: Bucket, tenant: str | None) -> list[CellView]:
    """By the arms' names of now."""
    found: dict[tuple[str, str], CellView] = {}
    for (task, arm), cell in bucket.cells.items():
        key = ("" if tenant else task, router.arms.current(arm))
        view = found.setdefault(key, CellView(task=key[0], arm=key[1], requests=0, rewarded=0, reward=0.0))
        view.requests += cell.pulls
        view.rewarded += cell.rewarded
        view.reward += cell.reward
    return [found[key] for key in sorted(found)]
