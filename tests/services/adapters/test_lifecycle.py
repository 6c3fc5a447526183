"""Adapters that come, change, go and stay while the service runs, over HTTP; every process follows the catalogue."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from services.adapters.registry import Registry
from services.cli.cache_table import caches, problems
from services.cli.main import app
from services.engine.base import Prompt
from tests.services.auth_keys import bearer, keys
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES, FakeEngine
from tests.services.world import World, chat, eventually, listening, write_adapter, write_adapters


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Adapters that may be overwritten."""
    return write_adapters(tmp_path / "adapters")


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    """A directory that adapters may be added from."""
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


@pytest.fixture
async def world(make_world: MakeWorld, shelf: Path, incoming: Path) -> World:
    made: World = await make_world(
        model={"name": "qwen", "adapters": shelf}, learner={"version_carry": 0.5}, cache={"roots": [incoming]}
    )
    return made


async def added(world: World, path: Path, name: str = "mail", **more: Any) -> dict[str, Any]:
    response = await world.post("/v1/adapters", {"name": name, "source": str(path), **more})
    assert response.status_code == 201, response.text
    view: dict[str, Any] = response.json()
    return view


async def changed(world: World, method: str, path: str, **body: Any) -> httpx.Response:
    response = await world.http.request(method, f"/v1/adapters/{path}", json=body)
    assert response.status_code == 200, response.text
    return response


async def names(world: World) -> list[str]:
    return [view["name"] for view in await world.get("/v1/adapters")]


async def served(world: World, name: str) -> dict[str, str]:
    """The hashes of what served the next request for an adapter."""
    id_ = (await world.ask(model=name))["id"]
    await world.settle()
    found: dict[str, str] = (await world.get(f"/v1/decisions/{id_}"))["completion"]["adapters"]
    return found


class TestAdd:
    async def test_a_new_adapter_is_an_arm_at_once(self, world: World, incoming: Path) -> None:
        more: dict[str, Any] = {"description": "Reads mail.", "tags": ["mail", "beta"], "coordinates": "absolute"}
        view = await added(world, write_adapter(incoming, "v1", weight=3.0), **more)
        assert {key: view[key] for key in more} == more
        assert (view["name"], view["source"], view["pinned"]) == ("mail", str(incoming / "v1"), False)
        assert await names(world) == ["calendar", "claims", "inbox", "mail"]
        assert await served(world, "mail") == {"mail": view["fingerprint"]}
        arm = await world.arm("mail")
        assert (arm["adapter_hash"], arm["state"]) == (view["fingerprint"], "active")
        assert world.router.arms.coordinates("mail") == "absolute"

    async def test_it_may_be_expected_to_earn_as_a_known_one(self, world: World, incoming: Path) -> None:
        await added(world, write_adapter(incoming, "v1", weight=3.0), like=["inbox"])
        assert (await world.get("/v1/arms"))["mail"]["like"] == ["inbox"]
        source = str(write_adapter(incoming, "v2", weight=4.0))
        refused = await world.post("/v1/adapters", {"name": "post", "source": source, "like": ["nobody"]})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, "like")
        assert "post" not in await names(world)

    @pytest.mark.parametrize("name", ["inbox", "qwen"])
    async def test_a_name_that_is_taken(self, world: World, incoming: Path, name: str) -> None:
        before = await names(world)
        body = {"name": name, "source": str(write_adapter(incoming, "v1"))}
        refused = await world.post("/v1/adapters", body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "name_taken")
        assert refused.json()["error"]["message"] == f"name: {name!r} is taken already, expected a name that is free"
        assert await names(world) == before

    async def test_the_name_of_another_arm(self, world: World, incoming: Path) -> None:
        await world.post("/v1/bandit/arms/inbox/rename", {"to": "mail"})
        for name in ("mail", "inbox"):
            refused = await world.post("/v1/adapters", {"name": name, "source": str(write_adapter(incoming, "v1"))})
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "name_taken")

    @pytest.mark.parametrize("name", ["auto", "base", "top2", "two words", "../up", ""])
    async def test_a_name_that_cannot_be_one(self, world: World, incoming: Path, name: str) -> None:
        refused = await world.post("/v1/adapters", {"name": name, "source": str(write_adapter(incoming, "v1"))})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_adapter")
        assert f"the name {name!r} cannot be an adapter's" in refused.json()["error"]["message"]


class TestUpdate:
    async def test_other_content_is_a_new_version_of_the_arm(self, world: World, shelf: Path) -> None:
        before = await served(world, "inbox")
        write_adapter(shelf, "inbox", weight=2.0)
        assert await served(world, "inbox") == before
        view = (await changed(world, "PATCH", "inbox")).json()
        assert view["fingerprint"] == Registry(shelf)["inbox"].fingerprint != before["inbox"]
        assert await served(world, "inbox") == {"inbox": view["fingerprint"]}
        arm = await world.arm("inbox")
        assert (arm["adapter_hash"], arm["prior_trust"]) == (view["fingerprint"], 0.5)

    async def test_from_another_source(self, world: World, incoming: Path) -> None:
        source = str(write_adapter(incoming, "v2", weight=7.0))
        view = (await changed(world, "PATCH", "inbox", source=source, description="Second.")).json()
        assert (view["source"], view["description"]) == (source, "Second.")
        assert await served(world, "inbox") == {"inbox": view["fingerprint"]}

    async def test_what_is_said_of_it_stays_until_something_else_is(self, world: World) -> None:
        await changed(world, "PATCH", "inbox", description="First.", tags=["a"])
        assert (await changed(world, "PATCH", "inbox", tags=[])).json()["description"] == "First."
        assert (await world.arm("inbox"))["prior_trust"] == 1.0

    async def test_requests_that_run_keep_the_old_version_which_then_leaves(self, world: World, shelf: Path) -> None:
        world.engine.gate.clear()
        old = world.registry["inbox"].fingerprint
        async with (
            listening(world.app) as url,
            httpx.AsyncClient(base_url=url) as http,
            http.stream("POST", "/v1/chat/completions", json=stream("inbox")) as running,
        ):
            lines = running.aiter_lines()
            await anext(lines)
            write_adapter(shelf, "inbox", weight=2.0)
            new = (await changed(world, "PATCH", "inbox")).json()["fingerprint"]
            await world.residency.step()
            held = {entry.fingerprint: (entry.pins, entry.outdated) for entry in world.cache.view().device}
            world.engine.gate.set()
            _ = [line async for line in lines]
            decision = running.headers["x-pointsman-decision-id"]
        await world.settle()
        assert old not in {entry.fingerprint for entry in world.cache.view().device}
        assert (await world.get(f"/v1/decisions/{decision}"))["completion"]["adapters"] == {"inbox": old}
        assert held.get(old) in (None, (1, True))
        assert await served(world, "inbox") == {"inbox": new}


class TestRemove:
    async def test_it_serves_no_more_and_may_come_again(self, world: World, shelf: Path) -> None:
        await changed(world, "DELETE", "inbox")
        assert await names(world) == ["calendar", "claims"]
        assert (await world.post("/v1/chat/completions", {"model": "inbox", "messages": []})).status_code != 200
        assert (await world.ask("open the inbox"))["routing"]["arm"] != "inbox"
        await world.residency.step()
        assert "inbox" not in {entry.name for entry in world.cache.view().device}
        await world.learner.start(Registry(shelf))  # what an operator removed is not found again
        await world.fold()
        assert await names(world) == ["calendar", "claims"]
        await added(world, shelf / "inbox", "inbox")
        assert await served(world, "inbox") == {"inbox": Registry(shelf)["inbox"].fingerprint}

    async def test_a_request_that_brings_gates_for_it_meanwhile_is_to_be_tried_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encode = world.engine.encode

        async def removed_meanwhile(prompt: Prompt) -> bytes:
            await changed(world, "DELETE", "inbox")
            return await encode(prompt)

        monkeypatch.setattr(world.engine, "encode", removed_meanwhile)
        body = chat("open the inbox", routing={"gates": {"inbox": 0.5, "claims": 0.5}})
        refused = await world.post("/v1/chat/completions", body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "adapter_unavailable")
        assert refused.json()["error"]["message"] == "adapter 'inbox' was removed meanwhile"
        assert await world.kinds() == []

    async def test_a_retry_of_a_decision_on_it_is_decided_anew(self, world: World) -> None:
        headers = {"x-client-request-id": "once"}
        body = {"model": "inbox", "messages": [{"role": "user", "content": "open the inbox"}]}
        assert (await world.http.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
        await world.settle()
        await changed(world, "DELETE", "inbox")
        body["model"] = "auto"
        again = await world.http.post("/v1/chat/completions", json=body, headers=headers)
        assert again.status_code == 200
        assert again.json()["routing"]["arm"] != "inbox"

    @pytest.mark.parametrize(("method", "path"), [("PATCH", "nobody"), ("DELETE", "nobody"), ("POST", "nobody/pin")])
    async def test_an_unknown_one_is_not_found(self, world: World, method: str, path: str) -> None:
        response = await world.http.request(method, f"/v1/adapters/{path}", json={})
        assert (response.status_code, response.json()["error"]["param"]) == (404, "name")


class TestPin:
    async def test_pins_are_kept_and_followed(self, world: World) -> None:
        world.cache.follow([])
        assert (await changed(world, "POST", "claims/pin")).json()["pinned"]
        await world.residency.step()

        async def resident() -> bool:
            return world.registry["claims"].fingerprint in world.cache.resident

        await eventually(resident)
        assert [entry.name for entry in world.cache.view().device if entry.kept] == ["claims"]
        assert [view["name"] for view in await world.get("/v1/adapters") if view["pinned"]] == ["claims"]
        await changed(world, "POST", "claims/pin", pinned=False)
        await world.residency.step()
        assert not any(entry.kept for entry in world.cache.view().device)


async def test_another_process_follows_and_one_that_starts_later_knows(
    make_world: MakeWorld, world: World, shelf: Path, incoming: Path
) -> None:
    other = await make_world(model={"name": "qwen", "adapters": shelf}, cache={"roots": [incoming]})
    await added(world, write_adapter(incoming, "v1", weight=3.0))
    await changed(world, "DELETE", "claims")

    async def followed() -> bool:
        return await names(other) == ["calendar", "inbox", "mail"]

    await eventually(followed)
    assert await served(other, "mail") == await served(world, "mail")
    later = await make_world(model={"name": "qwen", "adapters": shelf}, cache={"roots": [incoming]})
    assert await names(later) == ["calendar", "inbox", "mail"]


async def test_what_was_replaced_or_lost_on_disk_meanwhile_is_noticed_at_the_next_start(
    world: World, shelf: Path
) -> None:
    write_adapter(shelf, "inbox", weight=2.0)
    for file in (shelf / "claims").iterdir():
        file.unlink()
    (shelf / "claims").rmdir()
    await world.learner.start(Registry(shelf))
    await world.fold()
    assert await names(world) == ["calendar", "inbox"]
    assert await served(world, "inbox") == {"inbox": Registry(shelf)["inbox"].fingerprint}
    assert (await world.get("/v1/arms"))["claims"]["state"] == "absent"


async def test_keys_of_a_tenant_change_nothing_that_others_share(
    make_world: MakeWorld, shelf: Path, incoming: Path
) -> None:
    both = [*keys("acme", tenant="acme"), *keys("operator")]
    world = await make_world(
        auth={"keys": both}, model={"name": "qwen", "adapters": shelf}, cache={"roots": [incoming]}
    )
    body = {"name": "mail", "source": str(write_adapter(incoming, "v1", weight=3.0))}
    for method, path, sent in (
        ("POST", "/v1/adapters", body),
        ("PATCH", "/v1/adapters/inbox", {}),
        ("DELETE", "/v1/adapters/inbox", None),
        ("POST", "/v1/adapters/inbox/pin", {}),
        ("POST", "/v1/bandit/arms/inbox/remove", {}),
    ):
        request = {"json": sent, "headers": {"Authorization": bearer("acme")}}
        refused = await world.http.request(method, path, **request)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "tenant_key"), path
    allowed = await world.http.post("/v1/adapters", json=body, headers={"Authorization": bearer("operator")})
    assert allowed.status_code == 201


async def test_the_cache_of_every_replica_is_shown(world: World, engine: FakeEngine) -> None:
    await world.ask(model="inbox")
    (view,) = await world.get("/v1/cache")
    assert (view["replica"], view["pages"], view["policy"]) == ("local", engine.memory.capacity, "lru")
    assert [entry["name"] for entry in view["device"]] == list(FAMILIES)
    assert (view["hits"], view["misses"], view["page_ins"]) == (1, 3, 3)
    assert view["copy_ms"]["p99"] >= view["copy_ms"]["p50"] > 0
    assert view["page_in_ms"] == {"p50": None, "p99": None}  # the world forgets what its own start took
    world.cache._counts.paged_in(2.5)
    (view,) = await world.get("/v1/cache")
    assert view["page_in_ms"] == {"p50": 2.5, "p99": 2.5}
    assert (view["problem"], view["broken"]) == (None, {})


async def test_books_that_do_not_agree_are_told_of(world: World) -> None:
    """What should never be: a page that nobody has and nobody may take."""
    lost = world.cache._table._free.pop()
    (view,) = await world.get("/v1/cache")
    async with listening(world.app) as url:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["cache", "--url", url], env={"COLUMNS": "250"})
    world.cache._table._free.append(lost)
    assert view["problem"].startswith("pages [")
    assert (result.exit_code, "the books are wrong: pages [" in result.output) == (1, True)
    (view,) = await world.get("/v1/cache")
    assert view["problem"] is None


def test_the_table_shows_all_that_a_cache_tells() -> None:
    entry = {"name": "mail", "fingerprint": "c0ffee", "pages": [2, 3], "pins": 7}
    entries = [
        entry | {"ready": True, "kept": True, "outdated": False},
        entry | {"name": "old", "pins": 1, "ready": False, "kept": False, "outdated": True},
    ]
    view = {
        "replica": "r1", "pages": 8, "free": 4, "policy": "polar_plus", "device": entries,
        "host": ["claims", "inbox"], "host_bytes": 3 << 20, "host_budget": 64 << 20, "waiting": 5,
        "hits": 30, "misses": 10, "page_ins": 9, "disk_reads": 6,
        "page_in_ms": {"p50": 12.34, "p99": 50.0}, "copy_ms": {"p50": 1.2, "p99": 3.4},
        "evictions": {"room": 4, "plan": 2}, "plan": ["mail", "claims"], "broken": {"tabs": "[gone]"}, "problem": None,
    }  # fmt: skip
    console = Console(width=200, record=True)
    console.print(caches([view]))
    shown = re.sub(r"\s+", " ", console.export_text())
    for said in (
        "r1 · 4 of 8 pages · polar_plus",
        "mail c0ffee 2, 3 7 kept",
        "old c0ffee 2, 3 1 outdated, on its way",
        "host: 3.0 of 64 MiB: claims, inbox",
        "30 hits (75%), 10 misses; 5 requests wait",
        "9 page-ins in 12.3 ms (99%: 50.0 ms), of them the copy in 1.2 ms (99%: 3.4 ms); 6 read from disk",
        "evicted: 4 room, 2 plan",
        "plan: mail, claims",
        "tabs cannot be loaded: [gone]",
    ):
        assert said in shown
    assert problems([view, view | {"problem": "pages"}]) == ["r1: pages"]


async def test_metrics_show_the_caches(world: World) -> None:
    await world.ask(model="inbox")
    text = (await world.http.get("/metrics")).text
    assert 'pointsman_cache_hits_total{replica="local"} 1.0' in text
    assert 'pointsman_cache_page_ins_total{replica="local"} 3.0' in text
    world.leave_resident("inbox")
    text = (await world.http.get("/metrics")).text
    assert 'pointsman_cache_evictions_total{reason="outdated",replica="local"} 2.0' in text
    assert 'pointsman_cache_pages{replica="local",state="used"} 1.0' in text


async def test_the_command_line_does_it_all(world: World, incoming: Path) -> None:
    source = str(write_adapter(incoming, "v1", weight=3.0))
    async with listening(world.app) as url:

        async def run(*arguments: str) -> str:
            result = await asyncio.to_thread(
                CliRunner().invoke, app, [*arguments, "--url", url], env={"COLUMNS": "250"}
            )
            assert result.exit_code == 0, (result.output, result.exception)
            return result.output

        said = await run("adapters", "add", "mail", source, "--description", "Reads mail.", "--tag", "beta")
        assert said.startswith("mail: ")
        assert await served(world, "mail") == {"mail": said.split()[1]}
        listed = await run("adapters")
        assert "Reads mail. · beta" in listed
        assert await run("adapters", "pin", "mail") == "mail: pinned\n"
        await world.residency.step()
        assert "kept" in await run("cache")
        assert "yes" in await run("adapters", "list")
        assert await run("adapters", "unpin", "mail") == "mail: not pinned\n"
        write_adapter(incoming, "v1", weight=4.0)
        assert (await run("adapters", "update", "mail")).split()[1] != said.split()[1]
        assert await run("adapters", "remove", "mail") == "mail: removed\n"
        assert "mail" not in await names(world)


def stream(model: str) -> dict[str, Any]:
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": "go"}]}
