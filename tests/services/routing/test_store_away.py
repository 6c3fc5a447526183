"""The store goes away: a clear 503, nothing half done, and everything works again when it is back."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from cluster.redis_server import RedisServer
from cluster.request_store import Decided
from services.assembly import make_plans
from services.caching.plan_follower import PlanFollower
from services.configuration import make_store
from services.gateway import build_gateway
from services.routing import decision_ids
from tests.services.conftest import MakeWorld
from tests.services.fakes import CONTROL
from tests.services.world import World, chat, end, eventually, make_router

CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", chat()),
    ("POST", "/v1/chat/completions", chat(stream=True)),
    ("POST", "/v1/feedback", {"decision_id": "d", "reward": 1}),
    ("GET", "/v1/bandit", None),
    ("GET", "/v1/decisions", None),
    ("GET", "/v1/decisions/d", None),
    ("GET", "/readyz", None),
]


async def test_requests_fail_clearly_and_work_again(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path).start()
    try:
        world: World = await make_world(store={"url": server.url, "journal": 0})
        before = await world.ask("open the inbox")
        await world.say({"decision_id": before["id"], "reward": 1})
        await world.fold()
        with caplog.at_level(logging.CRITICAL):
            server.stop()
            responses = await asyncio.gather(*(world.http.request(m, path, json=body) for m, path, body in CALLS))
            for response in responses:
                error = response.json()["error"]
                assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "store_away")
                assert int(response.headers["retry-after"]) >= 1
            assert await world.get("/healthz") == {"status": "ok"}
            explained = await world.post("/v1/route", chat("open the inbox"))
            assert explained.json()["arm"] == "inbox"  # deciding needs no store
            assert world.engine.given_up == len(world.engine.generated) - 1  # nothing came of what was begun meanwhile
            server.start()

            async def back() -> bool:
                return not world.router.journal.away

            await eventually(back)
        await world.ask("open the inbox")
        assert await world.kinds() == ["decision", "completion", "feedback", "decision", "completion"]
        arm = await world.arm("inbox")
        assert (arm["pulls"], arm["pending"], arm["matured"]) == (2, 1, 1)
    finally:
        server.stop()


async def test_requests_are_served_from_the_last_snapshot_and_written_later(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path).start()
    try:
        world: World = await make_world(store={"url": server.url, "journal": 3, "patience_s": 0.5})
        known = await world.ask("open the inbox", episode="run")
        with caplog.at_level(logging.CRITICAL):
            server.stop()
            served = [await world.post("/v1/chat/completions", chat("open the inbox")) for _ in range(2)]
            stepping = await world.http.post(
                "/v1/chat/completions", json=chat("open the claims"), headers={"X-Episode-Id": "run"}
            )
            for response in (*served, stepping):
                assert response.status_code == 200, response.text
                assert response.headers["x-pointsman-durable"] == "false"
                assert response.json()["routing"]["durable"] is False
            refused = await world.post("/v1/chat/completions", chat("open the inbox"))
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "3 of at most 3 decisions are kept" in refused.json()["error"]["message"]
            rewarded = await world.post("/v1/feedback", {"decision_id": served[0].json()["id"], "reward": 1})
            assert (rewarded.status_code, rewarded.json()["error"]["code"]) == (503, "store_away")
            text = (await world.http.get("/metrics")).text
            assert "pointsman_store_away 1.0" in text
            assert "pointsman_kept_decisions 3.0" in text
            server.start()

            async def written() -> bool:
                return not world.router.journal.size and not world.router.journal.away

            await eventually(written)
        ids = [response.json()["id"] for response in (*served, stepping)]
        assert await world.say(*({"decision_id": id_, "reward": 1} for id_ in ids)) == ["recorded"] * 3
        await world.settle()
        views = [await world.get(f"/v1/decisions/{id_}") for id_ in ids]
        assert all(view["completion"] for view in views)
        assert [view["decision"]["episode"] for view in views] == [None] * 3
        kinds = await world.kinds()
        assert (kinds.count("decision"), kinds.count("completion"), kinds.count("feedback")) == (4, 4, 3)
        arms = [await world.arm(name) for name in ("inbox", "claims")]
        assert [(arm["pulls"], arm["pending"], arm["matured"]) for arm in arms] == [(3, 1, 2), (1, 0, 1)]
        after = await world.post("/v1/chat/completions", chat("open the inbox"))
        assert after.headers["x-pointsman-durable"] == "true"
        assert known["routing"]["durable"] is True
    finally:
        server.stop()


async def test_a_reward_that_comes_before_its_decision_is_written_is_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store answers again, and has not got yet what was kept: "unknown" would lose the reward."""

    async def away(*_: object, **__: object) -> Decided:
        raise ConnectionError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.router.store, "decide", away)
        reward = {"decision_id": (await world.ask("open the inbox"))["id"], "reward": 1}
        early = await world.post("/v1/feedback", [reward])
        assert (early.status_code, early.json()["error"]["code"]) == (503, "store_away")
        assert int(early.headers["retry-after"]) >= 1

    async def written() -> bool:
        return not world.router.journal.size

    await eventually(written)
    assert await world.say(reward) == ["recorded"]
    assert (await world.arm("inbox"))["matured"] == 1


async def test_a_store_that_is_back_is_noticed_where_nothing_was_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that fails by itself leaves nothing to be written."""

    async def away(_: str) -> None:
        raise ConnectionError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.router.store, "decision_of_request", away)
        refused = await world.post("/v1/chat/completions", chat(CONTROL), x_client_request_id="once")
        assert refused.status_code == 400

    async def noticed() -> bool:
        return not world.router.journal.away

    await eventually(noticed)
    asked = [await world.post("/v1/chat/completions", chat(), x_client_request_id="twice") for _ in range(2)]
    assert [each.headers["x-pointsman-durable"] for each in asked] == ["true", "true"]
    assert asked[0].json()["id"] == asked[1].json()["id"]


async def test_a_store_that_hangs_is_not_waited_for(make_world: MakeWorld, tmp_path: Path) -> None:
    """Requests wait once; a decision that had been written all the same is withdrawn, so that nothing stays pending."""
    server = RedisServer(tmp_path).start()
    try:
        world: World = await make_world(store={"url": server.url, "patience_s": 0.3})
        await world.ask("open the inbox")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            first = await world.post("/v1/chat/completions", chat("open the inbox"))
            started = time.monotonic()
            again = await world.post("/v1/chat/completions", chat("open the inbox"))
            assert time.monotonic() - started < 0.3
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert [each.headers["x-pointsman-durable"] for each in (first, again)] == ["false", "false"]

        async def written() -> bool:
            return not world.router.journal.size and not world.router.journal.away

        await eventually(written)
        await world.settle()
        arm = await world.arm("inbox")
        assert arm["pending"] == 3  # the one before, and the two that were served
    finally:
        server.stop()


async def test_feedback_does_not_wait_for_a_store_that_hangs(make_world: MakeWorld, tmp_path: Path) -> None:
    """It is refused within the patience, and at once as soon as that is known; other routes within the time-out."""
    server = RedisServer(tmp_path).start()
    try:
        world: World = await make_world(store={"url": server.url, "patience_s": 0.3})
        reward = {"decision_id": (await world.ask("open the inbox"))["id"], "reward": 1}
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for patience_s in (1.0, 0.3):
                started = time.monotonic()
                refused = await world.post("/v1/feedback", reward)
                assert time.monotonic() - started < patience_s
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_away")
                assert int(refused.headers["retry-after"]) >= 1
            started = time.monotonic()
            unread, unready = await asyncio.gather(world.http.get("/v1/decisions"), world.http.get("/readyz"))
            assert time.monotonic() - started < 8
            assert {unread.status_code, unready.status_code} == {503}
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await eventually(lambda: back(world))
        (status,) = await world.say(reward)
        assert status in ("recorded", "duplicate")  # the first try may have been written all the same
        assert (await world.arm("inbox"))["matured"] == 1
    finally:
        server.stop()


@contextlib.contextmanager
def read_only(_: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """A replica of nobody."""
    admin.replicaof("127.0.0.1", 1)
    yield
    admin.replicaof("NO", "ONE")


@contextlib.contextmanager
def out_of_memory(_: RedisServer, admin: redis.Redis) -> Iterator[None]:
    admin.config_set("maxmemory", 1)
    yield
    admin.config_set("maxmemory", 0)


@contextlib.contextmanager
def unable_to_save(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """A server that saves snapshots and finds no room for them refuses writes (MISCONF) until one succeeds."""
    admin.config_set("appendonly", "no")
    admin.config_set("save", "3600 1")
    limits = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    saved(admin, "err")
    yield
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, limits)
    saved(admin, "ok")


def saved(admin: redis.Redis, how: str) -> None:
    admin.bgsave()
    while admin.info()["rdb_last_bgsave_status"] != how:
        time.sleep(0.01)


async def back(world: World) -> bool:
    return not world.router.journal.size and not world.router.journal.away


@pytest.mark.parametrize("refusing", [read_only, out_of_memory, unable_to_save])
async def test_a_store_that_refuses_writes_counts_as_away(
    make_world: MakeWorld,
    tmp_path: Path,
    refusing: Callable[[RedisServer, redis.Redis], AbstractContextManager[None]],
) -> None:
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as admin:
        world: World = await make_world(store={"url": server.url, "journal": 2})
        known = await world.ask("open the inbox")
        with refusing(server, admin):
            served = [await world.post("/v1/chat/completions", chat("open the inbox")) for _ in range(2)]
            assert [response.headers["x-pointsman-durable"] for response in served] == ["false", "false"]
            full = await world.post("/v1/chat/completions", chat("open the inbox"))
            rewarded = await world.post("/v1/feedback", {"decision_id": known["id"], "reward": 1})
            unready = await world.http.get("/readyz")
            for refused in (full, rewarded, unready):
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_away")
                assert int(refused.headers["retry-after"]) >= 1
            await asyncio.sleep(0.7)  # the journal has tried meanwhile
            world.router.check()
            assert world.router.journal.size == 2
        await eventually(lambda: back(world))
        ids = [known["id"], *(response.json()["id"] for response in served)]
        assert await world.say(*({"decision_id": id_, "reward": 1} for id_ in ids)) == ["recorded"] * 3
        arm = await world.arm("inbox")
        assert (arm["pulls"] - arm["pending"], arm["matured"]) == (3, 3)


async def test_a_reward_is_not_unknown_to_a_router_while_another_one_keeps_its_decision(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> Decided:
        raise ConnectionError("the store is away")

    other = build_gateway(make_router(world.settings, world.contexts, world.engine), world.settings)
    transport = httpx.ASGITransport(other, raise_app_exceptions=False)
    async with (
        other.router.lifespan_context(other),
        httpx.AsyncClient(transport=transport, base_url="http://b") as http,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(world.router.store, "decide", away)
            reward = {"decision_id": (await world.ask("open the inbox"))["id"], "reward": 1}
            early = await http.post("/v1/feedback", json=reward)
            assert (early.status_code, early.json()["error"]["code"]) == (503, "store_away")
            assert "is not written yet" in early.json()["error"]["message"]
        await eventually(lambda: back(world))
        assert (await http.post("/v1/feedback", json=reward)).json()["results"][0]["status"] == "recorded"
        past = world.settings.learner.reward_window_s + 1
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: int((time.time() - past) * 1e9))
            lost = decision_ids.new(kept=True)
        assert (
            await world.say({"decision_id": lost, "reward": 1}, {"decision_id": "king", "reward": 1}) == ["unknown"] * 2
        )


async def test_a_replica_that_starts_while_the_store_is_away_goes_on(make_world: MakeWorld, tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    try:
        world: World = await make_world(store={"url": server.url})
        server.stop()
        store = make_store(world.settings)
        following = asyncio.create_task(PlanFollower(store, world.cache, "replica 0", 0.05).run())
        planning = asyncio.create_task(make_plans(world.settings).run())
        await asyncio.sleep(5.0)  # longer than its client tries
        assert not following.done()
        assert not planning.done()
        server.start()

        async def is_told() -> bool:
            return [room.replica for room in await store.rooms(time.time(), 1.0)] == ["replica 0"]

        await eventually(is_told)
        await end(following)
        await end(planning)
    finally:
        server.stop()
