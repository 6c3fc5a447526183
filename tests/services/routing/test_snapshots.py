"""The follower: beliefs as last committed, own decisions on top, and the same for every Router."""

import asyncio
import itertools
import logging
import threading
from typing import Any

import numpy as np
import pytest

from cluster.events import ArmRemoved
from cluster.learner_store import Changes
from cluster.store import Store
from policies.context import ContextMap
from policies.posterior import Posterior, Prepared
from services.configuration import learning_config
from services.learning.learner import Learner
from services.routing.snapshots import SnapshotFollower
from tests.services.fakes import FAMILIES, features
from tests.services.learning.test_fold import decision, reward
from tests.services.world import World, end, eventually, make_follower

NOW = 2.0
Rows = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture
def x(contexts: ContextMap) -> Rows:
    return contexts.map(features("open the inbox")).x


@pytest.fixture
async def follower(world: World) -> SnapshotFollower:
    made = make_follower(world.settings, world.contexts, world.store)
    await made.start(world.contexts.fingerprint)
    return made


def widths(follower: SnapshotFollower, x: Rows) -> dict[str, float]:
    return dict(zip(follower.posterior.arms, follower.posterior.widths(x).tolist(), strict=True))


def means(follower: SnapshotFollower, x: Rows) -> dict[str, float]:
    return dict(zip(follower.posterior.arms, follower.posterior.means(x).tolist(), strict=True))


async def decide(world: World, id_: str, arm: str = "inbox") -> str:
    """A decision in the stream; its stream id."""
    made = decision(id_, arm, adapters={arm: world.registry[arm].fingerprint})
    return (await world.store.decide(made)).stream_id


async def test_it_starts_with_what_is_committed(world: World, follower: SnapshotFollower) -> None:
    await decide(world, "d1")
    x = world.contexts.map(features("d1")).x
    await world.store.feedback([reward("d1", 0.0, time=NOW)])
    await world.fold()
    late = make_follower(world.settings, world.contexts, world.store)
    assert late.version == 0
    await late.start(world.contexts.fingerprint)
    assert late.version == (await world.store.learner_state()).version
    assert means(late, x)["inbox"] < means(follower, x)["inbox"]
    assert late.posterior.statistics("inbox").matured == 1


async def test_a_version_that_was_seen_and_not_read_is_read_later(
    world: World, follower: SnapshotFollower, monkeypatch: pytest.MonkeyPatch
) -> None:
    await decide(world, "d1")
    await world.fold()

    async def away(_: int = 0) -> Changes:
        raise ConnectionError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "changes", away)
        with pytest.raises(ConnectionError):
            await follower.refresh()
    await follower.refresh()
    assert follower.version == (await world.store.learner_state()).version
    assert follower.posterior.statistics("inbox").pending == 1


async def test_own_decisions_count_at_once_and_once(world: World, follower: SnapshotFollower, x: Rows) -> None:
    cold = widths(follower, x)
    for i in range(3):
        follower.decided(await decide(world, f"d{i}"), "inbox", world.contexts.map(features(f"d{i}")).x)
    overlaid = widths(follower, x)
    assert overlaid["inbox"] < cold["inbox"]
    assert {arm: width for arm, width in overlaid.items() if arm != "inbox"} == {
        arm: width for arm, width in cold.items() if arm != "inbox"
    }
    await world.fold()
    await follower.refresh()
    assert follower.posterior.statistics("inbox").pending == 3
    assert widths(follower, x) == pytest.approx(overlaid)


async def test_own_decisions_outlive_a_snapshot_that_has_not_folded_them(
    world: World, follower: SnapshotFollower, x: Rows
) -> None:
    await decide(world, "another router's")
    await world.learner.step()
    at = await decide(world, "own")
    follower.decided(at, "inbox", world.contexts.map(features("own")).x)
    await follower.refresh()
    assert follower.posterior.statistics("inbox").pending == 1
    before = widths(follower, x)
    await world.fold()
    await follower.refresh()
    assert follower.posterior.statistics("inbox").pending == 2
    assert widths(follower, x) == pytest.approx(before)


async def test_a_decision_that_is_folded_already_is_not_overlaid(
    world: World, follower: SnapshotFollower, x: Rows
) -> None:
    at = await decide(world, "d1")
    await world.fold()
    await follower.refresh()
    folded = widths(follower, x)
    follower.decided(at, "inbox", world.contexts.map(features("d1")).x)
    assert widths(follower, x) == folded


async def test_every_router_believes_the_same(world: World, follower: SnapshotFollower, x: Rows) -> None:
    """Each reward counts exactly once for each, whoever decided and however the versions came."""
    other = make_follower(world.settings, world.contexts, world.store)
    await other.start(world.contexts.fingerprint)
    for i in range(6):
        at = await decide(world, f"d{i}", FAMILIES[i % 3])
        (follower if i % 2 else other).decided(at, FAMILIES[i % 3], world.contexts.map(features(f"d{i}")).x)
        if i % 2:
            await world.store.feedback([reward(f"d{i}", i / 6, time=NOW)])
        await world.learner.step()
        if i == 3:
            await follower.refresh()
    late = make_follower(world.settings, world.contexts, world.store)
    await late.start(world.contexts.fingerprint)
    for one in (follower, other):
        await one.refresh()
        assert means(one, x) == means(late, x)
        assert widths(one, x) == widths(late, x)
        assert one.version == late.version


async def test_a_gap_in_the_versions_is_a_reload(world: World, follower: SnapshotFollower) -> None:
    for i in range(3):
        await decide(world, f"d{i}", FAMILIES[i])
        await world.learner.step()
    await world.store._redis.xtrim(world.store._key("versions"), maxlen=1, approximate=False)
    await follower.refresh()
    assert [follower.posterior.statistics(arm).pulls for arm in ("base", *FAMILIES)] == [0, 1, 1, 1]
    assert follower.version == (await world.store.learner_state()).version


async def test_it_holds_the_arms_that_its_router_offers(world: World, follower: SnapshotFollower) -> None:
    await decide(world, "d1", "inbox")
    await world.fold()
    await world.store.change_arm(ArmRemoved(time=NOW, arm="inbox"))
    await follower.refresh()
    assert follower.posterior.arms == ("base", "calendar", "claims")
    await decide(world, "d2", "inbox")
    await world.fold()
    await follower.refresh()
    assert follower.posterior.arms == ("base", "calendar", "claims")
    assert "inbox" in (await world.store.changes()).names


async def test_evidence_of_another_router_is_left_alone(
    world: World, follower: SnapshotFollower, other_contexts: ContextMap, x: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """While a new router is rolled out, old and new Routers see commits that do not fit them."""
    await decide(world, "d1")
    await world.fold()
    await follower.refresh()
    known, version = widths(follower, x), follower.version
    with caplog.at_level(logging.CRITICAL):
        changed = Learner(world.store, other_contexts, learning_config(world.settings))
        await changed.start(world.registry)
    new = make_follower(world.settings, other_contexts, world.store)
    await new.start(other_contexts.fingerprint)
    assert (new.version, new.posterior.statistics("inbox").pulls) == (0, 0)
    await changed.step()
    await new.refresh()
    assert (new.version, new.posterior.statistics("inbox").pulls) == (version + 2, 1)  # the first one began anew
    await follower.refresh()
    assert (follower.version, widths(follower, x)) == (version, known)


async def test_no_version_is_taken_over_in_part(world: World, follower: SnapshotFollower) -> None:
    """Each commit pulls two arms once: whoever sees them differ has mixed two versions."""
    enough = asyncio.Event()
    committing = asyncio.create_task(commit_pairs(world, enough))
    seen: set[int] = set()
    while len(seen) < 12 and not committing.done():
        await follower.refresh(block_ms=50)
        pulls = [follower.posterior.statistics(arm).pulls for arm in ("inbox", "claims")]
        assert pulls[0] == pulls[1]
        seen.add(pulls[0])
    enough.set()
    await committing


async def commit_pairs(world: World, enough: asyncio.Event) -> None:
    for i in itertools.count():
        if enough.is_set():
            return
        await decide(world, f"i{i}", "inbox")
        await decide(world, f"c{i}", "claims")
        await world.learner.step()


async def test_deciding_goes_on_while_a_version_is_prepared(
    world: World, follower: SnapshotFollower, x: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Computing beliefs takes long where arms are many; it happens beside, and then all change at once."""
    begun, go = threading.Event(), threading.Event()
    prepare = Posterior.prepare

    def slow(self: Posterior, *arguments: Any) -> Prepared:
        begun.set()
        assert go.wait(60)
        return prepare(self, *arguments)

    monkeypatch.setattr(Posterior, "prepare", slow)
    for arm in ("inbox", "claims"):
        await decide(world, f"of {arm}", arm)
    await world.learner.step()
    refreshing = asyncio.create_task(follower.refresh())
    await asyncio.to_thread(begun.wait, 60)
    cold = widths(follower, x)
    at = await decide(world, "own")
    follower.decided(at, "inbox", x)
    assert widths(follower, x)["inbox"] < cold["inbox"]
    assert follower.version < (await world.store.learner_state()).version
    go.set()
    await refreshing
    assert [follower.posterior.statistics(arm).pulls for arm in ("inbox", "claims")] == [1, 1]
    assert follower.basis.pending == 1


async def never() -> bool:
    return False


async def test_following_waits_for_versions(world: World, follower: SnapshotFollower) -> None:
    following = asyncio.create_task(follower.follow(never))
    await decide(world, "d1")
    await world.learner.step()

    async def followed() -> bool:
        return follower.posterior.statistics("inbox").pulls == 1

    await eventually(followed)
    await end(following)
    assert following.cancelled()


async def test_an_empty_store_is_the_supervised_router(make_settings: Any, contexts: ContextMap, x: Rows) -> None:
    settings = make_settings()
    async with Store(
        settings.store.url.get_secret_value(), settings.store.prefix, reward_window_s=1, retention_s=1
    ) as empty:
        cold = make_follower(settings, contexts, empty)
        await cold.start(contexts.fingerprint)
        await cold.refresh()
    believed = means(cold, x)
    assert cold.version == 0
    assert max(believed, key=lambda arm: believed[arm]) == "inbox"
