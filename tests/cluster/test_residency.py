"""What two Model replicas on Ray Serve keep: what the Learner has planned, and nothing whose files are gone."""

import shutil
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from openai import OpenAI
from typer.testing import CliRunner

from cluster.redis_server import free_port
from cluster.settings import EMBEDDED_WORLD
from examples.miniwob.episodes import Episode, load_all
from services.adapters import files
from services.cli.main import app
from tests.cluster.test_service import PATIENCE_S, Service, ask, eventually, together
from tests.services.adapters.hub_server import Hub

HOT = ("circle-center", "click-color", "click-dialog", "click-widget")
LATER = ("count-sides", "count-sides-b", "identify-shape", "click-tab")
ONCE = "click-collapsible"
WORSE = next(path for path in (EMBEDDED_WORLD / "worse").iterdir() if path.is_dir())
CACHE = {
    "hub_owners": ["friends"], "policy": "polar_plus", "device_rows": 16, "host_bytes": 0,
    "epoch": 4, "epoch_longest": 8, "plan_window": 16, "plan_horizon": 16, "plan_s": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[Hub, str]]:
    """A hub on loopback, and its address."""
    hub = Hub()
    server = uvicorn.Server(uvicorn.Config(hub.app, port=free_port(), log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield hub, f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, hub: tuple[Hub, str]) -> Iterator[Service]:
    """Each replica has room for two of the adapters, which are of a page each, and keeps none in host memory."""
    directory = tmp_path_factory.mktemp("service")
    service = Service(directory, cache=CACHE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_ENDPOINT", hub[1])
        environment.setenv("HF_HUB_CACHE", str(directory / "hub-cache"))
        service.start()
        yield service
        service.stop()


@pytest.fixture(scope="module")
def episode() -> Episode:
    return load_all()[0]


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def caches(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.get("/v1/cache")
    return found


def planned(service: Service) -> set[str]:
    return {name for view in caches(service) for name in view["plan"]}


def follow(service: Service) -> bool:
    """Whether every replica has all of its part of the plan."""
    views = caches(service)
    return all(set(v["plan"]) <= {entry["name"] for entry in v["device"] if entry["ready"]} for v in views)


def total(service: Service, name: str) -> int:
    return sum(view[name] for view in caches(service))


def evicted_by_plan(service: Service) -> int:
    return sum(view["evictions"].get("plan", 0) for view in caches(service))


def test_the_replicas_are_as_the_settings_say(service: Service) -> None:
    found = [(view["pages"], view["host_budget"], view["policy"], view["problem"]) for view in caches(service)]
    assert found == [(2, 0, "polar_plus", None)] * 2


def test_what_the_learner_plans_is_fetched_and_kept(service: Service, client: OpenAI, episode: Episode) -> None:
    """Each adapter once: four fill the four pages; then another is asked for once, and has to go again by itself."""

    def want(*names: str) -> None:
        for _ in range(6):
            for name in names:
                ask(client, episode, model=name)

    want(*HOT)
    eventually(lambda: planned(service) == set(HOT) and follow(service))
    assert sum(len(view["plan"]) for view in caches(service)) == len(HOT)
    before = evicted_by_plan(service)
    ask(client, episode, model=ONCE)
    asked = total(service, "misses"), total(service, "hits")
    eventually(lambda: planned(service) == set(HOT) and follow(service))
    assert evicted_by_plan(service) > before
    assert (total(service, "misses"), total(service, "hits")) == asked  # nobody asked for what was fetched

    want(*LATER)
    eventually(lambda: planned(service) == set(LATER) and follow(service))


def test_an_adapter_whose_files_vanish_is_suspended_until_they_are_back(
    service: Service, client: OpenAI, episode: Episode
) -> None:
    name = ONCE
    assert name not in {entry["name"] for view in caches(service) for entry in view["device"]}
    kept = service.adapters.parent / "kept"
    shutil.move(service.adapters / name, kept)
    body = {"model": name, "messages": episode.messages()}
    chats = f"{service.url}/v1/chat/completions"
    refused = httpx.post(chats, json=body, timeout=PATIENCE_S)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "adapter_unavailable")
    arm = service.get("/v1/arms")[name]
    assert arm["state"] == "absent"
    assert f"{service.adapters / name} is not a directory" in arm["reason"]
    assert {each for view in caches(service) for each in view["broken"]} == {name}
    assert all(ask(client, each).id for each in load_all()[:4])
    again = httpx.post(chats, json=body, timeout=PATIENCE_S)
    assert (again.status_code, again.json()["error"]["message"]) == (503, f"model: {name!r}: {arm['reason']}")

    shutil.move(kept, service.adapters / name)
    eventually(lambda: httpx.post(chats, json=body, timeout=PATIENCE_S).status_code == 200)
    assert service.get("/v1/arms")[name]["state"] == "active"
    assert [view["broken"] for view in caches(service)] == [{}] * 2


def test_a_repository_is_added_from_the_command_line(
    service: Service, client: OpenAI, episode: Episode, hub: tuple[Hub, str]
) -> None:
    commit = hub[0].push("friends/mail", {file.name: file.read_bytes() for file in WORSE.iterdir()})
    result = CliRunner().invoke(app, ["adapters", "add", "mail", "friends/mail", "--url", service.url])
    assert (result.exit_code, f"from friends/mail@{commit}" in " ".join(result.output.split())) == (0, True)
    answer = ask(client, episode, model="mail")
    (view,) = [view for view in service.get("/v1/adapters") if view["name"] == "mail"]
    assert service.completed(answer.id)["completion"]["adapters"] == {"mail": view["fingerprint"]}
    assert view["fingerprint"] == files.read(WORSE).fingerprint
    strangers = CliRunner().invoke(app, ["adapters", "add", "post", "strangers/post", "--url", service.url])
    assert "expected a repository of friends (cache.hub_owners)" in str(strangers.exception)


def test_a_hot_adapter_is_served_by_several_replicas(service: Service, client: OpenAI, episode: Episode) -> None:
    served = set()
    for _ in range(25):
        for answer in together(client, [episode] * 16, model="click-dialog"):
            served.add(service.completed(answer.id)["completion"]["replica"])
        if len(served) == 2:
            break
    assert len(served) == 2
