"""The whole service on Ray Serve with the embedded Qwen3-VL, its adapters and an embedded Redis."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI, OpenAI
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from cluster.redis_server import free_port
from cluster.settings import EMBEDDED_WORLD, Settings
from examples.miniwob.episodes import Episode, load_all
from services.launch import running
from tests.cluster.otlp_receiver import OtlpReceiver, attribute

PATIENCE_S = 120.0


class Service:
    """A service that can be restarted on the same data."""

    def __init__(self, directory: Path, **more: dict[str, Any]) -> None:
        self.adapters = directory / "adapters"
        shutil.copytree(EMBEDDED_WORLD / "adapters", self.adapters)
        groups = {
            "server": {"port": free_port()},
            "store": {"data_dir": directory},
            "model": {"adapters": self.adapters, "replicas": 2},
            **more,
        }
        self._settings = Settings.model_validate(groups)
        self._stack = ExitStack()
        self.url = ""

    def start(self) -> None:
        self.url = self._stack.enter_context(running(self._settings))

    def stop(self) -> None:
        self._stack.close()

    def get(self, path: str) -> Any:
        response = httpx.get(f"{self.url}{path}", timeout=PATIENCE_S)
        response.raise_for_status()
        return response.json()

    def say(self, *items: dict[str, Any]) -> list[str]:
        """The status of each feedback item."""
        response = httpx.post(f"{self.url}/v1/feedback", json=list(items), timeout=PATIENCE_S)
        response.raise_for_status()
        return [result["status"] for result in response.json()["results"]]

    def reload(self, adapter: str) -> Any:
        """Serve the adapter as it is on disk."""
        response = httpx.patch(f"{self.url}/v1/adapters/{adapter}", json={}, timeout=PATIENCE_S)
        response.raise_for_status()
        return response.json()

    def arm(self, name: str) -> dict[str, Any]:
        """An arm's state, as the Router knows it by now."""
        view: dict[str, Any] = self.get(f"/v1/bandit/arms/{name}")
        return view

    def settled(self) -> dict[str, dict[str, Any]]:
        """The state of the arms, once the Router has taken over everything that has happened."""
        seen: list[Any] = []

        def is_settled() -> bool:
            seen.append(self.get("/v1/bandit"))
            return bool(seen[-1]["behind_events"] == 0)

        eventually(is_settled)
        return {arm["arm"]: arm for arm in seen[-1]["arms"]}

    def completed(self, decision_id: str) -> Any:
        """A decision, once its completion is logged."""
        eventually(lambda: self.get(f"/v1/decisions/{decision_id}")["completion"] is not None)
        return self.get(f"/v1/decisions/{decision_id}")

    def ledger(self, decision_id: str) -> dict[str, Any]:
        """What the Learner has made of a decision; empty before it has folded it."""
        return self.get(f"/v1/decisions/{decision_id}")["ledger"] or {}


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def traces() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver, pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # ms
        yield receiver


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, traces: OtlpReceiver) -> Iterator[Service]:
    del traces  # it listens before anything starts
    service = Service(tmp_path_factory.mktemp("service"), telemetry={"traces": "otlp", "trace_share": 1.0})
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return load_all()


@pytest.fixture
def client(service: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{service.url}/v1", api_key="unused") as client:
        yield client


def ask(client: OpenAI, episode: Episode, **options: Any) -> Any:
    messages: Any = episode.messages()
    return client.chat.completions.create(**{"model": "auto", "messages": messages} | options)


def together(client: OpenAI, episodes: list[Episode], **options: Any) -> list[Any]:
    """The answers to requests that are sent at the same time."""
    with ThreadPoolExecutor(len(episodes)) as threads:
        return list(threads.map(lambda episode: ask(client, episode, **options), episodes))


def test_the_openai_client_gets_a_tool_call_and_how_it_was_routed(client: OpenAI, episodes: list[Episode]) -> None:
    answer = ask(client, episodes[0])
    content = answer.choices[0].message.content
    call = json.loads(content.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call["name"] == "computer_use"
    assert call["arguments"]["action"] == "left_click"
    assert all(0 <= value <= 1000 for value in call["arguments"]["coordinate"])
    routing = answer.model_extra["routing"]
    assert routing["decision_id"] == answer.id
    assert 0 < routing["propensity"] <= 1
    assert answer.model == ":".join(["qwen3-vl-miniwob", *routing["gates"]])
    assert answer.usage.completion_tokens > 3


def test_a_stream_says_the_same_as_one_answer(client: OpenAI, episodes: list[Episode]) -> None:
    options = {"model": f"qwen3-vl-miniwob:{episodes[0].family}"}
    whole = ask(client, episodes[0], **options)
    chunks = list(ask(client, episodes[0], stream=True, stream_options={"include_usage": True}, **options))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 1
    routed = [chunk for chunk in chunks if chunk.model_extra.get("routing")]
    assert [chunk.model_extra["routing"]["arm"] for chunk in routed] == [episodes[0].family]
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_curl_gets_it_too(service: Service) -> None:
    """With the request that `make serve` suggests."""
    body = EMBEDDED_WORLD.parent / "request.json"
    command = ["curl", "-s", "-i", f"{service.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    done = subprocess.run([*command, "-d", f"@{body}"], capture_output=True, text=True, check=True)
    headers, _, answer = done.stdout.replace("\r", "").partition("\n\n")
    assert f"x-pointsman-decision-id: {json.loads(answer)['id']}" in headers
    assert "<tool_call>" in json.loads(answer)["choices"][0]["message"]["content"]


async def test_rows_of_one_batch_do_not_disturb_each_other(service: Service, episodes: list[Episode]) -> None:
    """Concurrent requests for different adapters answer as each does alone."""
    families = sorted({episode.family for episode in episodes})
    picked = [next(e for e in episodes if e.family == family) for family in families]
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key="unused") as client:

        async def one(episode: Episode) -> str | None:
            messages: Any = episode.messages()
            answer = await client.chat.completions.create(model=episode.family, messages=messages)
            return answer.choices[0].message.content

        alone = [await one(episode) for episode in picked]
        together = await asyncio.gather(*[one(episode) for episode in picked])
    assert together == alone


def test_feedback_before_after_again_and_otherwise(service: Service, episodes: list[Episode]) -> None:
    """Recorded, recorded, duplicate, corrected; and the posterior says so."""
    arm = episodes[0].family
    known = service.settled()[arm]
    body = {"model": arm, "messages": episodes[0].messages(), "stream": True}
    with httpx.stream("POST", f"{service.url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as stream:
        early = stream.headers["x-pointsman-decision-id"]
        assert service.say({"decision_id": early, "success": True}) == ["recorded"]
        assert "[DONE]" in stream.read().decode()
    answer = httpx.post(f"{service.url}/v1/chat/completions", json={**body, "stream": False}, timeout=PATIENCE_S).json()
    assert service.say({"decision_id": answer["id"], "reward": 1.0}) == ["recorded"]
    assert service.say({"decision_id": answer["id"], "reward": 1.0}) == ["duplicate"]
    eventually(lambda: service.arm(arm)["matured"] == known["matured"] + 2)
    generous = service.arm(arm)
    assert service.say({"decision_id": answer["id"], "reward": 0.0}) == ["corrected"]
    eventually(lambda: service.ledger(answer["id"])["rewards"] == {"anonymous": 0.0})
    eventually(lambda: service.arm(arm)["posterior_mean"] < generous["posterior_mean"])
    corrected = service.arm(arm)
    assert (corrected["pulls"], corrected["pending"]) == (known["pulls"] + 2, known["pending"])
    assert corrected["matured"] == generous["matured"]


def test_an_episode_is_rewarded_as_a_whole(service: Service, client: OpenAI, episodes: list[Episode]) -> None:
    steps = [ask(client, e, extra_headers={"X-Episode-Id": "ep-1"}).id for e in episodes[:3]]
    assert [view["decision"]["id"] for view in service.get("/v1/episodes/ep-1")] == steps
    assert service.say({"episode_id": "ep-1", "reward": 1.0, "terminated": True}) == ["recorded"]
    eventually(lambda: all(service.ledger(step).get("status") == "matured" for step in steps))
    assert {service.ledger(step)["weight"] for step in steps} == {1 / 3}


def test_a_request_is_traced_from_the_router_to_the_engine(
    traces: OtlpReceiver, client: OpenAI, episodes: list[Episode]
) -> None:
    """Its spans reach the collector as one trace, ours and Serve's own."""
    answer = ask(client, episodes[1])

    def ours() -> list[Span]:
        return [span for span in traces.spans if attribute(span, "pointsman.decision") == answer.id]

    eventually(lambda: {span.name for span in ours()} >= {"decide", "generate"})
    (trace,) = {span.trace_id for span in ours()}

    def names() -> set[str]:
        return {span.name for span in traces.spans if span.trace_id == trace}

    eventually(lambda: {"encode", "replica_handle_request Model encode"} <= names())


def test_a_broken_image_is_refused_and_leaves_no_trace(service: Service, client: OpenAI) -> None:
    before = service.get("/v1/decisions?limit=1")
    url = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAYAAACNMs+9"  # a header without pixels
    image: Any = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(model="auto", messages=[image])
    assert caught.value.status_code == 400
    assert caught.value.body is not None
    assert service.get("/v1/decisions?limit=1") == before


def test_a_client_that_leaves_does_not_leave_a_pending_decision(service: Service, episodes: list[Episode]) -> None:
    body = {"model": "auto", "messages": episodes[0].messages(), "stream": True}
    with httpx.stream("POST", f"{service.url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as stream:
        decision_id = stream.headers["x-pointsman-decision-id"]

    def is_over() -> bool:
        """Cancelled, unless the answer was complete before anybody noticed."""
        view = service.get(f"/v1/decisions/{decision_id}")
        return bool(view["cancellation"] or view["completion"])

    eventually(is_over)


def test_other_weights_are_taken_over_by_every_replica(
    service: Service, client: OpenAI, episodes: list[Episode]
) -> None:
    """While it runs: the answers become those of the other adapter, and say which hash served them."""
    first, last = (next(e for e in episodes if e.family == family) for family in ("click-color", "click-tab"))
    expected = ask(client, first, model=last.family).choices[0].message.content
    known = {view["name"]: view["fingerprint"] for view in service.get("/v1/adapters")}
    kept = service.adapters.parent / "kept"
    shutil.move(service.adapters / first.family, kept)
    shutil.copytree(service.adapters / last.family, service.adapters / first.family)
    assert service.reload(first.family)["fingerprint"] == known[last.family]
    replicas = set()
    for _ in range(25):
        for answer in together(client, [first] * 16, model=first.family):
            assert answer.choices[0].message.content == expected
            view = service.completed(answer.id)
            assert view["completion"]["adapters"] == view["decision"]["adapters"] == {first.family: known[last.family]}
            replicas.add(view["completion"]["replica"])
        if len(replicas) == 2:
            break
    assert len(replicas) == 2
    (service.adapters / first.family / "adapter_config.json").write_text("{}")
    refused = httpx.patch(f"{service.url}/v1/adapters/{first.family}", json={}, timeout=PATIENCE_S)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_adapter")
    assert "expected a PEFT LoRA configuration" in refused.json()["error"]["message"]
    shutil.rmtree(service.adapters / first.family)
    shutil.move(kept, service.adapters / first.family)
    assert service.reload(first.family)["fingerprint"] == known[first.family]


def test_requests_for_an_adapter_stay_with_its_replica(
    service: Service, client: OpenAI, episodes: list[Episode]
) -> None:
    """As long as it is not busy; one that was never asked for may go anywhere first."""
    families = ("click-dialog", "click-widget")
    for family in families:
        episode = next(e for e in episodes if e.family == family)
        homes = [service.completed(ask(client, episode, model=family).id)["completion"]["replica"] for _ in range(6)]
        assert len(set(homes[1:])) == 1, homes


def test_a_replica_that_is_killed_takes_nothing_else_with_it(
    service: Service, client: OpenAI, episodes: list[Episode]
) -> None:
    """Its requests are answered by the other one or fail by themselves; then all go on, and the new one is found."""
    episode = next(e for e in episodes if e.family == "click-dialog")
    home = service.completed(ask(client, episode, model="click-dialog").id)["completion"]["replica"]
    with ThreadPoolExecutor(16) as threads:
        running = [threads.submit(ask, client.with_options(max_retries=0), e, model=e.family) for e in episodes[:48]]
        os.kill(replica_pid(home), signal.SIGKILL)
        errors = [error for error in (each.exception() for each in running) if error]
    assert all(isinstance(error, APIStatusError) and error.status_code == 503 for error in errors), errors
    assert len(errors) <= 24
    for _ in range(4):
        assert service.completed(ask(client, episode, model="click-dialog").id)["completion"]["replica"] != home
    replicas = set[str]()

    def both_serve() -> bool:
        answers = together(client, [episode] * 16, model="click-dialog")
        replicas.update(service.completed(answer.id)["completion"]["replica"] for answer in answers)
        return len(replicas) == 2

    eventually(both_serve)
    assert home not in replicas


def replica_pid(unique_id: str) -> int:
    """The process of a Model replica."""
    import ray._private.state as state  # without its dashboard Ray has no other way to ask

    (pid,) = [actor["Pid"] for actor in state.actors().values() if unique_id in actor["Name"]]
    return int(pid)


def test_everything_is_there_after_a_restart(service: Service, client: OpenAI, episodes: list[Episode]) -> None:
    pending = ask(client, episodes[-1])
    eventually(lambda: service.ledger(pending.id).get("status") == "pending")
    service.completed(pending.id)
    before = service.settled()
    service.stop()
    service.start()
    after = service.settled()
    assert after == before
    assert sum(arm["pending"] for arm in after.values()) > 0
    assert service.say({"decision_id": pending.id, "reward": 1.0}) == ["recorded"]
    eventually(lambda: service.ledger(pending.id)["status"] == "matured")
