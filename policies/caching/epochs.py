"""When to plan anew, and from what: the epochs of POLAR and POLAR+."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from policies import checks
from policies.caching.plan import Demand, Stock, best_set
from policies.checks import Array
from policies.posterior import Posterior


@dataclass(frozen=True)
class EpochConfig:
    """The first epoch lasts `first` requests, each next one twice as long, up to `longest` (equal: fixed epochs).

    A plan is made for the latest `window` runs; a fetched adapter must pay for itself within `horizon` of them. A run
    is requests in a row that one arm's adapters served: whatever they gain, one page-in is enough for all of them; a
    request that was served without any is one by itself. An arm counts as worth its mean less `caution` widths: of arms
    that look alike, the one that is known better is kept.
    """

    first: int = 2
    longest: int = 8
    window: int = 200
    horizon: int = 64
    caution: float = 0.2

    def __post_init__(self) -> None:
        for name in ("first", "window", "horizon"):
            checks.number(name, getattr(self, name), 1)
        checks.number("caution", self.caution, 0)
        checks.number("longest", self.longest, self.first)


class _Run(NamedTuple):
    """Requests in a row: whose adapters served, who could have, the sum x [d] of contexts, and how many there are."""

    arm: str | None
    eligible: frozenset[str]
    x: Array
    requests: int

    def goes_on(self, arm: str | None, eligible: frozenset[str]) -> bool:
        return arm is not None and (arm, eligible) == (self.arm, self.eligible)


@dataclass(eq=False)
class Planner:
    """Watches decisions, knows when an epoch ends, and plans the next one from what the arms are believed to earn."""

    config: EpochConfig = field(default_factory=EpochConfig)

    def __post_init__(self) -> None:
        self._length = self.config.first
        self._left = self._length
        self._runs: deque[_Run] = deque(maxlen=self.config.window)

    def saw(self, x: Array, eligible: Collection[str], arm: str | None = None) -> None:
        """A request at x [d] that the arms `eligible` could have served, and `arm` did with adapters of its own."""
        could = frozenset(eligible)
        run = self._runs.pop() if self._runs and self._runs[-1].goes_on(arm, could) else _Run(arm, could, 0 * x, 0)
        self._runs.append(run._replace(x=run.x + x, requests=run.requests + 1))
        self._left -= 1

    @property
    def requests(self) -> int:
        """Those that a plan would be made for."""
        return sum(run.requests for run in self._runs)

    @property
    def due(self) -> bool:
        """Whether the epoch is over."""
        return self._left <= 0

    def plan(
        self,
        posterior: Posterior,
        needs: Mapping[str, Sequence[str]],
        stock: Mapping[str, Stock],
        room: float,
        resident: Collection[str] = (),
    ) -> tuple[str, ...]:
        """The set to keep from now on, most wanted first; the next epoch begins.

        See `best_set`, to which a run is one request: means at a sum are the sums of means, widths at most that.
        """
        self._length = min(2 * self._length, self.config.longest)
        self._left = self._length
        arms = tuple(arm for arm in posterior.arms if arm in needs)
        runs = [run for run in self._runs if not run.eligible.isdisjoint(arms)]
        if not runs:
            return ()
        X, rows = np.stack([run.x for run in runs]), posterior.rows(arms)
        values = posterior.means(X, rows) - self.config.caution * posterior.widths(X, rows)
        barred = {each: [arm not in each for arm in arms] for each in {run.eligible for run in runs}}
        values[np.stack([barred[run.eligible] for run in runs])] = -np.inf
        return best_set(Demand(arms, values, needs), stock, room, resident, self.config.horizon)
