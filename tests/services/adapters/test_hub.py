"""Adapters of a Hugging Face repository, fetched by Hugging Face's own client from a server that speaks as the hub."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as hub_constants
import pytest
from typer.testing import CliRunner

from services.adapters import files
from services.adapters import hub as hub_client
from services.cli.main import app
from tests.services.adapters.hub_server import Files, Hub
from tests.services.conftest import MakeWorld
from tests.services.world import World, chat, listening, write_adapter

WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """A hub on loopback, which Hugging Face's client takes for the one that HF_ENDPOINT names."""
    hub = Hub()
    async with listening(hub.app) as url:
        monkeypatch.setattr(hub_constants, "ENDPOINT", url)
        monkeypatch.setattr(
            hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        yield hub


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    made: World = await make_world(cache={"hub_owners": ["friends"], "largest_bytes": 2000})
    return made


def repository(folder: Path, weight: float = 3.0, **more: bytes) -> Files:
    """An adapter's files, and others beside them."""
    path = write_adapter(folder, f"weight {weight}", weight=weight)
    found = {file.name: file.read_bytes() for file in path.iterdir()}
    return found | {"README.md": b"# mail"} | {name.replace("__", "."): data for name, data in more.items()}


async def add(world: World, source: str, name: str = "mail") -> tuple[int, Any]:
    response = await world.post("/v1/adapters", {"name": name, "source": source})
    return response.status_code, response.json()


async def test_a_repository_is_pinned_to_its_commit_and_serves(hub: Hub, world: World, tmp_path: Path) -> None:
    commit = hub.push("friends/mail", repository(tmp_path))
    status, view = await add(world, "friends/mail")
    assert (status, view["source"]) == (201, f"friends/mail@{commit}")
    assert view["fingerprint"] == files.read(tmp_path / "weight 3.0").fingerprint
    assert sorted(hub.fetched) == ["adapter_config.json", WEIGHTS]
    answer = await world.ask(model="mail")
    await world.settle()
    served = (await world.get(f"/v1/decisions/{answer['id']}"))["completion"]["adapters"]
    assert served == {"mail": view["fingerprint"]}


async def test_a_newer_commit_is_served_once_it_is_asked_for(hub: Hub, world: World, tmp_path: Path) -> None:
    first = hub.push("friends/mail", repository(tmp_path))
    _, old = await add(world, "friends/mail")
    second = hub.push("friends/mail", repository(tmp_path, weight=4.0))
    assert (await world.http.patch("/v1/adapters/mail", json={})).json() == old  # it is pinned
    response = await world.http.patch("/v1/adapters/mail", json={"source": "friends/mail"})
    assert response.json()["source"] == f"friends/mail@{second}"
    assert response.json()["fingerprint"] != old["fingerprint"]
    back = await world.http.patch("/v1/adapters/mail", json={"source": f"friends/mail@{first}"})
    assert back.json()["fingerprint"] == old["fingerprint"]


async def test_what_is_pushed_meanwhile_is_not_fetched_unseen(
    hub: Hub, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.push("friends/mail", repository(tmp_path))
    check = hub_client._check

    def and_then(*arguments: Any) -> None:
        check(*arguments)
        hub.push("friends/mail", {**repository(tmp_path), WEIGHTS: bytes(2001)})

    monkeypatch.setattr(hub_client, "_check", and_then)
    status, view = await add(world, "friends/mail")
    assert (status, view.get("source")) == (201, f"friends/mail@{commit}")


async def test_what_was_fetched_is_read_again_without_the_hub(
    hub: Hub, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("friends/mail", repository(tmp_path))
    await add(world, "friends/mail")
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    world.leave_resident("calendar")  # neither device nor host has it
    hub.asked.clear()
    assert (await world.ask(model="mail"))["model"] == "qwen:mail"
    assert hub.asked == []
    assert world.cache.view().disk_reads == len(world.registry) + 1


async def test_what_was_lost_from_the_machine_is_fetched_again(hub: Hub, world: World, tmp_path: Path) -> None:
    hub.push("friends/mail", repository(tmp_path))
    await add(world, "friends/mail")
    world.leave_resident("calendar")
    shutil.rmtree(tmp_path / "hub-cache")
    hub.asked.clear()
    await world.ask(model="mail")
    assert WEIGHTS in hub.fetched


async def test_a_pickle_is_refused_and_not_fetched(hub: Hub, world: World, tmp_path: Path) -> None:
    found = dict(repository(tmp_path))
    found[PICKLE] = found.pop(WEIGHTS)
    hub.push("friends/mail", found)
    status, body = await add(world, "friends/mail")
    assert (status, body["error"]["code"]) == (400, "invalid_adapter")
    expected = f"friends/mail@main/{PICKLE}: a pickle, which may hold code, expected {WEIGHTS}"
    assert body["error"]["message"] == expected
    assert hub.fetched == []


async def test_a_pickle_beside_the_weights_is_not_fetched(hub: Hub, world: World, tmp_path: Path) -> None:
    hub.push("friends/mail", repository(tmp_path, adapter_model__bin=b"code"))
    assert (await add(world, "friends/mail"))[0] == 201
    assert PICKLE not in hub.fetched


async def test_what_is_too_large_is_refused_and_not_fetched(hub: Hub, world: World, tmp_path: Path) -> None:
    hub.push("friends/mail", {**repository(tmp_path), WEIGHTS: bytes(2001)})
    status, body = await add(world, "friends/mail")
    expected = f"friends/mail@main/{WEIGHTS}: 2001 bytes, expected at most 2000 (cache.largest_bytes)"
    assert (status, body["error"]["message"]) == (400, expected)
    assert hub.fetched == []


async def test_a_directory_that_is_too_large_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    world = await make_world(cache={"largest_bytes": 2000, "roots": [tmp_path]})
    path = write_adapter(tmp_path, "large")
    with (path / WEIGHTS).open("ab") as file:
        file.truncate(2001)
    status, body = await add(world, str(path))
    assert status == 400
    assert body["error"]["message"] == f"{path / WEIGHTS}: 2001 bytes, expected at most 2000 (cache.largest_bytes)"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("friends/nothing", "source: 'friends/nothing' cannot be fetched: "),
        ("friends/mail@none", "source: 'friends/mail@none' cannot be fetched: "),
        ("strangers/mail", "source: 'strangers/mail', expected a repository of friends (cache.hub_owners)"),
        ("friends/..", "source: 'friends/..' cannot be fetched: "),
    ],
)
async def test_what_cannot_be_fetched_is_told_by_name(
    hub: Hub, world: World, tmp_path: Path, source: str, said: str
) -> None:
    hub.push("friends/mail", repository(tmp_path))
    status, body = await add(world, source)
    assert (status, body["error"]["code"]) == (400, "invalid_adapter")
    assert body["error"]["message"].startswith(said)
    assert "mail" not in [view["name"] for view in await world.get("/v1/adapters")]


async def test_what_is_wrong_with_the_files_is_told_of_the_repository(hub: Hub, world: World, tmp_path: Path) -> None:
    good = repository(tmp_path)
    cut = hub.push("friends/cut", {**good, WEIGHTS: good[WEIGHTS][:-4]})
    _, body = await add(world, "friends/cut")
    assert body["error"]["message"].startswith(f"friends/cut@{cut}/{WEIGHTS}: {len(good[WEIGHTS]) - 4} bytes, expected")
    dora = hub.push("friends/other", {**good, "adapter_config.json": json.dumps({"peft_type": "IA3"}).encode()})
    _, body = await add(world, "friends/other")
    assert body["error"]["message"].startswith(f"friends/other@{dora}/adapter_config.json: ")
    hub.push("friends/empty", {"README.md": b"# nothing"})
    _, body = await add(world, "friends/empty")
    assert body["error"]["message"].startswith("friends/empty@main: adapter_config.json is missing")


async def test_a_hub_that_hangs_up_is_told_and_asked_again(hub: Hub, world: World, tmp_path: Path) -> None:
    hub.push("friends/mail", repository(tmp_path))
    hub.cuts = True
    status, body = await add(world, "friends/mail")
    assert (status, body["error"]["code"]) == (400, "invalid_adapter")
    assert "'friends/mail' cannot be fetched: " in body["error"]["message"]
    hub.cuts = False
    assert (await add(world, "friends/mail"))[0] == 201


async def test_from_the_command_line(hub: Hub, world: World, tmp_path: Path) -> None:
    commit = hub.push("friends/mail", repository(tmp_path))
    async with listening(world.app) as url:
        arguments = ["adapters", "add", "mail", "friends/mail", "--url", url]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert f"from friends/mail@{commit}" in result.output
    assert (await world.post("/v1/chat/completions", chat(model="mail"))).status_code == 200
