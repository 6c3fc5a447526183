"""Deletion on request: nothing is left in log, store or posterior, and what is in use is what its log comes to."""

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from typing import Any, cast

import httpx
import pytest

from cluster.archive import Archive
from cluster.events import Decision, DriftFound, Event, Feedback, Forgotten
from cluster.store import Store
from policies.evidence import ArmStatistics
from services.learning.fold import Fold
from services.learning.learner import FORGETTING, Learner
from services.learning.states import FROZEN
from services.learning.verification import relative, verify
from tests.services.auth_keys import bearer, keys
from tests.services.cli.test_cli import Terminal, plain
from tests.services.conftest import MakeWorld
from tests.services.learning.test_fold import decision, reward
from tests.services.learning.test_learner import committed
from tests.services.learning.test_sealing import COLD, archive, folding, log, sealer
from tests.services.world import World, chat, end, eventually, listening

KEYS = [*keys("acme", tenant="acme"), *keys("beta", tenant="beta"), *keys("judge", "operator")]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
async def shared(make_world: MakeWorld) -> World:
    """Two tenants and a judge, half of what they did sealed, and the end of it not folded yet."""
    world: World = await make_world(auth={"keys": KEYS}, learner={"discount": 0.9, "drift_threshold": 0})
    for round_ in range(3):
        for tenant in ("acme", "beta"):
            for i in range(4):
                named = {"x_episode_id": f"e{i}"} if i < 2 else {}
                await call(world, tenant, "POST", "/v1/chat/completions", chat("open the inbox"), **named)
        await world.settle()
        for made in [event for event in await world.events() if isinstance(event, Decision)]:
            target = {"episode_id": made.episode} if made.episode else {"decision_id": made.id}
            words = [Feedback(time=time.time(), source="judge", key="judge", reward=round_ / 4, **target)]
            if made.tenant == "acme":
                said = {"source": "me", "key": "acme", "tenant": "acme", "comment": "of acme's"}
                words.append(Feedback.model_validate({"time": time.time(), "reward": 1.0, **said, **target}))
            await world.store.feedback(words)
        if round_ < 2:
            await world.fold()
            await sealer(world, segment=7).step(COLD)
    assert len(archive(world).segments()) > 2
    assert len(await world.store.event_range()) > 10
    return world


async def call(world: World, key: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await world.http.request(method, path, json=body, headers={"Authorization": bearer(key), **named})


async def take_over(world: World) -> None:
    """Another Learner begins, and folds what there is."""
    world.learner = Learner(world.store, world.contexts, folding(world).config, folding(world).rules)
    await world.learner.start(world.registry)
    while await world.learner.step():
        pass


async def forget(world: World, **what: str) -> Forgotten:
    """Ask for it and have it done."""
    response = await call(world, "operator", "POST", "/v1/forget", what)
    assert response.status_code == 202, response.text
    await take_over(world)
    view = (await call(world, "operator", "GET", f"/v1/forget/{response.json()['id']}")).json()
    return Forgotten.model_validate(view["done"])


async def traces(store: Store, ids: Sequence[str]) -> list[str]:
    """Keys of Redis that name one of the ids, or whose values do."""
    found = []
    async for key in store._redis.scan_iter(store._key("*"), count=1000):
        kind = cast(bytes, await store._redis.type(key)).decode()
        reads: dict[str, Any] = {
            "string": store._redis.get, "hash": store._redis.hgetall, "set": store._redis.smembers,
            "list": lambda name: store._redis.lrange(name, 0, -1),
            "zset": lambda name: store._redis.zrange(name, 0, -1),
            "stream": lambda name: store._redis.xrange(name),
        }  # fmt: skip
        content = repr((key, await reads[kind](key)))
        if b":versions" not in key and any(id_ in content for id_ in ids):
            found.append(key.decode())
    return found


def without(events: Sequence[Event], gone: set[str]) -> list[Event]:
    """The events that are about other decisions too, or about none."""
    kept = []
    for event in events:
        about = {event.id} if isinstance(event, Decision) else Fold.references(event)
        if not about or about - gone:
            kept.append(event)
    return kept


async def expected(world: World, events: Sequence[Event]) -> dict[str, ArmStatistics]:
    """What a fold makes of the events."""
    fold = folding(world).start({})
    for event in events:
        fold.apply(event, {})
    return fold.arms


async def check(world: World, arms: dict[str, ArmStatistics]) -> None:
    """What is in use is this, and what the log comes to."""
    used = await committed(world)
    assert used.keys() == arms.keys()
    for arm, known in arms.items():
        assert (used[arm].pulls, used[arm].matured, used[arm].pending) == (known.pulls, known.matured, known.pending)
        assert relative(used[arm].S, known.S) < 1e-12
        assert relative(used[arm].e, known.e) < 1e-12
    for whole in (True, False):
        assert (await verify(world.store, folding(world), whole=whole)).ok
    state = await world.store.learner_state()
    assert (state.rebuilding, (await world.store.behind(state.position, state.folded)).events) == ("", 0)


async def test_a_tenant_is_gone_from_log_store_and_posterior(shared: World) -> None:
    events = await log(shared)
    acme = {event.id for event in events if isinstance(event, Decision) and event.tenant == "acme"}
    left = without(events, acme)
    done = await forget(shared, tenant="acme")
    assert (done.decisions, done.events, done.by) == (12, len(events) - len(left), "operator")
    after = [event for event in await log(shared) if event.type != "erased"]
    assert after == [*left, done]
    assert "acme" not in repr(after[:-1])
    assert await traces(shared.store, [*acme, "of acme's", "acme:e0"]) == []
    await check(shared, await expected(shared, left))
    assert (await call(shared, "operator", "GET", "/v1/decisions?tenant=acme")).json() == []
    await sealer(shared, segment=3).step(COLD)
    assert (await verify(shared.store, folding(shared))).ok


async def test_a_decision_leaves_the_rest_of_its_episode(shared: World) -> None:
    events = await log(shared)
    gone = next(event for event in events if isinstance(event, Decision) and event.episode == "beta:e1")
    done = await forget(shared, decision_id=gone.id)
    left = without(events, {gone.id})
    assert (done.decisions, done.events) == (1, len(events) - len(left))
    assert [event for event in await log(shared) if event.type != "erased"] == [*left, done]
    assert gone.id not in (await shared.store.episode("beta:e1") or [])
    assert (await call(shared, "operator", "GET", f"/v1/decisions/{gone.id}")).status_code == 404
    await check(shared, await expected(shared, left))


async def test_what_a_key_said_is_taken_back_and_its_decisions_wait_again(shared: World) -> None:
    events = await log(shared)
    done = await forget(shared, key="judge")
    left = [event for event in events if not (isinstance(event, Feedback) and event.key == "judge")]
    assert (done.decisions, done.events) == (0, len(events) - len(left))
    assert [event for event in await log(shared) if event.type != "erased"] == [*left, done]
    await check(shared, await expected(shared, left))
    beta = [event for event in left if isinstance(event, Decision) and event.tenant == "beta"]
    stored = [await shared.store.decision(one.id) for one in beta]
    assert {one and one.ledger and one.ledger.status for one in stored} == {"pending"}
    assert [one.observations for one in stored if one] == [{}] * len(beta)
    assert await shared.store.feedback([reward(beta[0].id, 1.0, time=time.time())]) == ["recorded"]
    assert await shared.store.post_timeouts(time.time() + shared.settings.learner.reward_window_s) >= len(beta) - 1


async def test_a_key_that_asked_is_gone_with_what_it_asked(shared: World) -> None:
    events = await log(shared)
    beta = {event.id for event in events if isinstance(event, Decision) and event.key == "beta"}
    assert (await forget(shared, key="beta")).decisions == len(beta) == 12
    assert await traces(shared.store, list(beta)) == []
    await check(shared, await expected(shared, without(events, beta)))


@pytest.mark.parametrize("at", ["forget_decisions", "unsay", "erase", "Archive.erase", "_rebuild", "say_forgotten"])
async def test_killed_anywhere_the_next_learner_finishes_it(
    shared: World, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = await log(shared)
    acme = {event.id for event in events if isinstance(event, Decision) and event.tenant == "acme"}
    owner, name = {"Archive.erase": (Archive, "erase"), "_rebuild": (Learner, "_rebuild")}.get(at, (Store, at))
    original, calls = getattr(owner, name), list[int]()

    class Killed(BaseException):
        pass

    def dies(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) > (at == "Archive.erase"):  # one of several segments is erased by then
            raise Killed
        return original(*arguments, **named)

    await call(shared, "operator", "POST", "/v1/forget", {"tenant": "acme"})
    await call(shared, "operator", "POST", "/v1/forget", {"key": "judge"})
    monkeypatch.setattr(owner, name, dies)
    with pytest.raises(Killed):
        await take_over(shared)
    monkeypatch.undo()
    await take_over(shared)
    left = [
        event for event in without(events, acme) if not (isinstance(event, Feedback) and event.key in ("judge", "acme"))
    ]
    after = [event for event in await log(shared) if event.type != "erased"]
    assert [event for event in after if not isinstance(event, Forgotten)] == left
    assert await shared.store.to_forget() == {}
    assert len([event for event in after if isinstance(event, Forgotten)]) == 2
    assert await traces(shared.store, list(acme)) == []
    await check(shared, await expected(shared, left))


async def test_what_comes_later_about_it_is_not_logged(shared: World) -> None:
    """A request may be under way while its tenant is forgotten, and its agent may know nothing of it."""
    shared.engine.gate.clear()
    asked = asyncio.create_task(call(shared, "acme", "POST", "/v1/chat/completions", chat("open the claims")))

    async def decided() -> bool:
        return any(isinstance(event, Decision) and event.arm == "claims" for event in await log(shared))

    await eventually(decided)
    await forget(shared, tenant="acme")
    shared.engine.gate.set()
    answer = (await asked).json()
    await shared.settle()
    assert await shared.store.feedback([reward(answer["id"], 1.0, time=time.time())]) == ["unknown"]
    assert await traces(shared.store, [answer["id"]]) == []


async def test_beliefs_that_were_frozen_and_drifts_forget_too(world: World) -> None:
    now = time.time()
    for i in range(60):
        await world.store.decide(decision(f"d{i}", time=now, tenant="acme", adapters={"inbox": "v1"}))
        await world.store.feedback([reward(f"d{i}", float(i < 40), time=now)])
    await world.fold()
    await world.post("/v1/mode", {"mode": "frozen"})
    await world.fold()
    assert any(isinstance(event, DriftFound) for event in await world.events())
    assert (await world.post("/v1/forget", {"tenant": "acme"})).status_code == 202
    await take_over(world)
    await world.fold()
    kept = ArmStatistics.from_bytes((await world.store.changes()).blobs[FROZEN + "inbox"])
    assert (kept.pulls, world.router.decider.snapshots.posterior.statistics("inbox").pulls) == (0, 0)
    assert not any(isinstance(event, DriftFound) for event in await world.events())
    assert (await verify(world.store, folding(world), whole=True)).ok


async def test_a_damaged_archive_keeps_it_waiting_and_learning_goes_on(
    shared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.learning.learner._ASK_AGAIN_S", 0.01)
    path = archive(shared).segments()[0].path
    content = path.read_bytes()
    path.write_bytes(b"PAR1 no segment")
    await call(shared, "operator", "POST", "/v1/forget", {"tenant": "acme"})
    running = asyncio.create_task(
        Learner(shared.store, shared.contexts, folding(shared).config, folding(shared).rules).run(shared.registry)
    )

    async def waits() -> bool:
        alarm = (await shared.store.alarms()).get(FORGETTING, "")
        return "1 requests to forget wait" in alarm and path.name in alarm

    async def learned() -> bool:
        return (await committed(shared))["claims"].pulls == 1

    async def done() -> bool:
        return await shared.store.to_forget() == {} and await shared.store.alarms() == {}

    await eventually(waits)
    await shared.store.decide(decision("next", "claims", time=time.time()))
    await eventually(learned)
    path.write_bytes(content)
    await eventually(done)
    await end(running)
    assert "acme" not in repr([event for event in await log(shared) if not isinstance(event, Forgotten)])


async def test_a_disk_that_refuses_keeps_it_waiting_too(shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    await call(shared, "operator", "POST", "/v1/forget", {"tenant": "acme"})
    monkeypatch.setattr(Archive, "erase", full)
    await take_over(shared)
    assert "no space left" in (await shared.store.alarms())[FORGETTING]
    monkeypatch.undo()
    await take_over(shared)
    assert await shared.store.alarms() == {}
    assert (await verify(shared.store, folding(shared), whole=True)).ok


@pytest.mark.parametrize(
    ("key", "body", "status", "param"),
    [
        ("acme", {"tenant": "beta"}, 403, "tenant"),
        ("acme", {"key": "judge"}, 403, "key"),
        ("acme", {"decision_id": "of beta"}, 404, "decision_id"),
        ("operator", {}, 400, "body"),
        ("operator", {"tenant": "a", "key": "b"}, 400, "body"),
        ("operator", {"tenant": ""}, 400, "tenant"),
    ],
)
async def test_what_may_not_be_asked_is_refused(
    make_world: MakeWorld, key: str, body: dict[str, str], status: int, param: str
) -> None:
    world: World = await make_world(auth={"keys": [*KEYS, *keys("reader", scopes=("infer", "feedback"))]})
    made = (await call(world, "beta", "POST", "/v1/chat/completions", chat())).json()["id"]
    body = {name: made if value == "of beta" else value for name, value in body.items()}
    refused = await call(world, key, "POST", "/v1/forget", body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), refused.text
    assert (await call(world, "reader", "POST", "/v1/forget", {"tenant": "acme"})).status_code == 403
    assert await world.store.to_forget() == {}
    assert (await call(world, "beta", "POST", "/v1/forget", {"decision_id": made})).status_code == 202
    assert len((await call(world, "beta", "GET", "/v1/forget")).json()) == 1
    assert (await call(world, "acme", "GET", "/v1/forget")).json() == []


async def test_the_command_waits_until_it_is_done(world: World) -> None:
    answer = await world.ask("open the inbox")
    await world.settle()
    running = asyncio.create_task(Learner(world.store, world.contexts, folding(world).config).run(world.registry))
    async with listening(world.app) as url:
        terminal = Terminal(url)
        said = plain(await terminal("forget", "--decision", answer["id"], "--yes"))
        assert f"{answer['id']}: 1 decisions and 2 events are gone" in said
        assert "asked for:" in plain(await terminal("forget", "--tenant", "acme", "--yes", "--no-wait"))
        assert "expected exactly one" in plain(await terminal("forget", "--yes", code=2))
        verified = json.loads(await terminal("bandit", "verify", "--whole", "--json"))
    await end(running)
    assert verified["ok"]
    assert (await committed(world))["inbox"].pulls == 0
