"""Trained routers that are pushed, activated and rolled back while requests go on."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from cluster.events import Decision, GuardReset, RouterActivated
from policies.context import ContextMap
from services.configuration import feedback_rules, learning_config, watch_config
from services.learning.folding import Folding
from services.learning.learner import Learner
from services.learning.verification import verify
from tests.services.conftest import MakeWorld, fit
from tests.services.world import World, end, eventually


def body(contexts: ContextMap) -> dict[str, Any]:
    document, tensors = contexts.files()
    return {"document": json.loads(document), "tensors": base64.b64encode(tensors).decode()}


@pytest.fixture
async def live(world: World) -> AsyncIterator[World]:
    """A world whose Learner runs by itself, with some evidence."""
    learner = Learner(
        world.store,
        world.contexts,
        learning_config(world.settings),
        feedback_rules(world.settings),
        watching=watch_config(world.settings),
        pace_ms=0,
    )
    running = asyncio.create_task(learner.run(world.registry))
    await rewarded(world, 6)
    yield world
    await end(running)


async def rewarded(world: World, n: int) -> None:
    answers = [await world.ask(f"task {i}: open the inbox") for i in range(n)]
    await world.say(*[{"decision_id": answer["id"], "reward": 1.0} for answer in answers])


async def push(world: World, contexts: ContextMap) -> dict[str, Any]:
    response = await world.post("/v1/routers", body(contexts))
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def activate(world: World, contexts: ContextMap) -> bool:
    response = await world.post(f"/v1/routers/{contexts.fingerprint}/activate", {})
    assert response.status_code == 200, response.text
    return bool(response.json()["changed"])


async def rolled_back(world: World) -> httpx.Response:
    return await world.post("/v1/routers/rollback", {})


async def deciding(world: World, contexts: ContextMap) -> None:
    """Wait until the Router decides with a router, on all evidence."""

    async def so() -> bool:
        behind = await world.router.decider.snapshots.behind()
        return world.router.decider.contexts.fingerprint == contexts.fingerprint and behind.events == 0

    await eventually(so)


async def test_a_router_is_activated_without_a_restart(live: World, other_contexts: ContextMap) -> None:
    assert (await push(live, other_contexts))["changed"]
    assert not (await push(live, other_contexts))["changed"]
    assert live.router.decider.contexts is live.contexts
    assert await activate(live, other_contexts)
    await deciding(live, other_contexts)
    answer = await live.ask("open the inbox")
    decisions = [event for event in await live.events() if isinstance(event, Decision)]
    assert decisions[-1].id == answer["id"]
    assert [decision.router for decision in decisions] == [live.contexts.fingerprint] * 6 + [other_contexts.fingerprint]
    (event,) = [event for event in await live.events() if isinstance(event, RouterActivated)]
    assert (event.router, event.by) == (other_contexts.fingerprint, "anonymous")


async def test_all_evidence_is_there_in_the_new_contexts_and_only_in_them(
    live: World, other_contexts: ContextMap
) -> None:
    await push(live, other_contexts)
    await activate(live, other_contexts)
    await deciding(live, other_contexts)
    await rewarded(live, 2)
    await deciding(live, other_contexts)
    statistics = live.router.decider.snapshots.posterior.statistics("inbox")
    assert (statistics.pulls, statistics.matured) == (8, 8)
    folding = Folding(
        other_contexts, learning_config(live.settings), feedback_rules(live.settings), watch_config(live.settings)
    )
    assert (await verify(live.store, folding, whole=True)).ok
    found = await live.get("/v1/bandit/verify?whole=true")
    assert found["ok"]


async def test_requests_go_on_while_the_router_changes(live: World, other_contexts: ContextMap) -> None:
    await push(live, other_contexts)
    stop = asyncio.Event()

    async def ask() -> int:
        asked = 0
        while not stop.is_set():
            await live.ask(f"task {asked}: open the claims")
            asked += 1
        return asked

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    await activate(live, other_contexts)
    await deciding_at_all(live, other_contexts)
    await live.ask("open the claims")
    stop.set()
    asked = sum(await asyncio.gather(*asking)) + 1
    await deciding(live, other_contexts)
    statistics = live.router.decider.snapshots.posterior.statistics("claims")
    assert (statistics.pulls, statistics.pending) == (asked, asked)


async def deciding_at_all(world: World, contexts: ContextMap) -> None:
    async def so() -> bool:
        return world.router.decider.contexts.fingerprint == contexts.fingerprint

    await eventually(so)


async def test_a_rollback_returns_to_what_was_active_before_and_activating_twice_changes_nothing(
    live: World, other_contexts: ContextMap
) -> None:
    third = fit(2.0)
    for contexts in (other_contexts, third):
        await push(live, contexts)
        assert await activate(live, contexts)
        assert not await activate(live, contexts)
    await deciding(live, third)
    for expected in (other_contexts, live.contexts):
        response = await rolled_back(live)
        assert response.json() == {"router": expected.fingerprint, "changed": True}
        await deciding(live, expected)
    refused = await rolled_back(live)
    assert refused.status_code == 409
    assert live.contexts.fingerprint in refused.json()["error"]["message"]
    assert live.router.decider.snapshots.posterior.statistics("inbox").matured == 6


async def test_the_list_says_who_decides(live: World, other_contexts: ContextMap) -> None:
    await push(live, other_contexts)

    async def states() -> dict[str, tuple[str, bool]]:
        return {view["router"]: (view["state"], view["configured"]) for view in await live.get("/v1/routers")}

    mine, other = live.contexts.fingerprint, other_contexts.fingerprint
    assert await states() == {mine: ("active", True), other: ("pushed", False)}
    await activate(live, other_contexts)
    await deciding(live, other_contexts)
    assert await states() == {mine: ("earlier", True), other: ("active", False)}


async def test_the_active_router_survives_a_restart(
    live: World, make_world: MakeWorld, other_contexts: ContextMap
) -> None:
    await push(live, other_contexts)
    await activate(live, other_contexts)
    await deciding(live, other_contexts)
    newer = await make_world()
    assert newer.router.decider.contexts.fingerprint == other_contexts.fingerprint
    assert newer.router.decider.snapshots.posterior.statistics("inbox").matured == 6


async def test_the_guard_begins_anew_with_another_router(live: World, other_contexts: ContextMap) -> None:
    await deciding(live, live.contexts)
    assert live.router.decider.snapshots.guard is not None
    assert live.router.decider.snapshots.guard.units == 6
    await push(live, other_contexts)
    await activate(live, other_contexts)
    await deciding(live, other_contexts)
    assert live.router.decider.snapshots.guard.units == 0
    assert not [event for event in await live.events() if isinstance(event, GuardReset)]


async def test_a_router_that_cannot_decide_here_is_refused(world: World, other_contexts: ContextMap) -> None:
    async def refused(changed: dict[str, Any], status: int = 400) -> str:
        response = await world.post("/v1/routers", changed)
        assert response.status_code == status, response.text
        return str(response.json()["error"]["message"])

    good = body(other_contexts)
    assert "broken base64" in await refused(good | {"tensors": "…"})
    assert "not readable" in await refused(good | {"tensors": base64.b64encode(b"tensors").decode()})
    assert "fingerprint" in await refused(good | {"document": good["document"] | {"temperature": 3.0}})
    response = await world.post("/v1/routers/0123456789abcdef/activate", {})
    assert response.status_code == 404


async def test_a_router_of_unknown_adapters_or_other_features_is_refused(world: World, contexts: ContextMap) -> None:
    other = replace(contexts, arms=("calendar", "claims", "tickets"))
    response = await world.post("/v1/routers", body(other))
    assert response.status_code == 409
    assert "tickets" in response.json()["error"]["message"]
    other = replace(contexts, features={"encode_blocks": 7})
    response = await world.post("/v1/routers", body(other))
    assert response.status_code == 400
    assert "encode_blocks 7, expected 2" in response.json()["error"]["message"]
    other = replace(contexts, features={"model": "0123456789abcdef"})
    response = await world.post("/v1/routers", body(other))
    assert response.status_code == 400
    assert "features.model 0123456789abcdef, expected" in response.json()["error"]["message"]


async def removed(world: World, contexts: ContextMap, status: int = 200) -> str:
    response = await world.http.delete(f"/v1/routers/{contexts.fingerprint}")
    assert response.status_code == status, response.text
    return response.text


async def test_a_router_is_removed_unless_it_decides_or_a_rollback_returns_to_it(
    live: World, other_contexts: ContextMap
) -> None:
    third, fourth = fit(2.0), fit(5.0)
    for contexts in (other_contexts, third, fourth):
        await push(live, contexts)
    assert "is unknown" in await removed(live, fit(6.0), 404)
    assert "router.path" in await removed(live, live.contexts, 409)
    for contexts in (other_contexts, third, other_contexts, fourth):
        await activate(live, contexts)
    await deciding(live, fourth)
    assert "is active" in await removed(live, fourth, 409)
    assert "what a rollback returns to" in await removed(live, other_contexts, 409)
    await removed(live, third)
    assert third.fingerprint not in [view["router"] for view in await live.get("/v1/routers")]
    assert await live.store.router_files(third.fingerprint) is None
    assert (await live.post(f"/v1/routers/{third.fingerprint}/activate", {})).status_code == 404
    for expected in (other_contexts, live.contexts):  # what was active before the one that is gone, each once
        assert (await rolled_back(live)).json()["router"] == expected.fingerprint
    await deciding(live, live.contexts)
    await removed(live, fourth)
    assert await push(live, fourth) == {"router": fourth.fingerprint, "changed": True}


async def test_removing_and_activating_at_once_leaves_no_active_router_without_files(
    live: World, other_contexts: ContextMap
) -> None:
    for _ in range(8):
        await push(live, other_contexts)
        name = other_contexts.fingerprint
        done = await asyncio.gather(
            live.post(f"/v1/routers/{name}/activate", {}), live.http.delete(f"/v1/routers/{name}")
        )
        if done[0].status_code == 200:
            assert done[1].status_code == 409
            assert await live.store.router_files(name)
            await rolled_back(live)
        else:
            assert [one.status_code for one in done] == [404, 200]
