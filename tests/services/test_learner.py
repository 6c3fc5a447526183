"""The Learner: resumes where it was, counts nothing twice, and gives way to a newer one."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from cluster.events import ArmRegistered, ArmRemoved
from cluster.learner_store import Fenced
from cluster.store import Store
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from services.adapters.registry import Registry
from services.configuration import learning_config
from services.learner import Learner
from tests.cluster.cutting_proxy import CuttingProxy
from tests.services.test_fold import decision, reward
from tests.services.world import World, eventually, make_store, write_adapters


@pytest.fixture
async def cut(world: World) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(world.settings.store.url) as proxy:
        yield proxy


@pytest.fixture
async def cut_store(world: World, cut: CuttingProxy) -> AsyncIterator[Store]:
    store = world.settings.store.model_copy(update={"url": cut.url})
    async with make_store(world.settings.model_copy(update={"store": store})) as opened:
        yield opened


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
    await asyncio.sleep(0.05)
    new = asyncio.create_task(learner(world).run(world.registry))

    async def epoch_is(n: int) -> bool:
        return (await world.store.learner_state()).epoch >= n

    await eventually(lambda: epoch_is(3))
    await traffic(world)
    with pytest.raises(Fenced):
        await asyncio.wait_for(old, 5)

    async def folded() -> bool:
        return (await committed(world))["inbox"].matured == 5

    await eventually(folded)
    check((await committed(world))["inbox"])
    new.cancel()
    await asyncio.wait([new])


async def test_a_commit_whose_answer_is_lost_counts_once(world: World, cut: CuttingProxy, cut_store: Store) -> None:
    await traffic(world)
    unlucky = learner(world, store=cut_store)
    await unlucky.start(world.registry)
    cut.armed = True
    await unlucky.step()
    assert cut.cuts == 1
    check((await committed(world))["inbox"])
    await world.store.feedback([reward("d5", 0.5, time=time.time())])
    await unlucky.step()
    assert (await committed(world))["inbox"].matured == 6


async def test_a_running_one_survives_an_outage(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The way to the store is gone for longer than the client tries, just when something was folded."""
    async with Outage(world.settings.store.url) as outage:
        store = world.settings.store.model_copy(update={"url": outage.url})
        settings = world.settings.model_copy(update={"store": store})
        async with make_store(settings) as shaky:
            running = asyncio.create_task(learner(world, store=shaky).run(world.registry))

            async def alive() -> bool:
                return (await world.store.learner_state()).epoch == 2

            await eventually(alive)
            with caplog.at_level(logging.CRITICAL):
                outage.breaks_at = b"EVALSHA"
                await traffic(world)

                async def noticed() -> bool:
                    return outage.refused > 12

                await eventually(noticed)
                outage.end()

                async def folded() -> bool:
                    return (await committed(world))["inbox"].matured == 5

                await eventually(folded)
            check((await committed(world))["inbox"])
            running.cancel()
            await asyncio.wait([running])


async def test_it_posts_timeouts_and_a_sign_of_life(world: World) -> None:
    await world.store.decide(decision("old", time=time.time() - world.settings.learner.reward_window_s))
    running = asyncio.create_task(learner(world).run(world.registry))

    async def timed_out() -> bool:
        arm = (await committed(world)).get("inbox")
        return arm is not None and arm.pulls == 1 and arm.pending == 0

    await eventually(timed_out)
    assert (await world.store.learner_state()).alive == pytest.approx(time.time(), abs=5)
    running.cancel()
    await asyncio.wait([running])


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


class Outage:
    """A way to the server that breaks when told to, and stays broken until the outage ends."""

    def __init__(self, url: str) -> None:
        self._proxy = CuttingProxy(url)
        self.breaks_at = b""
        self.broken = False
        self.refused = 0

    async def __aenter__(self) -> "Outage":
        host, port = self._proxy._upstream.hostname, self._proxy._upstream.port

        async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
            if self.broken:
                self.refused += 1
                to_client.close()
                return
            server, to_server = await asyncio.open_connection(host, port)
            try:
                while request := await client.read(1 << 20):
                    self.broken = self.broken or bool(self.breaks_at and self.breaks_at in request)
                    if self.broken:
                        break
                    to_server.write(request)
                    to_client.write(await server.read(1 << 20))
            finally:
                to_server.close()
                to_client.close()

        self._server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    def end(self) -> None:
        """Let everything through again."""
        self.broken, self.breaks_at = False, b""
