"""What each setting of the cache, and of when a Router looks at the replicas, changes.

Where adapters may come from, and how large they may be, is in `adapters/test_refusals.py` and `adapters/test_hub.py`;
pins in `adapters/test_lifecycle.py`; `cache.device_rows` on real replicas in `tests/cluster/test_residency.py`.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.plan_store import ReplicaRoom
from cluster.settings import Settings
from policies.caching.epochs import Planner
from services.adapters.cache import AdapterCache
from services.assembly import make_plans
from services.caching.planning import PlanMaker, Prices
from services.catalogue.arms import Arms
from services.configuration import base_names, epoch_config, make_cache, make_registry, make_shelf
from services.engine.base import Message, Part, Prompt, Sampling
from services.model.replica import ModelReplica
from services.routing.switching import Routers
from tests.services.conftest import MakeSettings, MakeWorld
from tests.services.fakes import FakeBlob, FakeDevice, FakeEngine
from tests.services.world import World, end, eventually

PROMPT = Prompt((Message("user", (Part(text="hello"),)),))


class SlowDevice(FakeDevice):
    """Adapters take as long to page in as it is told, in seconds."""

    def __init__(self, pages: int, seconds: dict[str, float]) -> None:
        super().__init__(pages)
        self._seconds = seconds

    def page_in(self, key: str, host: FakeBlob, pages: Sequence[int]) -> None:
        time.sleep(self._seconds.get(host.name, 0.02))
        super().page_in(key, host, pages)


class Replica:
    """A Model replica as settings make it, on a device for a few adapters of a page each."""

    def __init__(self, settings: Settings, device: FakeDevice) -> None:
        engine = FakeEngine()
        engine.memory = device
        self.cache: AdapterCache[Any] = make_cache(settings, engine)
        self.registry = make_registry(settings)
        self._model = ModelReplica(engine, self.cache, make_shelf(settings))

    async def serve(self, *names: str) -> None:
        """One request after the other."""
        for name in names:
            deltas = self._model.generate(PROMPT, {name: 1.0}, Sampling(4), {name: self.registry[name]})
            _ = [delta async for delta in deltas]

    @property
    def resident(self) -> set[str]:
        return {entry.name for entry in self.cache.view().device}


@asynccontextmanager
async def replica(settings: Settings, pages: int, **seconds: float) -> AsyncIterator[Replica]:
    made = Replica(settings, SlowDevice(pages, seconds))
    yield made
    made.cache.check_integrity()
    made.cache.close()


@pytest.mark.parametrize(("budget", "reads"), [(0, 4), (1, 4), (2, 0)])
async def test_host_bytes_save_reading_from_disk(make_settings: MakeSettings, budget: int, reads: int) -> None:
    """Two adapters of a byte each take turns on one page."""
    async with replica(make_settings(cache={"host_bytes": budget}), pages=1) as made:
        await made.serve("inbox", "claims")
        before = made.cache.view().disk_reads
        await made.serve("inbox", "claims", "inbox", "claims")
        view = made.cache.view()
        assert (view.disk_reads - before, view.host_budget, view.host_bytes) == (reads, budget, budget)


@pytest.mark.parametrize(
    ("policy", "often", "slow"),
    [
        ("lru", "claims", "claims"),
        ("lfu", "inbox", "claims"),
        ("gdsf", "inbox", "inbox"),
        ("polar", "claims", "claims"),
        ("polar_plus", "claims", "claims"),
    ],
)
async def test_the_policy_chooses_who_leaves(make_settings: MakeSettings, policy: str, often: str, slow: str) -> None:
    """Who stays beside the calendar: the inbox, used often but long ago or slow to fetch, or the claims, used last."""
    settings = make_settings(cache={"policy": policy})
    async with replica(settings, pages=2) as made:
        await made.serve("inbox", "inbox", "inbox", "claims", "calendar")
        assert made.resident == {often, "calendar"}
    async with replica(settings, pages=2, inbox=0.3) as made:
        await made.serve("inbox", "claims", "claims", "calendar")
        assert made.resident == {slow, "calendar"}


@pytest.mark.parametrize(("policy", "stays"), [("lru", "claims"), ("polar", "inbox"), ("polar_plus", "inbox")])
async def test_only_polar_follows_a_plan(make_settings: MakeSettings, policy: str, stays: str) -> None:
    async with replica(make_settings(cache={"policy": policy}), pages=2) as made:
        await made.serve("inbox", "claims")
        made.cache.plan([made.registry["inbox"].fingerprint])
        await made.serve("calendar")
        assert made.resident == {stays, "calendar"}


async def test_the_service_shows_what_was_set(make_world: MakeWorld) -> None:
    world = await make_world(cache={"host_bytes": 12345, "policy": "gdsf"})
    (view,) = await world.get("/v1/cache")
    assert (view["host_budget"], view["policy"]) == (12345, "gdsf")


class TestPlans:
    """Of the settings `plan_…` and `epoch…`: when a plan is made, of how many requests, and what is worth fetching."""

    async def maker(self, make_world: MakeWorld, price: float = 0.1, **cache: Any) -> tuple[World, PlanMaker]:
        """A service, and who plans for a replica with a page."""
        cache = {"policy": "polar_plus", "epoch": 2, "epoch_longest": 4, **cache}
        world: World = await make_world(cache=cache, router={"cost_per_ms": price})
        await world.store.tell_room(ReplicaRoom(replica="one", time=time.time(), pages=1, page_in_ms=0))
        arms = Arms(make_registry(world.settings))
        routers = Routers(world.settings, world.store, arms, world.contexts)
        epochs = epoch_config(world.settings)
        made = PlanMaker(world.store, arms, routers, lambda: Planner(epochs), Prices(price, 1), pace_s=0)
        await made.start()
        return world, made

    @pytest.mark.parametrize(
        ("cache", "planned_at"),
        [
            ({}, [2, 6, 10]),
            ({"policy": "polar"}, [4, 8, 12]),
            ({"epoch": 1}, [1, 3, 7, 11]),
            ({"epoch_longest": 2}, [2, 4, 6, 8, 10, 12]),
        ],
    )
    async def test_epochs(self, make_world: MakeWorld, cache: dict[str, Any], planned_at: list[int]) -> None:
        world, maker = await self.maker(make_world, **cache)
        found = []
        for number in range(1, 13):
            await world.ask("open the claims")
            if await maker.step():
                found.append(number)
        assert found == planned_at

    @pytest.mark.parametrize(("window", "requests", "target"), [(3, 3, ["inbox"]), (100, 10, ["claims"])])
    async def test_window(self, make_world: MakeWorld, window: int, requests: int, target: list[str]) -> None:
        """Three runs for one adapter, then two for another, parted by the base's."""
        world, maker = await self.maker(make_world, plan_window=window)
        plan = None
        for name in ["claims"] * 3 + ["inbox"] * 2:
            await world.ask(f"open the {name}")
            await world.ask(model="qwen")
            plan = await maker.step() or plan
        assert plan is not None
        assert (plan.requests, plan.target) == (requests, target)

    @pytest.mark.parametrize(("horizon", "target"), [(1, []), (100, ["claims"])])
    async def test_horizon(self, make_world: MakeWorld, horizon: int, target: list[str]) -> None:
        """A page-in that costs as much as two requests gain."""
        world, maker = await self.maker(make_world, price=1.0, plan_horizon=horizon)
        assert await self.planned(world, maker) == target

    @pytest.mark.parametrize(("caution", "target"), [(0.0, ["claims"]), (50.0, [])])
    async def test_caution(self, make_world: MakeWorld, caution: float, target: list[str]) -> None:
        world, maker = await self.maker(make_world, plan_caution=caution)
        assert await self.planned(world, maker) == target

    async def planned(self, world: World, maker: PlanMaker) -> list[str]:
        for _ in range(2):
            await world.ask("open the claims")
        plan = await maker.step()
        assert plan is not None
        return plan.target

    @pytest.mark.parametrize(("pace", "plans"), [(0.01, 2), (60.0, 1)])
    async def test_pace(self, make_world: MakeWorld, tmp_path: Path, pace: float, plans: int) -> None:
        """Two epochs one after the other."""
        world, _ = await self.maker(make_world, epoch_longest=2, plan_s=pace)
        world.contexts.save(tmp_path / "router")
        router = world.settings.router.model_copy(update={"path": tmp_path / "router"})
        running = asyncio.create_task(make_plans(world.settings.model_copy(update={"router": router})).run())
        for number in (1, plans):
            for _ in range(2):
                await world.ask("open the claims")
            await eventually(self.has_made(world, number))
        await asyncio.sleep(0.3)
        plan = await world.store.plan()
        assert plan is not None
        assert plan.number == plans
        await end(running)

    def has_made(self, world: World, number: int) -> Callable[[], Any]:
        async def condition() -> bool:
            plan = await world.store.plan()
            return plan is not None and plan.number >= number

        return condition


@pytest.mark.parametrize(("every_s", "least", "most"), [(0.02, 5, 1000), (60.0, 0, 1)])
async def test_a_router_looks_at_the_replicas_again_and_again(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, every_s: float, least: int, most: int
) -> None:
    world = await make_world(router={"look_s": every_s})
    looks, look = [], world.router.model.look

    async def counted() -> Any:
        looks.append(time.monotonic())
        return await look()

    monkeypatch.setattr(world.router.model, "look", counted)
    await asyncio.sleep(1.0)
    assert least <= len(looks) <= most


@pytest.mark.parametrize(("look_s", "counted_on"), [(0.05, False), (60.0, True)])
async def test_a_replica_that_is_silent_for_three_looks_is_not_counted_on(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, look_s: float, counted_on: bool
) -> None:
    world = await make_world(router={"look_s": look_s})
    await world.ask("hello")

    async def silent() -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(world.router.model, "look", silent)
    await asyncio.sleep(0.5)
    assert bool(world.router.placement.replicas) == counted_on


def test_other_names_of_the_base_may_be_allowed(make_settings: MakeSettings) -> None:
    own = base_names(make_settings())
    assert base_names(make_settings(cache={"bases": ["Qwen/Qwen3-VL-4B"]})) == own | {"Qwen3-VL-4B"}
