"""When plans are made, and from which requests."""

import numpy as np
import pytest

from policies.caching.epochs import EpochConfig, Planner
from policies.caching.plan import Stock
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from tests.policies.worlds import ARMS, DIMENSION, contexts, posterior

NEEDS = {arm: [arm] for arm in ARMS}
STOCK = {arm: Stock(1, 0.1) for arm in ARMS}


def lengths(planner: Planner, requests: int) -> list[int]:
    """Requests between plans."""
    beliefs, x, found, since = posterior(), contexts(1, seed=0)[0][0], [], 0
    for _ in range(requests):
        planner.saw(x, ARMS, ARMS[0])
        since += 1
        if planner.due:
            planner.plan(beliefs, NEEDS, STOCK, room=1)
            found.append(since)
            since = 0
    return found


def test_epochs_double_up_to_the_longest() -> None:
    assert lengths(Planner(EpochConfig(first=2, longest=12)), 50) == [2, 4, 8, 12, 12, 12]


def test_fixed_epochs_are_those_that_do_not_grow() -> None:
    assert lengths(Planner(EpochConfig(first=5, longest=5)), 21) == [5, 5, 5, 5]


def test_a_plan_follows_the_latest_requests() -> None:
    X, labels = contexts(200, seed=1)
    first, last = (X[np.array(labels) == arm] for arm in (ARMS[0], ARMS[1]))
    planner = Planner(EpochConfig(window=10))
    for x in first[:10]:
        planner.saw(x, ARMS, ARMS[0])
    assert planner.plan(posterior(), NEEDS, STOCK, room=1) == (ARMS[0],)
    for number, x in enumerate(last[:10]):
        planner.saw(x, ARMS, ARMS[number % 2])
    assert planner.plan(posterior(), NEEDS, STOCK, room=1) == (ARMS[1],)


def test_what_one_page_in_serves_counts_once() -> None:
    """Ninety requests for one arm are two runs; six for each of two others in turn are six."""
    X, labels = contexts(400, seed=1)
    by_arm = {arm: X[np.array(labels) == arm] for arm in ARMS}
    planner = Planner(EpochConfig())
    for x in by_arm[ARMS[0]][:45]:
        planner.saw(x, ARMS, ARMS[0])
    for x, other in zip(by_arm[ARMS[1]][:6], by_arm[ARMS[2]][:6], strict=True):
        planner.saw(x, ARMS, ARMS[1])
        planner.saw(other, ARMS, ARMS[2])
    for x in by_arm[ARMS[0]][45:90]:
        planner.saw(x, ARMS, ARMS[0])
    assert planner.requests == 102
    assert set(planner.plan(posterior(), NEEDS, STOCK, room=2)) == {ARMS[1], ARMS[2]}


def test_what_a_long_run_gains_is_worth_a_page_in_where_one_request_is_not() -> None:
    """An adapter that is always there serves a family in which another is a little better, by less than a page-in."""
    X, labels = contexts(200, seed=1)
    x = X[np.array(labels) == ARMS[0]][0]
    gain = posterior().means(x)[0] - posterior().means(x)[1]
    stock = {ARMS[0]: Stock(1, 4 * gain), ARMS[1]: Stock(0, 0.0)}
    for requests, kept in ((2, ()), (8, (ARMS[0],))):
        planner = Planner(EpochConfig(horizon=2, caution=0.0))
        for _ in range(requests):
            planner.saw(x, ARMS[:2], ARMS[1])
        assert planner.plan(posterior(), {arm: [arm] for arm in ARMS[:2]}, stock, room=1) == kept


def test_what_was_served_without_an_adapter_is_no_run() -> None:
    """The base serves families in turn: added up, what one adapter gains in its own it would lose in the others."""
    planner = Planner(EpochConfig())
    for x in contexts(60, seed=1)[0]:
        planner.saw(x, ARMS)
    needs, stock = {**NEEDS, ARMS[0]: []}, {arm: Stock(1, 0.05) for arm in ARMS[1:]}
    assert set(planner.plan(posterior(), needs, stock, room=2)) == set(ARMS[1:])


def test_a_request_for_certain_arms_asks_for_those_only() -> None:
    X, labels = contexts(50, seed=1)
    planner = Planner(EpochConfig())
    for x in X[np.array(labels) == ARMS[0]][:5]:
        planner.saw(x, [ARMS[2]], ARMS[2])
    assert planner.plan(posterior(), NEEDS, STOCK, room=2) == (ARMS[2],)
    strangers = Planner(EpochConfig())
    strangers.saw(X[0], ["gone"], "gone")
    assert strangers.plan(posterior(), NEEDS, STOCK, room=2) == ()


def test_no_request_no_plan() -> None:
    empty = Posterior(posterior().prior)
    empty.put("base", ArmStatistics.empty(DIMENSION, 1.0))
    assert Planner(EpochConfig()).plan(empty, {"base": []}, {}, room=3) == ()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"longest is 4, expected a finite number in \[8, inf\]"):
        EpochConfig(first=8, longest=4)
