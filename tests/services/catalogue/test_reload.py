"""Other weights on a running service: every answer names the hash that served it, and the learner knows the version."""

from pathlib import Path
from typing import Any

import pytest

from services.adapters.registry import Registry
from tests.services.conftest import MakeWorld
from tests.services.fakes import FakeEngine
from tests.services.world import World, write_adapter, write_adapters


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Adapters that may be overwritten."""
    return write_adapters(tmp_path / "adapters")


@pytest.fixture
async def world(make_world: MakeWorld, shelf: Path) -> World:
    made: World = await make_world(model={"name": "qwen", "adapters": shelf}, learner={"version_carry": 0.5})
    return made


async def served(world: World) -> tuple[str, str]:
    """The hashes of the inbox adapter that the next decision and its completion carry."""
    id_ = (await world.ask(model="inbox"))["id"]
    await world.settle()
    view: Any = await world.get(f"/v1/decisions/{id_}")
    return view["decision"]["adapters"]["inbox"], view["completion"]["adapters"]["inbox"]


async def test_a_reload_changes_the_hash_that_serves_and_what_is_believed(world: World, shelf: Path) -> None:
    before = world.registry["inbox"].fingerprint
    assert await served(world) == (before, before)
    write_adapter(shelf, "inbox", weight=2.0)
    assert await served(world) == (before, before)
    reply = await world.http.patch("/v1/adapters/inbox", json={})
    after = Registry(shelf)["inbox"].fingerprint
    assert (reply.status_code, reply.json()["fingerprint"]) == (200, after)
    assert after != before
    assert await served(world) == (after, after)
    arm = await world.arm("inbox")
    assert (arm["adapter_hash"], arm["prior_trust"]) == (after, 0.5)
    assert {view["name"]: view["fingerprint"] for view in await world.get("/v1/adapters")}["inbox"] == after


async def test_the_same_weights_again_are_no_new_version(world: World) -> None:
    assert (await world.http.patch("/v1/adapters/inbox", json={})).status_code == 200
    assert (await world.arm("inbox"))["prior_trust"] == 1.0


async def test_what_cannot_be_served_changes_nothing(world: World, shelf: Path, engine: FakeEngine) -> None:
    before = world.registry["inbox"].fingerprint
    write_adapter(shelf, "inbox", weight=2.0)
    engine.memory.fits_nothing = True
    refused = await world.http.patch("/v1/adapters/inbox", json={})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_adapter")
    assert "another model's" in refused.json()["error"]["message"]
    (shelf / "inbox" / "adapter_config.json").write_text("{}")
    refused = await world.http.patch("/v1/adapters/inbox", json={})
    assert "expected a PEFT LoRA configuration" in refused.json()["error"]["message"]
    assert await served(world) == (before, before)
    assert (await world.arm("inbox"))["adapter_hash"] == before


async def test_an_unknown_adapter_is_not_found(world: World) -> None:
    assert (await world.http.patch("/v1/adapters/nobody", json={})).status_code == 404
