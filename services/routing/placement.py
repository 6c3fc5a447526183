"""Where a request would be served best, and what that costs: what the Router knows of the Model replicas."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from services.model.report import Report


class Place(NamedTuple):
    """The best replica for an arm, and the milliseconds that its answer would wait there."""

    replica: str
    ms: float


@dataclass
class _Known:
    """A report, when it came, and what this Router has sent there by then and since."""

    report: Report
    heard: float
    sent: int  # requests of this Router that were there when it came
    expected: set[str]  # content hashes that this Router has made it fetch since


class Placement:
    """The replicas as their latest reports and this Router's own requests show them.

    Every answer of a replica carries a report, and all replicas are asked every `router.look_s`, which bounds how old
    a report gets. A replica that is not heard of in three such times is not counted on.
    """

    def __init__(self, page_in_ms: float, look_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.page_in_ms = page_in_ms
        """What is assumed of a replica that has not paged anything in yet."""
        self._patience_s = 3 * look_s
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._sent: Counter[str] = Counter()

    @property
    def replicas(self) -> tuple[str, ...]:
        """Those that are counted on."""
        oldest = self._clock() - self._patience_s
        return tuple(sorted(name for name, known in self._known.items() if known.heard >= oldest))

    def ages(self) -> dict[str, float]:
        """Seconds since each replica was heard of."""
        return {name: self._clock() - known.heard for name, known in sorted(self._known.items())}

    def heard(self, report: Report) -> None:
        """Take over what a replica says of itself; an older report than the last changes nothing."""
        known = self._known.get(report.replica)
        if known is None or report.number > known.report.number:
            self._known[report.replica] = _Known(report, self._clock(), self._sent[report.replica], set())

    def lost(self, replica: str) -> None:
        """Count on a replica no longer: it died, or gave no answer."""
        self._known.pop(replica, None)

    def lacks(self, replica: str, key: str) -> None:
        """A replica could not load an adapter: it is not asked for that again until a report says that it may be."""
        if known := self._known.get(replica):
            known.report = known.report._replace(broken=(*known.report.broken, key))

    def able(self, needed: Collection[str], besides: Collection[str] = ()) -> list[str]:
        """The replicas, but for those in `besides`, of which nobody knows that they cannot load what is needed."""
        names = [name for name in self.replicas if name not in besides]
        return [name for name in names if not set(self._known[name].report.broken) & set(needed)]

    def all(self, reports: Collection[Report]) -> None:
        """Take over reports of all replicas that there are."""
        for gone in self._known.keys() - {report.replica for report in reports}:
            self.lost(gone)
        for report in reports:
            self.heard(report)

    @property
    def resident(self) -> frozenset[str]:
        """Content hashes of the adapters that some replica can serve without a page-in."""
        return frozenset(key for name in self.replicas for key in self._known[name].report.resident)

    def encoder(self) -> str:
        """The replica to encode on: the least busy one; "" while none is known."""
        return min(self.replicas, key=lambda name: (self._busy(name), name), default="")

    def places(
        self, arms: Mapping[str, Collection[str]], encoded_at: str, besides: Collection[str] = ()
    ) -> dict[str, Place]:
        """For arms with the content hashes that they need: page-ins + queue + encoding again, at the best replica.

        Replicas named in `besides` are not taken; one that could not load what an arm needs is, where none could. An
        arm costs nothing at "" while no replica is known.
        """
        candidates = [name for name in self.replicas if name not in besides]
        if not candidates:
            return {arm: Place("", 0.0) for arm in arms}
        fixed = {name: self._queue_ms(name) + self._again_ms(name, encoded_at) for name in candidates}
        return {
            arm: min(self._places(needed, fixed), key=lambda place: (place.ms, place.replica != encoded_at))
            for arm, needed in arms.items()
        }

    @contextmanager
    def sent(self, replica: str, needed: Collection[str]) -> Iterator[None]:
        """Count a request at a replica while it is there, and its adapters as on their way until the next report."""
        if replica in self._known:
            self._known[replica].expected.update(needed)
        self._sent[replica] += 1
        try:
            yield
        finally:
            self._sent[replica] -= 1
            if not self._sent[replica]:
                del self._sent[replica]  # names of replicas come and go

    def _places(self, needed: Collection[str], fixed: Mapping[str, float]) -> list[Place]:
        names = [name for name in self.able(needed) if name in fixed] or list(fixed)
        return [Place(name, fixed[name] + self._fetching_ms(name, needed)) for name in names]

    def _fetching_ms(self, replica: str, needed: Collection[str]) -> float:
        """Page-ins follow each other; one that is under way is half over, on average."""
        known = self._known[replica]
        page_in_ms = known.report.page_in_ms or self.page_in_ms
        missing = [key for key in needed if key not in known.report.resident]
        on_their_way = sum(key in known.report.arriving or key in known.expected for key in missing)
        return page_in_ms * (len(missing) - on_their_way / 2)

    def _queue_ms(self, replica: str) -> float:
        """Requests there share it: each full batch ahead costs as long as an answer takes."""
        report = self._known[replica].report
        return self._busy(replica) / report.slots * report.answer_ms

    def _busy(self, replica: str) -> int:
        """As reported, with what this Router has sent and got back since."""
        known, mine = self._known[replica], self._sent[replica]
        return max(mine, known.report.busy + mine - known.sent)

    def _again_ms(self, replica: str, encoded_at: str) -> float:
        return 0.0 if replica == encoded_at else self._known[replica].report.encode_ms
