"""A Router in front of two Model replicas: requests go where their adapters are, and on when a replica is lost."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import pytest
from ray.exceptions import RayActorError

from services.adapters.cache import AdapterCache
from services.adapters.cache_view import CacheView
from services.adapters.shelf import Adapter
from services.configuration import make_cache, make_shelf
from services.engine.base import Delta, Gate, Prompt, Sampling
from services.model.remote import RemoteModel
from services.model.replica import ModelReplica
from services.model.report import Encoded, ReplicaLost, Report
from tests.services.fakes import FakeEngine
from tests.services.world import World, chat, eventually


class Pair:
    """The Model protocol over two replicas in this process, or so many. A lost one fails whatever it does."""

    def __init__(self, world: World, *names: str) -> None:
        self.engines = {name: FakeEngine() for name in names or ("one", "two")}
        self.caches_: dict[str, AdapterCache[Any]] = {
            name: make_cache(world.settings, engine) for name, engine in self.engines.items()
        }
        shelf = make_shelf(world.settings)
        self.replicas = {
            name: ModelReplica(engine, self.caches_[name], shelf, name, slots=4)
            for name, engine in self.engines.items()
        }
        self.lost: set[str] = set()

    async def encode(self, prompt: Prompt, at: str = "") -> Encoded:
        return await self._at(at).encode(prompt)

    async def generate(
        self,
        prompt: Prompt,
        gates: Mapping[str, Gate],
        sampling: Sampling,
        adapters: Mapping[str, Adapter],
        at: str = "",
    ) -> AsyncGenerator[Delta, None]:
        async for delta in self._at(at).generate(prompt, gates, sampling, adapters):
            if at in self.lost:
                raise ReplicaLost(f"replica {at!r} is gone")
            yield delta

    async def look(self) -> list[Report]:
        return [(await self.replicas[name].look())[0] for name in self.engines if name not in self.lost]

    async def load(self, name: str, source: str, fingerprint: str = "") -> Adapter:
        loaded = [await replica.load(name, source, fingerprint) for replica in self.replicas.values()]
        return loaded[0]

    async def caches(self) -> list[CacheView]:
        return [await replica.cache() for replica in self.replicas.values()]

    def _at(self, name: str) -> ModelReplica:
        name = name or next(each for each in self.engines if each not in self.lost)
        if name in self.lost:
            raise ReplicaLost(f"replica {name!r} is gone")
        return self.replicas[name]


@pytest.fixture
async def pair(world: World) -> AsyncIterator[Pair]:
    """The world's Router, in front of two replicas that have nothing resident."""
    pair = Pair(world)
    world.serve_with(pair)
    await look(world)
    yield pair
    for cache in pair.caches_.values():
        cache.check_integrity()
        cache.close()


async def look(world: World) -> None:
    world.router.placement.all(await world.router.model.look())


async def served(world: World, decision_id: str) -> str:
    await world.settle()
    view = await world.get(f"/v1/decisions/{decision_id}")
    return str(view["completion"]["replica"])


async def test_requests_stay_with_the_replica_that_has_their_adapter(world: World, pair: Pair) -> None:
    first = {arm: await served(world, (await world.ask("hello", model=arm))["id"]) for arm in ("claims", "inbox")}
    for _ in range(4):
        for arm, replica in first.items():
            assert await served(world, (await world.ask("hello", model=arm))["id"]) == replica
    assert sum(cache.view().page_ins for cache in pair.caches_.values()) == 2


@pytest.mark.usefixtures("pair")
async def test_the_decision_logs_what_an_arm_would_wait_at_its_best_replica(world: World) -> None:
    await world.ask("hello", model="claims")
    explained = (await world.post("/v1/route", chat("open the calendar"))).json()
    costs = {arm["arm"]: arm["cost_ms"] for arm in explained["arms"]}
    assert explained["resident"] == ["claims"]
    assert costs["claims"] < 0.5 * costs["inbox"]
    assert costs["inbox"] == costs["calendar"] > 0


async def test_while_one_replica_is_busy_another_serves_the_same_adapter(world: World, pair: Pair) -> None:
    home = await served(world, (await world.ask("hello", model="claims"))["id"])
    (other,) = pair.engines.keys() - {home}
    pair.replicas[home]._answering._latest.extend([1000.0] * 32)  # its answers take a second each
    await look(world)
    pair.engines[home].gate.clear()
    waiting = [asyncio.create_task(world.ask(f"hello {n}", model="claims")) for n in range(12)]

    async def spread() -> bool:
        return len(pair.engines[other].generated) > 0

    await eventually(spread)
    pair.engines[home].gate.set()
    answers = await asyncio.gather(*waiting)
    assert len({answer["id"] for answer in answers}) == 12
    assert "claims" in [entry.name for entry in pair.caches_[other].view().device]


async def test_a_request_whose_replica_is_lost_before_it_said_anything_goes_to_another(
    world: World, pair: Pair
) -> None:
    home = await served(world, (await world.ask("hello", model="claims"))["id"])
    pair.lost.add(home)
    answer = await world.ask("hello again", model="claims")
    assert await served(world, answer["id"]) != home
    assert home not in world.router.placement.replicas
    assert "pointsman_resent_total 1.0" in (await world.http.get("/metrics")).text


async def test_an_answer_that_had_begun_is_cancelled_and_nothing_else(world: World, pair: Pair) -> None:
    home = await served(world, (await world.ask("hello", model="claims"))["id"])
    (other,) = pair.engines.keys() - {home}
    body = chat("hello", model="claims", stream=True)
    async with world.http.stream("POST", "/v1/chat/completions", json=body) as response:
        decision_id = response.headers["x-pointsman-decision-id"]
        pair.lost.add(home)
        text = (await response.aread()).decode()
    await world.settle()
    view = await world.get(f"/v1/decisions/{decision_id}")
    assert bool(view["cancellation"]) != bool(view["completion"])
    assert ("[DONE]" in text) == bool(view["completion"])
    assert ('"code": "replica_lost"' in text) == bool(view["cancellation"])
    assert await served(world, (await world.ask("hello", model="claims"))["id"]) == other


async def test_without_any_replica_the_client_is_told_to_try_again(world: World, pair: Pair) -> None:
    pair.lost |= pair.engines.keys()
    pair._at = lambda name: _raise(name)  # type: ignore[method-assign]
    response = await world.post("/v1/chat/completions", chat("hello", model="claims"))
    assert (response.status_code, response.json()["error"]["code"]) == (503, "replica_lost")
    assert response.headers["retry-after"] == "1"


async def test_while_a_replica_is_lost_an_adapter_is_to_be_added_again() -> None:
    class Handle:
        def broadcast(self, *_: str) -> "Handle":
            return self

        async def results_async(self) -> list[Adapter]:
            raise RayActorError

    handle: Any = Handle()
    with pytest.raises(ReplicaLost, match="a replica is gone: RayActorError"):
        await RemoteModel(handle).load("mail", "/mail")


def _raise(name: str) -> ModelReplica:
    raise ReplicaLost(f"replica {name!r} is gone")


async def test_a_replica_that_comes_is_found_by_looking(world: World, pair: Pair) -> None:
    pair.lost.add("two")
    await look(world)
    assert world.router.placement.replicas == ("one",)
    pair.lost.clear()

    async def found() -> bool:
        return world.router.placement.replicas == ("one", "two")

    await eventually(found)
