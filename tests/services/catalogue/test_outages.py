"""An adapter whose files vanish, or are replaced behind our back, while requests come."""

import asyncio
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.roster import UnknownArm
from services.adapters.metadata import AdapterLost, InvalidAdapter
from services.adapters.registry import Registry
from services.adapters.shelf import Adapter
from services.catalogue.outages import Outages
from tests.services.auth_keys import keys
from tests.services.conftest import MakeWorld
from tests.services.routing.test_replicas import Pair
from tests.services.world import World, chat, end, eventually, write_adapter, write_adapters

CHAT = "/v1/chat/completions"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Adapters that may vanish."""
    return write_adapters(tmp_path / "adapters")


@pytest.fixture
async def world(make_world: MakeWorld, shelf: Path) -> World:
    made: World = await make_world(model={"name": "qwen", "adapters": shelf})
    return made


def lose(world: World, shelf: Path) -> Path:
    """Take the inbox's files away, and all but the calendar from device and host; where the files are now."""
    world.leave_resident("calendar")
    return Path(shutil.move(shelf / "inbox", shelf.parent / "kept"))


async def believe_resident(world: World) -> None:
    """Let the Router think that every adapter is on the device: what the replica says of itself comes too late."""
    (report,) = await world.router.model.look()
    everything = tuple(adapter.fingerprint for adapter in world.registry)
    world.router.placement.heard(report._replace(number=report.number + 1000, resident=everything))


async def record(world: World, arm: str = "inbox") -> Any:
    return (await world.get("/v1/arms"))[arm]


async def broken(world: World) -> dict[str, str]:
    found: dict[str, str] = (await world.get("/v1/cache"))[0]["broken"]
    return found


async def test_what_is_resident_or_on_the_host_needs_no_files(world: World, shelf: Path) -> None:
    shutil.rmtree(shelf / "inbox")
    assert (await world.ask("open the inbox"))["routing"]["arm"] == "inbox"
    assert (await record(world))["state"] == "active"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_for_it_alone_is_told_and_the_arm_is_suspended(world: World, shelf: Path, stream: bool) -> None:
    lose(world, shelf)
    refused = await world.post(CHAT, chat("open the inbox", model="inbox", stream=stream))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "adapter_unavailable")
    assert refused.headers["retry-after"] == "1"
    reason = f"adapter 'inbox' cannot be loaded: source: {shelf / 'inbox'} is not a directory"
    assert refused.json()["error"]["message"] == reason
    found = await record(world)
    assert (found["state"], found["reason"]) == ("absent", reason)
    assert await broken(world) == {"inbox": reason.partition("loaded: ")[2]}
    suspended = {view["name"]: view["suspended"] for view in await world.get("/v1/adapters")}
    assert suspended == {"calendar": None, "claims": None, "inbox": reason}
    kinds = [event.type for event in await world.events()]
    assert kinds[-3:] == ["decision", "arm_removed", "cancellation"]
    assert 'pointsman_cache_broken{replica="local"} 1.0' in (await world.http.get("/metrics")).text


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_request_that_others_may_serve_is_decided_again(
    world: World, shelf: Path, stream: bool
) -> None:
    lose(world, shelf)
    response = await world.post(CHAT, chat("open the inbox", stream=stream), x_client_request_id="once")
    assert response.status_code == 200, response.text
    assert stream == ("[DONE]" in response.text)
    assert (await record(world))["state"] == "absent"
    events = [event for event in await world.events() if event.type != "arm_registered"]
    assert [event.type for event in events] == ["decision", "arm_removed", "cancellation", "decision", "completion"]
    first, _, cancelled, second, completed = cast(list[Any], events)
    assert (first.arm, "inbox" in first.eligible) == ("inbox", True)
    assert (second.arm != "inbox", "inbox" in second.eligible) == (True, False)
    assert (cancelled.decision_id, completed.decision_id) == (first.id, second.id)
    assert response.headers["x-pointsman-decision-id"] == second.id
    again = await world.post(CHAT, chat("open the inbox"), x_client_request_id="once")
    assert again.headers["x-pointsman-decision-id"] == second.id


async def test_so_it_is_while_the_store_is_away(world: World, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then no arm can be suspended; every request finds out for itself."""

    async def away(*_: object, **__: object) -> None:
        raise ConnectionError("the store is away")

    lose(world, shelf)
    for name in ("decide", "roster", "change_arm"):
        monkeypatch.setattr(world.router.store, name, away)
    for _ in range(2):
        answer = await world.ask("open the inbox")
        assert (answer["routing"]["arm"] != "inbox", answer["routing"]["durable"]) == (True, False)
    monkeypatch.undo()
    assert (await record(world))["state"] == "active"


async def test_an_arm_that_is_renamed_meanwhile_is_no_fault_of_the_request(
    world: World, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def renamed(_: object) -> None:
        raise UnknownArm("inbox")

    lose(world, shelf)
    monkeypatch.setattr(world.router.store, "change_arm", renamed)
    assert (await world.ask("open the inbox"))["routing"]["arm"] != "inbox"


async def test_an_older_version_that_is_lost_suspends_nothing(world: World, shelf: Path) -> None:
    """A Router that is behind asks for what an update has replaced on disk."""
    old = world.registry["inbox"].fingerprint
    write_adapter(shelf, "inbox", weight=99.0)
    assert (await world.http.patch("/v1/adapters/inbox", json={})).status_code == 200
    await world.router.outages.suspend(AdapterLost("the files were replaced", "inbox", old))
    assert (await record(world))["state"] == "active"


async def test_a_newer_version_serves_who_asked_for_one_that_is_gone(
    world: World, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update comes after the decision and before the files are read."""
    lose(world, shelf)
    write_adapter(shelf, "inbox", weight=99.0)
    suspend = world.router.outages.suspend

    async def updated_first(lost: AdapterLost) -> None:
        assert (await world.http.patch("/v1/adapters/inbox", json={})).status_code == 200
        await suspend(lost)

    monkeypatch.setattr(world.router.outages, "suspend", updated_first)
    answer = await world.ask("open the inbox", model="inbox")
    await world.settle()
    (view,) = [view for view in await world.get("/v1/adapters") if view["name"] == "inbox"]
    completion = (await world.get(f"/v1/decisions/{answer['id']}"))["completion"]
    assert completion["adapters"] == {"inbox": view["fingerprint"]} != {"inbox": world.registry["inbox"].fingerprint}


async def test_others_serve_meanwhile(world: World, shelf: Path) -> None:
    lose(world, shelf)
    await world.post(CHAT, chat("open the inbox"))
    assert (await world.ask("open the inbox"))["routing"]["arm"] != "inbox"
    refused = await world.post(CHAT, chat("open the inbox", model="qwen:inbox"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "adapter_unavailable")
    assert "model: 'qwen:inbox': adapter 'inbox' cannot be loaded" in refused.json()["error"]["message"]
    assert "inbox" not in [model["id"] for model in (await world.get("/v1/models"))["data"]]


async def test_a_choice_passes_over_it(world: World, shelf: Path) -> None:
    lose(world, shelf)
    await world.post(CHAT, chat("open the inbox"))
    answer = await world.ask("open the inbox", routing={"arms": ["inbox", "claims"]})
    assert answer["routing"]["arm"] == "claims"


@pytest.mark.parametrize("routing", [{"arms": ["inbox"]}, {"gates": {"inbox": 0.5, "claims": 0.5}}])
async def test_a_choice_that_leaves_nothing_else_is_to_be_tried_again(
    world: World, shelf: Path, routing: dict[str, Any]
) -> None:
    lose(world, shelf)
    await world.post(CHAT, chat("open the inbox"))
    refused = await world.post(CHAT, chat("open the inbox", routing=routing))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "adapter_unavailable")
    assert "adapter 'inbox' cannot be loaded" in refused.json()["error"]["message"]


async def test_a_key_for_it_alone_is_to_try_again(make_world: MakeWorld, shelf: Path) -> None:
    key = keys("own", scopes=("infer",), arms=["inbox"])
    world = await make_world(model={"name": "qwen", "adapters": shelf}, auth={"keys": key})
    lose(world, shelf)
    for model, status, code in [
        ("auto", 503, "adapter_unavailable"),
        ("auto", 503, "adapter_unavailable"),
        ("claims", 403, "arm_not_allowed"),
    ]:
        refused = await world.post(CHAT, chat("open the inbox", model=model), authorization="Bearer pm-own")
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)


async def test_keys_may_name_it_meanwhile(make_world: MakeWorld, shelf: Path) -> None:
    own = keys("own", scopes=("infer", "inspect", "admin"), arms=["post"])
    world = await make_world(model={"name": "qwen", "adapters": shelf}, auth={"keys": own})
    world.http.headers["authorization"] = "Bearer pm-own"
    await world.post("/v1/bandit/arms/inbox/rename", {"to": "post"})
    await world.fold()
    lose(world, shelf)
    assert (await world.post(CHAT, chat("open the inbox"))).status_code == 503
    assert world.router.arms.knows("post")


async def test_a_mixture_of_named_arms_draws_from_no_others(make_world: MakeWorld, shelf: Path) -> None:
    mixes = {"policy": "fixed", "fixed_arm": "soft", "mixtures": ("soft",)}
    world = await make_world(model={"name": "qwen", "adapters": shelf}, router=mixes)
    lose(world, shelf)
    await world.post(CHAT, chat("open the inbox"))
    refused = await world.post(CHAT, chat("open the inbox", routing={"arms": ["inbox", "soft"]}))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_arm")


async def test_a_retry_is_served_by_another_arm(world: World, shelf: Path) -> None:
    """As the OpenAI client sends by itself when no answer comes."""
    first = await world.post(CHAT, chat("open the inbox"), x_stainless_retry_count="0")
    lose(world, shelf)
    assert (await world.post(CHAT, chat("open the inbox", model="inbox"))).status_code == 503
    again = await world.post(CHAT, chat("open the inbox"), x_stainless_retry_count="1")
    assert (first.json()["routing"]["arm"], again.status_code) == ("inbox", 200)
    assert again.json()["routing"]["arm"] != "inbox"
    once_more = await world.post(CHAT, chat("open the inbox"), x_stainless_retry_count="2")
    assert once_more.json()["id"] == again.json()["id"]


async def test_a_stream_that_has_begun_is_told_why(world: World, shelf: Path) -> None:
    """The Router has not heard yet that the adapter has left the device."""
    lose(world, shelf)
    await believe_resident(world)
    text = (await world.post(CHAT, chat("open the inbox", stream=True))).text
    assert '"code": "adapter_unavailable"' in text
    assert "[DONE]" not in text


async def test_when_the_files_are_back_the_arm_is_with_what_it_learned(world: World, shelf: Path) -> None:
    answer = await world.ask("open the inbox")
    await world.say({"decision_id": answer["id"], "reward": 1.0})
    learned = await world.arm("inbox")
    kept = lose(world, shelf)
    await world.post(CHAT, chat("open the inbox"))
    assert await world.router.outages.step() == []
    shutil.move(kept, shelf / "inbox")
    assert await world.router.outages.step() == ["inbox"]
    assert await broken(world) == {}
    after = await world.arm("inbox")
    assert (after["state"], after["matured"], after["prior_trust"]) == ("active", learned["matured"], 1.0)
    assert (await world.ask("open the inbox"))["routing"]["arm"] == "inbox"
    assert (await record(world))["reason"] == ""


async def test_one_that_cannot_be_read_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("calendar", "inbox"):
        await world.router.outages.suspend(
            AdapterLost("the disk is not mounted", name, world.registry[name].fingerprint)
        )
    load = world.router.model.load

    async def read(name: str, source: str, fingerprint: str = "") -> Adapter:
        if name == "calendar":
            raise OSError(5, "Input/output error")
        return await load(name, source, fingerprint)

    monkeypatch.setattr(world.router.model, "load", read)
    assert await world.router.outages.step() == ["inbox"]
    assert (await record(world, "calendar"))["state"] == "absent"


async def test_an_update_meanwhile_stands(world: World, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.router.outages.suspend(
        AdapterLost("the disk is not mounted", "inbox", world.registry["inbox"].fingerprint)
    )
    load = world.router.model.load

    async def updated_after(name: str, source: str, fingerprint: str = "") -> Adapter:
        found = await load(name, source, fingerprint)
        monkeypatch.undo()
        write_adapter(shelf, "inbox", weight=99.0)
        assert (await world.http.patch("/v1/adapters/inbox", json={})).status_code == 200
        return found

    monkeypatch.setattr(world.router.model, "load", updated_after)
    assert await world.router.outages.step() == []
    (inbox,) = [view for view in await world.get("/v1/adapters") if view["name"] == "inbox"]
    assert (await record(world))["adapter_hash"] == inbox["fingerprint"]


async def test_it_is_looked_for_by_itself(world: World, shelf: Path) -> None:
    kept = lose(world, shelf)
    await world.post(CHAT, chat("open the inbox"))
    looking = asyncio.create_task(Outages(world.store, world.router.model, 0.05).run())
    await asyncio.sleep(0.2)
    assert (await record(world))["state"] == "absent"
    shutil.move(kept, shelf / "inbox")

    async def serves() -> bool:
        return bool((await record(world))["state"] == "active")

    await eventually(serves)
    await end(looking)


async def test_other_content_is_not_taken_for_it(world: World, shelf: Path) -> None:
    world.leave_resident("calendar")
    write_adapter(shelf, "inbox", weight=99.0)
    refused = await world.post(CHAT, chat("open the inbox", model="inbox"))
    assert "`pointsman adapters update` takes them" in refused.json()["error"]["message"]
    assert await world.router.outages.step() == []
    assert (await record(world))["state"] == "absent"
    assert (await world.http.patch("/v1/adapters/inbox", json={})).status_code == 200
    await world.fold()
    assert (await record(world))["state"] == "active"
    assert (await world.ask("open the inbox", model="inbox"))["routing"]["arm"] == "inbox"


async def test_a_frozen_arm_comes_back_frozen(world: World, shelf: Path) -> None:
    await world.post("/v1/bandit/arms/inbox/freeze", {})
    await world.fold()
    kept = lose(world, shelf)
    assert (await world.post(CHAT, chat("hello", model="inbox"))).status_code == 503
    shutil.move(kept, shelf / "inbox")
    await world.router.outages.step()
    assert (await record(world))["state"] == "frozen"


@pytest.mark.parametrize("path", ["/v1/adapters/inbox", "/v1/bandit/arms/inbox/remove"])
async def test_what_an_operator_removes_meanwhile_stays_away(world: World, shelf: Path, path: str) -> None:
    kept = lose(world, shelf)
    await world.post(CHAT, chat("open the inbox"))
    method = "POST" if path.endswith("remove") else "DELETE"
    assert (await world.http.request(method, path)).status_code == 200
    shutil.move(kept, shelf / "inbox")
    assert await world.router.outages.step() == []
    assert (await record(world))["state"] == "removed"


async def test_a_learner_that_starts_meanwhile_leaves_it_suspended(world: World, shelf: Path) -> None:
    """Also if it does not find the files: they are not given up, but waited for."""
    before = Registry(shelf)
    kept = lose(world, shelf)
    await world.post(CHAT, chat("open the inbox"))
    for registry in (before, Registry(shelf)):
        await world.learner.start(registry)
        found = await record(world)
        assert (found["state"], "is not a directory" in found["reason"]) == ("absent", True)
    shutil.move(kept, shelf / "inbox")
    assert await world.router.outages.step() == ["inbox"]
    await world.fold()
    assert (await world.ask("open the inbox"))["routing"]["arm"] == "inbox"


async def test_mixtures_do_without_it(make_world: MakeWorld, shelf: Path) -> None:
    mixes = {"policy": "fixed", "fixed_arm": "soft", "mixtures": ("soft",)}
    world = await make_world(model={"name": "qwen", "adapters": shelf}, router=mixes)
    assert "inbox" in (await world.ask("open the inbox"))["routing"]["gates"]
    lose(world, shelf)
    for _ in range(2):
        gates = (await world.ask("open the inbox"))["routing"]["gates"]
        assert set(gates) == {"calendar", "claims"}


async def test_a_replica_that_has_the_files_serves_for_one_that_has_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(world)
    world.serve_with(pair)
    world.router.placement.all(await pair.look())

    def gone(_: object) -> object:
        raise InvalidAdapter("the disk is not mounted")

    for name, cache in pair.caches_.items():
        if name == world.router.placement.encoder():
            monkeypatch.setattr(cache, "_read", gone)
            without = name
    answer = await world.ask("open the inbox")
    assert answer["routing"]["arm"] == "inbox"
    await world.settle()
    view = await world.get(f"/v1/decisions/{answer['id']}")
    assert view["completion"]["replica"] != without
    assert (await record(world))["state"] == "active"
    assert {v["replica"]: set(v["broken"]) for v in await world.get("/v1/cache")}[without] == {"inbox"}
    for _ in range(3):
        assert (await world.ask("open the inbox"))["routing"]["arm"] == "inbox"
    assert world.router.dispatcher.resent == 1
    for cache in pair.caches_.values():
        cache.close()


async def test_no_arm_is_suspended_as_long_as_one_of_many_replicas_may_have_the_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is sent to three replicas at most; later ones begin with those that were not asked."""
    many = Pair(world, "five", "four", "one", "three", "two")
    world.serve_with(many)
    world.router.placement.all(await many.look())

    def gone(_: object) -> object:
        raise InvalidAdapter("the disk is not mounted")

    for name, cache in many.caches_.items():
        if name != "two":
            monkeypatch.setattr(cache, "_read", gone)
    refused = await world.post(CHAT, chat("open the inbox", model="inbox"))
    assert (refused.status_code, (await record(world))["state"]) == (503, "active")
    for _ in range(3):
        assert (await world.ask("open the inbox", model="inbox"))["routing"]["arm"] == "inbox"
    assert world.router.dispatcher.resent <= 3
    for cache in many.caches_.values():
        cache.close()
