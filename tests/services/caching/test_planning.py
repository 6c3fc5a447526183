"""Plans are made from the log and the beliefs, beside the fold."""

import asyncio
import time

import pytest

from cluster.plan_store import ReplicaRoom
from policies.caching.epochs import EpochConfig, Planner
from services.caching.plan_follower import PlanFollower
from services.caching.planning import PlanMaker, Prices
from services.catalogue.arms import Arms
from services.configuration import make_registry
from services.routing.switching import Routers
from tests.services.conftest import MakeWorld
from tests.services.world import World, end, eventually

EPOCH = EpochConfig(first=4, longest=4, window=8, horizon=8)


async def made(world: World, *pages: int) -> PlanMaker:
    """Who plans for replicas with so many pages each, not yet started."""
    for number, count in enumerate(pages or (1,)):
        room = ReplicaRoom(replica=f"replica {number}", time=time.time(), pages=count, page_in_ms=0)
        await world.store.tell_room(room)
    arms = Arms(make_registry(world.settings))
    routers = Routers(world.settings, world.store, arms, world.contexts)
    return PlanMaker(world.store, arms, routers, lambda: Planner(EPOCH), Prices(0.001, 100), pace_s=0)


async def ask_apart(world: World, *texts: str) -> None:
    """A run for each text, parted by requests for the base."""
    for text in texts:
        await world.ask(text)
        await world.ask(text, model="qwen")


@pytest.fixture
async def maker(world: World) -> PlanMaker:
    maker = await made(world)
    await maker.start()
    return maker


async def test_at_the_end_of_an_epoch_what_was_asked_for_is_planned(world: World, maker: PlanMaker) -> None:
    for _ in range(3):
        await world.ask("open the claims")
    assert await maker.step() is None
    assert await world.store.plan() is None
    await world.ask("open the claims")
    plan = await maker.step()
    assert plan is not None
    assert (plan.number, plan.requests, plan.pages, plan.target) == (1, 4, 1, ["claims"])
    assert plan.sizes == {world.registry["claims"].fingerprint: 1}
    assert await world.store.plan() == plan


async def test_the_plan_follows_the_requests_and_the_room(world: World, maker: PlanMaker) -> None:
    for name in ("claims", "inbox"):
        await ask_apart(world, *[f"open the {name}"] * 4)
        plan = await maker.step()
        assert plan is not None
        assert plan.target == [name]
    await ask_apart(world, *["open the claims"] * 2)
    larger = await made(world, 1, 2)
    await larger.start()
    plan = await larger.step()
    assert plan is not None
    assert (plan.requests, set(plan.target)) == (8, {"claims", "inbox"})


async def test_what_was_learned_counts(world: World, maker: PlanMaker) -> None:
    """The base turns out to do what claims was for, which is not worth keeping any more."""
    for _ in range(40):
        answer = await world.ask("open the claims", model="qwen")
        assert await world.say({"decision_id": answer["id"], "reward": 1.0}) == ["recorded"]
        answer = await world.ask("open the claims", model="claims")
        assert await world.say({"decision_id": answer["id"], "reward": 0.0}) == ["recorded"]
    await world.fold()
    await maker.step()
    await ask_apart(world, *["open the claims", "open the inbox"] * 2)
    plan = await maker.step()
    assert plan is not None
    assert plan.target == ["inbox"]


async def test_a_request_for_one_arm_wants_that_one(world: World, maker: PlanMaker) -> None:
    for _ in range(4):
        await world.ask("open the claims", model="inbox")
    plan = await maker.step()
    assert plan is not None
    assert plan.target == ["inbox"]


async def test_it_begins_with_what_was_asked_before_it_started(world: World) -> None:
    for _ in range(4):
        await world.ask("open the calendar")
    late = await made(world)
    await late.start()
    plan = await late.step()
    assert plan is not None
    assert (plan.requests, plan.target) == (4, ["calendar"])


async def test_it_begins_with_as_many_runs_as_it_plans_for(world: World) -> None:
    """The last eight decisions would be one run."""
    await ask_apart(world, *["open the inbox"] * 3)
    for _ in range(9):
        await world.ask("open the claims")
    late = await made(world)
    await late.start()
    plan = await late.step()
    assert plan is not None
    assert (plan.requests, plan.target) == (15, ["inbox"])


async def test_what_the_base_serves_is_no_run(world: World, maker: PlanMaker) -> None:
    for _ in range(20):
        await world.ask(model="qwen")
    plan = await maker.step()
    assert plan is not None
    assert plan.requests == EPOCH.window


async def test_it_waits_for_somebody_who_has_room(world: World) -> None:
    """After a restart of everything, it is there before the replicas."""
    for _ in range(4):
        await world.ask("open the calendar")
    arms = Arms(make_registry(world.settings))
    routers = Routers(world.settings, world.store, arms, world.contexts)
    early = PlanMaker(world.store, arms, routers, lambda: Planner(EPOCH), Prices(0.001, 100), pace_s=0)
    await early.start()
    assert await early.step() is None
    assert await world.store.plan() is None
    await world.store.tell_room(ReplicaRoom(replica="one", time=time.time(), pages=1, page_in_ms=0))
    plan = await early.step()
    assert plan is not None
    assert plan.target == ["calendar"]


async def test_it_runs_beside_everything_else(world: World) -> None:
    running = asyncio.create_task((await made(world)).run())
    for _ in range(4):
        await world.ask("open the claims")

    async def planned() -> bool:
        return await world.store.plan() is not None

    await eventually(planned)
    await end(running)


async def test_a_dear_page_in_keeps_more_and_one_that_is_free_nothing(world: World) -> None:
    maker = await made(world, 3)
    await maker.start()
    free = ReplicaRoom(replica="replica 0", time=time.time(), pages=3, page_in_ms=1e-9)
    for room, kept in ((None, True), (free, False)):
        if room:
            await world.store.tell_room(room)
        for _ in range(8):
            await world.ask("open the claims")
        plan = await maker.step()
        assert plan is not None
        assert bool(plan.target) == kept


async def test_a_price_that_is_tuned_meanwhile_counts(world: World) -> None:
    """What a millisecond costs may change while Routers run; decisions say what it was."""
    maker = await made(world, 3)
    await maker.start()
    for price, kept in ((0.001, True), (0.0, False)):
        world.router.tune(world.settings.tuned({"router": {"cost_per_ms": price}}))
        for _ in range(8):
            await world.ask("open the claims")
        plan = await maker.step()
        assert plan is not None
        assert bool(plan.target) == kept


async def test_a_replica_keeps_its_part_of_the_plan(make_world: MakeWorld) -> None:
    world: World = await make_world(cache={"policy": "polar"})
    maker = await made(world, 1)
    await maker.start()
    follower = PlanFollower(world.store, world.cache, "replica 0", 1.0)
    for name in ("claims", "inbox"):
        await ask_apart(world, *[f"open the {name}"] * 4)
        plan = await maker.step()
        assert plan is not None
        await follower.step()
        assert world.cache.view().plan == tuple(plan.target) == (name,)


@pytest.mark.parametrize("every_s", [0.01, 1.0, 30.0])
async def test_a_replica_has_room_as_long_as_it_says_so_in_time(make_world: MakeWorld, every_s: float) -> None:
    """It says so every `cache.plan_s`, and may miss that a few times."""
    world: World = await make_world(cache={"policy": "polar"})
    now = time.time()
    for name, silent_s in (("one", 0.0), ("two", 4 * every_s), ("gone", 5 * every_s + 11)):
        await world.store.tell_room(ReplicaRoom(replica=name, time=now - silent_s, pages=1, page_in_ms=0))
    arms = Arms(make_registry(world.settings))
    routers = Routers(world.settings, world.store, arms, world.contexts)
    maker = PlanMaker(world.store, arms, routers, lambda: Planner(EPOCH), Prices(0.001, 100), pace_s=every_s)
    await maker.start()
    for text in ["open the claims", "open the inbox"] * 4:
        await world.ask(text)
    plan = await maker.step()
    assert plan is not None
    assert (plan.pages, set(plan.target)) == (2, {"claims", "inbox"})
    await PlanFollower(world.store, world.cache, "one", every_s).step()
    assert [room.replica for room in await world.store.rooms(time.time(), every_s)] == ["one", "two"]


async def test_a_replica_whose_clock_is_behind_keeps_its_part(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose clock is ahead takes it for silent, and forgets it, between its own two words with the store."""
    world: World = await make_world(cache={"policy": "polar"})
    maker = await made(world, 1)
    await maker.start()
    for _ in range(8):
        await world.ask("open the claims")
    plan = await maker.step()
    assert plan is not None
    tell = world.store.tell_room

    async def told_and_forgotten(room: ReplicaRoom) -> None:
        await tell(room)
        await world.store.rooms(time.time() + 3600, 1.0)

    monkeypatch.setattr(world.store, "tell_room", told_and_forgotten)
    await PlanFollower(world.store, world.cache, "replica 0", 1.0).step()
    assert world.cache.view().plan == ("claims",)
