"""`bandit verify`: the posterior in use against the fold of its log."""

import json
import logging
import time

import pytest

from policies.evidence import ArmStatistics
from services.learning.learner import Learner
from services.learning.verification import NotComparable, verify
from tests.services.cli.test_cli import Terminal, plain
from tests.services.learning.test_fold import decision, reward
from tests.services.learning.test_sealing import COLD, archive, folding, log, sealer
from tests.services.world import World, listening


async def traffic(world: World) -> None:
    now, print_ = time.time(), world.registry["inbox"].fingerprint
    for i in range(4):
        await world.store.decide(decision(f"d{i}", time=now, adapters={"inbox": print_}))
    await world.store.feedback([reward(f"d{i}", 0.75, time=now) for i in range(3)])
    await world.fold()


async def change(world: World, name: str, factor: float) -> None:
    """Change a number of an arm in use."""
    statistics = ArmStatistics.from_bytes((await world.store.arm_blobs(["inbox"]))["inbox"])
    setattr(statistics, name, getattr(statistics, name) * factor)
    await world.store._redis.set(world.store._key("arm", "inbox"), statistics.to_bytes())


async def test_the_command_folds_the_log_of_a_live_service(world: World) -> None:
    await traffic(world)
    async with listening(world.app) as url:
        terminal = Terminal(url)
        said = plain(await terminal("bandit", "verify"))
        assert "the posterior is what the log comes to" in said
        assert "inbox 0.0e+00 0.0e+00 0.0e+00 equal" in said
        await change(world, "e", 1 + 3e-9)
        found = json.loads(await terminal("bandit", "verify", "--json", code=1))
    assert found["ok"] is False
    (inbox,) = [arm for arm in found["arms"] if arm["arm"] == "inbox"]
    assert 2e-9 < inbox["e"] < 4e-9
    assert (inbox["S"], inbox["counts_equal"]) == (0.0, True)


@pytest.mark.parametrize(
    ("name", "factor"), [("S", 1 + 3e-9), ("e", 1 + 3e-9), ("P", 1 + 3e-9), ("pulls", 2), ("kappa", 0.5)]
)
async def test_every_part_of_an_arm_is_compared(world: World, name: str, factor: float) -> None:
    await traffic(world)
    assert (await verify(world.store, folding(world))).ok
    await change(world, name, factor)
    assert not (await verify(world.store, folding(world))).ok


async def test_a_missing_arm_is_a_difference(world: World) -> None:
    await traffic(world)
    await world.store._redis.hdel(world.store._key("arms"), "inbox")
    found = await verify(world.store, folding(world))
    assert [arm.arm for arm in found.arms if arm.largest > 0] == ["inbox"]


async def test_events_that_are_not_folded_yet_do_not_count(world: World) -> None:
    await traffic(world)
    await world.store.feedback([reward("d3", 0.0, time=time.time())])
    found = await verify(world.store, folding(world))
    assert found.ok
    assert found.position != (await world.store.event_range())[-1][0]
    assert len(await log(world)) > 0


async def test_a_log_whose_beginning_is_gone_is_compared_from_the_checkpoint_only(world: World) -> None:
    await traffic(world)
    await sealer(world, segment=2).step(COLD)
    assert (await verify(world.store, folding(world), whole=True)).ok
    kept = archive(world).segments()[-2]
    archive(world).drop(kept.after)
    with pytest.raises(NotComparable, match=r"events up to .* are gone, as store.keep_s says"):
        await verify(world.store, folding(world), whole=True)
    assert (await verify(world.store, folding(world))).ok


async def test_what_is_folded_in_another_way_is_not_compared(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await traffic(world)
    learner = world.settings.learner.model_copy(update={"discount": 0.5})
    other = world.settings.model_copy(update={"learner": learner})
    with pytest.raises(NotComparable, match=f"expected {folding(world, settings=other).signature}"):
        await verify(world.store, folding(world, settings=other))
    with caplog.at_level(logging.CRITICAL):
        again = Learner(world.store, world.contexts, folding(world, settings=other).config, batch=2)
        await again.start(world.registry)
        await again.step()
        with pytest.raises(NotComparable):
            await verify(world.store, folding(world, settings=other))
        while await again.step():
            pass
    assert (await verify(world.store, folding(world, settings=other))).ok
