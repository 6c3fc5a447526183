"""One service with a small shelf: the product's own LinUCB decides, residency policies keep, rewards teach."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.caching.shelf import Shelf, belady_hits
from benchmarks.caching.worlds import Fleet, Requests
from policies import Context, PolicyConfig, create
from policies.caching import ResidencyConfig
from policies.caching import create as keeper
from policies.caching.epochs import Planner
from policies.caching.plan import Demand, best_set
from policies.checks import Array
from policies.evidence import ArmStatistics
from policies.linucb import LinUCB
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior


class Served(NamedTuple):
    """What a run came to, a request: reward, what page-ins cost, and the shares of hits: its own, and those of MIN."""

    reward: float
    paid: float
    hits: float
    most_hits: float

    @property
    def utility(self) -> float:
        """Reward less paging."""
        return self.reward - self.paid


def learner(of: Fleet, config: PolicyConfig, learning: LearningConfig) -> LinUCB:
    """LinUCB of a new deployment: the trained router's prior and no evidence."""
    posterior = Posterior(Prior(of.contexts.statistics, learning))
    for arm in of.arms:
        posterior.put(arm, ArmStatistics.empty(posterior.dimension, learning.discount))
    policy = create("linucb", posterior, config)
    assert isinstance(policy, LinUCB)
    return policy


def shelf(of: Fleet, room: float, policy: str, requests: Requests) -> Shelf:
    """An empty shelf. "static" pins what would be best for the whole trace if every family's rewards were known."""
    pins: tuple[str, ...] = ()
    if policy == "static":
        needs = {arm: [arm] for arm in of.adapters}
        pins = best_set(Demand(of.arms, of.rates[requests.family], needs), of.stock, room)
    return Shelf(keeper(policy, ResidencyConfig(pins)), of.stock, of.page_in_ms, room)


def route(
    of: Fleet, requests: Requests, policy: LinUCB, seed: int, on: Shelf | None = None, planner: Planner | None = None
) -> list[str]:
    """The arms that serve. With a shelf its waits count in every decision; a planner may tell what it should hold."""
    X, G = of.contexts.map_batch(of.world.H[requests.rows])
    rewards, column = requests.R, {arm: k for k, arm in enumerate(of.arms)}
    gates = [dict(zip(of.contexts.arms, row, strict=True)) for row in G.tolist()]
    arms, served = policy.posterior.arms, []
    for t, x in enumerate(X):
        costs = on.waits if on else {}
        choice = policy.decide(Context(x, gates[t]), eligible=arms, costs=costs, seed=f"{seed}.{t}")
        served.append(choice.arm)
        policy.partial_fit(x, choice.arm, float(rewards[t, column[choice.arm]]))
        if on:
            on.serve(choice.arm)
        if on and planner:
            planner.saw(x, arms, choice.arm if choice.arm in of.stock else None)
            if planner.due:
                needs = {arm: [arm] if arm in of.stock else [] for arm in arms}
                on.plan(planner.plan(policy.posterior, needs, of.stock, on.room, on.resident))
    return served


def informed(
    of: Fleet, requests: Requests, on: Shelf, window: int = 0, horizon: float = 1.0, runs: bool = False
) -> list[str]:
    """Who knows all rewards serves the best arm less its page-in, and plans for the last `window` requests, or runs."""
    needs, prices = {arm: [arm] for arm in of.adapters}, np.array([0.0, *(s.price for s in of.stock.values())])
    place = {arm: k for k, arm in enumerate(of.arms)}
    served, seen = list[str](), list[Array]()
    for t, family in enumerate(requests.family.tolist()):
        missing = np.zeros(len(of.arms))
        missing[[place[arm] for arm in on.waits]] = 1
        arm = of.arms[(of.rates[family] - prices * missing).argmax()]
        goes_on = runs and arm in of.stock and served[-1:] == [arm]
        seen.append(of.rates[family] + (seen.pop() if goes_on else 0.0))
        served.append(arm)
        on.serve(arm)
        if window and t % 8 == 7:
            on.plan(best_set(Demand(of.arms, np.stack(seen[-window:]), needs), of.stock, on.room, on.resident, horizon))
    return served


def outcome(of: Fleet, requests: Requests, arms: Sequence[str], on: Shelf) -> Served:
    """The figures of a run that was served by these arms; its reward is the expected one, free of luck."""
    column = {arm: k for k, arm in enumerate(of.arms)}
    earned = of.success[requests.rows, [column[arm] for arm in arms]]
    asked = max(1, on.hits + on.misses)
    most = belady_hits(arms, of.stock, on.room) / asked
    return Served(float(earned.mean()), on.paid / len(arms), on.hits / asked, most)
