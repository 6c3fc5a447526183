"""The Learner: resumes where it was, counts nothing twice, and gives way to a newer one."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import SecretStr
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from cluster.events import ArmRegistered, ArmRemoved, DriftFound
from cluster.learner_store import Fenced
from cluster.store import Store
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from services.adapters.registry import Registry
from services.configuration import learning_config, make_store
from services.learning.folding import Folding
from services.learning.learner import Learner
from services.learning.verification import verify
from tests.cutting_proxy import CuttingProxy
from tests.services.cli.test_cli import Terminal, plain
from tests.services.learning.test_fold import decision, reward
from tests.services.world import World, end, eventually, listening, write_adapters


def learner(
    world: World, contexts: ContextMap | None = None, *, store: Store | None = None, batch: int = 1000
) -> Learner:
    return Learner(
        store or world.store, contexts or world.contexts, learning_config(world.settings), batch=batch, pace_ms=0
    )


async def committed(world: World) -> dict[str, ArmStatistics]:
    return {arm: ArmStatistics.from_bytes(blob) for arm, (_, blob) in (await world.store.arms()).items()}


async def traffic(world: World, n: int = 6) -> None:
    """Decisions for one arm, all but the last rewarded with 0.5."""
    now = time.time()
    for i in range(n):
        await world.store.decide(decision(f"d{i}", time=now, adapters={"inbox": world.registry["inbox"].fingerprint}))
    await world.store.feedback([reward(f"d{i}", 0.5, time=now) for i in range(n - 1)])


def check(arm: ArmStatistics, n: int = 6) -> None:
    """The arm has folded `traffic` exactly once."""
    assert (arm.pulls, arm.pending, arm.matured, arm.reward_sum) == (n, 1, n - 1, (n - 1) / 2)
    assert arm.kappa == 1.0


async def test_the_arms_are_registered_once(world: World) -> None:
    registered = [event for event in await world.events() if isinstance(event, ArmRegistered)]
    assert {event.arm: event.adapter_hash for event in registered} == {
        "base": None, **{adapter.name: adapter.fingerprint for adapter in world.registry},
    }  # fmt: skip
    await learner(world).start(world.registry)
    assert len(await world.events()) == len(registered)


async def test_other_weights_and_removed_adapters_are_events(
    world: World, tmp_path_factory: pytest.TempPathFactory
) -> None:
    await traffic(world)
    await world.fold()
    directory = write_adapters(tmp_path_factory.mktemp("other"), ("inbox",))
    (directory / "inbox" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}'
    )
    seen = len(await world.events())
    newer = learner(world)
    await newer.start(Registry(directory))
    changed, *removed = (await world.events())[seen:]
    assert isinstance(changed, ArmRegistered)
    assert changed.arm == "inbox"
    assert {event.arm for event in removed if isinstance(event, ArmRemoved)} == {"calendar", "claims"}
    await newer.step()
    assert (await committed(world))["inbox"].kappa == world.settings.learner.version_carry


@pytest.mark.parametrize("batch", [1, 4, 1000])
async def test_it_folds_everything_once_whatever_the_batch(world: World, batch: int) -> None:
    await traffic(world)
    small = learner(world, batch=batch)
    await small.start(world.registry)
    while await small.step():
        pass
    check((await committed(world))["inbox"])
    assert (await world.store.learner_state()).position == (await world.store.event_range())[-1][0]


async def test_a_restarted_one_resumes(world: World) -> None:
    await traffic(world)
    for _ in range(4):
        again = learner(world, batch=3)
        await again.start(world.registry)
        await again.step()
    check((await committed(world))["inbox"])


async def test_an_older_one_is_fenced_and_writes_nothing(world: World) -> None:
    await learner(world).start(world.registry)
    await traffic(world)
    before = await world.store.learner_state()
    with pytest.raises(Fenced):
        await world.learner.step()
    assert await world.store.learner_state() == before


async def test_a_running_one_ends_when_another_takes_over(world: World) -> None:
    old = asyncio.create_task(learner(world).run(world.registry))

    async def epoch_is(n: int) -> bool:
        return (await world.store.learner_state()).epoch == n

    await eventually(lambda: epoch_is(2))
    new = asyncio.create_task(learner(world).run(world.registry))
    await eventually(lambda: epoch_is(3))
    await traffic(world)
    with pytest.raises(Fenced):
        await asyncio.wait_for(old, 60)

    async def folded() -> bool:
        return (await committed(world))["inbox"].matured == 5

    await eventually(folded)
    check((await committed(world))["inbox"])
    await end(new)


async def test_a_commit_whose_answer_is_lost_counts_once(world: World) -> None:
    """The client sends it again; the server knows it."""
    await traffic(world)
    async with (
        outage(world, "answer") as broken,
        way(world, broken.url) as shaky,
    ):
        unlucky = learner(world, store=shaky)
        await unlucky.start(world.registry)
        await unlucky.step()
        assert broken.cuts == 1
        check((await committed(world))["inbox"])
        await world.store.feedback([reward("d5", 0.5, time=time.time())])
        await unlucky.step()
    assert (await committed(world))["inbox"].matured == 6


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("refusals", [0, 1])
async def test_a_running_one_survives_an_outage(
    world: World, lost: Literal["request", "answer"], refusals: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The store goes away when something was folded; it may be away still at the first attempt to begin again."""
    await traffic(world)
    async with outage(world, lost, refusals) as broken, way(world, broken.url, patient=False) as shaky:
        with caplog.at_level(logging.CRITICAL):
            running = asyncio.create_task(learner(world, store=shaky).run(world.registry))

            async def folded() -> bool:
                return (await committed(world))["inbox"].pulls > 0 and broken.refused == refusals

            async def ticked() -> bool:
                return (await world.store.learner_state()).alive > before

            await eventually(folded)
            before = (await world.store.learner_state()).alive
            await eventually(ticked)
            await end(running)
    check((await committed(world))["inbox"])


async def test_it_waits_for_a_store_that_is_away_when_it_starts(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await traffic(world)
    register, attempts = world.store.change_arm, list[float]()

    async def shaky(*arguments: Any) -> Any:
        attempts.append(time.time())
        if len(attempts) == 1:
            raise ConnectionError("away")
        return await register(*arguments)

    monkeypatch.setattr(world.store, "change_arm", shaky)
    with caplog.at_level(logging.CRITICAL):
        running = asyncio.create_task(learner(world).run(world.registry))

        async def folded() -> bool:
            arms = await committed(world)
            return "inbox" in arms and arms["inbox"].pulls > 0

        await eventually(folded)
        await end(running)
    assert len(attempts) > 1
    check((await committed(world))["inbox"])


async def test_it_posts_timeouts_and_a_sign_of_life(world: World) -> None:
    began = time.time()
    await world.store.decide(decision("old", time=began - world.settings.learner.reward_window_s))
    running = asyncio.create_task(learner(world).run(world.registry))

    async def timed_out() -> bool:
        arm = (await committed(world)).get("inbox")
        return arm is not None and arm.pulls == 1 and arm.pending == 0

    await eventually(timed_out)
    assert began <= (await world.store.learner_state()).alive <= time.time()
    await end(running)


async def test_another_router_folds_the_events_again(
    world: World, other_contexts: ContextMap, caplog: pytest.LogCaptureFixture
) -> None:
    assert other_contexts.fingerprint != world.contexts.fingerprint
    await traffic(world)
    await world.fold()
    before = (await committed(world))["inbox"]
    with caplog.at_level(logging.CRITICAL):
        changed = learner(world, other_contexts, batch=5)
        await changed.start(world.registry)
        await changed.step()
        assert (await committed(world)).keys() == {"base", "calendar", "claims", "inbox"}
        while await changed.step():
            pass
    after = (await committed(world))["inbox"]
    check(after)
    assert not np.allclose(after.S, before.S)
    assert (await world.store.learner_state()).router == other_contexts.fingerprint


async def test_folding_again_may_be_interrupted(
    world: World, other_contexts: ContextMap, caplog: pytest.LogCaptureFixture
) -> None:
    await traffic(world)
    await world.fold()
    with caplog.at_level(logging.CRITICAL):
        for _ in range(8):
            interrupted = learner(world, other_contexts, batch=2)
            await interrupted.start(world.registry)
            await interrupted.step()
    check((await committed(world))["inbox"])


async def breaking(world: World, first: int, n: int = 60) -> None:
    """Decisions for one arm: two thirds of them succeed, then it fails."""
    now = time.time()
    for i in range(first, first + n):
        await world.store.decide(decision(f"d{i}", time=now, adapters={"inbox": "v1"}))
        await world.store.feedback([reward(f"d{i}", float(i < first + 2 * n // 3), time=now)])


async def drifts(world: World) -> list[DriftFound]:
    return [event for event in await world.events() if isinstance(event, DriftFound)]


@pytest.mark.parametrize("batch", [1, 7, 1000])
async def test_a_drift_is_one_event_after_the_reward_that_showed_it(
    world: World, other_contexts: ContextMap, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    """However often a Learner begins again in between, and though the log is folded again later."""
    caplog.set_level(logging.CRITICAL)
    await breaking(world, 0)
    for _ in range(20):
        again = learner(world, batch=batch)
        await again.start(world.registry)
        for _ in range(9 if batch == 1 else 1):
            await again.step()
    found, alarms = await drifts(world), (await committed(world))["inbox"].alarms
    assert [(one.arm, one.tick, one.worse, one.kappa) for one in found] == [
        ("inbox", alarm.tick, alarm.worse, alarm.kappa) for alarm in alarms
    ]
    assert len(found) == 1
    events = await world.events()
    said = next(i for i, event in enumerate(events) if event.type == "feedback" and event.time == found[0].time)
    assert events.index(found[0]) > said
    assert found[0].decision_id == f"d{found[0].tick - 1}"
    other = learner(world, other_contexts, batch=5)
    await other.start(world.registry)
    while await other.step():
        pass
    assert await drifts(world) == found  # another fold may see it elsewhere: the log tells what was found at the time
    await breaking(world, 100)
    while await other.step():
        pass
    assert len(await drifts(world)) > len(found)
    assert (await verify(world.store, Folding(other_contexts, learning_config(world.settings)), whole=True)).ok


async def test_a_drift_is_shown_and_counted(world: World) -> None:
    await breaking(world, 0)
    await world.fold()
    (shown,) = (await world.get("/v1/bandit/arms/inbox"))["drifts"]
    assert (shown["worse"], shown["kappa"]) == (True, 0.25)
    metrics = (await world.http.get("/metrics")).text
    assert 'pointsman_drifts{arm="inbox",direction="worse"} 1.0' in metrics
    assert 'pointsman_drifts{arm="inbox",direction="better"} 0.0' in metrics
    async with listening(world.app) as url:
        said = plain(await Terminal(url)("bandit"))
    assert f"inbox: since decision {shown['tick']}" in said
    assert "it earns less than was believed" in said
    assert "trust 0.25" in said


def outage(world: World, lost: Literal["request", "answer"], refusals: int = 0) -> CuttingProxy:
    """A way to the world's store that breaks at the first commit of an arm, whose blob begins with its scalars."""
    proxy = CuttingProxy(world.settings.store.url.get_secret_value(), mark=b"scalars", lost=lost, refusals=refusals)
    proxy.armed = True
    return proxy


@contextlib.asynccontextmanager
async def way(world: World, url: str, *, patient: bool = True) -> AsyncIterator[Store]:
    """The world's store over another way; without patience its client tries everything once."""
    store = world.settings.store.model_copy(update={"url": SecretStr(url)})
    made = make_store(world.settings.model_copy(update={"store": store}))
    if not patient:
        made._redis.connection_pool.connection_kwargs["retry"] = Retry(NoBackoff(), 0)
    async with made as opened:
        yield opened
