"""The wire contract of chats: what a client sends, and what it gets back."""

import json
import re
import time
from typing import Any

import httpx
import pytest

from cluster.events import Completion, Decision
from services.edge.answers import ChatCompletion
from services.engine.base import EngineStopped
from services.model.replica import ModelReplica
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES
from tests.services.images import data_url, image_message
from tests.services.world import BASE, World, chat

CHAT = "/v1/chat/completions"


def stream(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream that ends as it should."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


class TestJson:
    async def test_an_answer_has_openais_shape_and_says_how_it_was_routed(self, world: World) -> None:
        answer = await world.ask("open the calendar")
        assert answer["object"] == "chat.completion"
        assert answer["model"] == f"{BASE}:calendar"
        (choice,) = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": "left_click(500, 250)"}
        assert (choice["index"], choice["finish_reason"]) == (0, "stop")
        assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
        routing = answer["routing"]
        assert routing["decision_id"] == answer["id"]
        assert (routing["arm"], routing["gates"], routing["supervised"]) == ("calendar", {"calendar": 1.0}, "calendar")
        assert (routing["policy"], routing["propensity"], routing["explored"]) == ("linucb", 1.0, False)
        assert (routing["resident"], routing["durable"]) == (True, True)
        assert routing["policy_version"] == world.router.decider.snapshots.version > 0

    @pytest.mark.parametrize("body", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 2}])
    async def test_an_answer_is_what_the_schema_says(self, world: World, body: dict[str, Any]) -> None:
        answer = await world.ask("open the calendar", **body)
        assert ChatCompletion.model_validate(answer).model_dump() == answer

    @pytest.mark.parametrize("body", [{}, {"stream": True}])
    async def test_the_headers_say_it_too(self, world: World, body: dict[str, Any]) -> None:
        response = await world.post(CHAT, chat(**body))
        found = {n.removeprefix("x-pointsman-"): v for n, v in response.headers.items() if n.startswith("x-pointsman")}
        decision_id = found.pop("decision-id")
        assert (await world.get(f"/v1/decisions/{decision_id}"))["decision"]["arm"] == "calendar"
        assert found == {
            "arm": "calendar",
            "gates": "calendar=1",
            "policy": "linucb",
            "policy-version": str(world.router.decider.snapshots.version),
            "propensity": "1.0",
            "explored": "false",
            "resident": "true",
            "durable": "true",
        }

    @pytest.mark.parametrize("family", FAMILIES)
    async def test_auto_follows_the_instruction(self, world: World, family: str) -> None:
        answer = await world.ask(f"please look at the {family} now")
        assert answer["routing"]["arm"] == family
        assert world.engine.generated[-1][1] == {family: 1.0}

    async def test_the_decision_and_its_completion_are_logged(self, world: World) -> None:
        metadata = {"task": "book", "tenant": "acme", "episode_id": "e1", "anything": "else"}
        answer = await world.ask("open the inbox", metadata=metadata)
        *_, decision, completion = await world.events()
        assert isinstance(decision, Decision)
        assert isinstance(completion, Completion)
        assert (decision.id, completion.decision_id) == (answer["id"], answer["id"])
        assert (decision.task, decision.tenant, decision.episode, decision.key) == ("book", "acme", "e1", "anonymous")
        assert decision.adapters == {"inbox": world.registry["inbox"].fingerprint}
        assert decision.eligible == ["base", *FAMILIES]
        assert decision.scored[0].arm == "inbox"
        assert decision.router == world.contexts.fingerprint
        assert len(decision.features) == 2 * world.engine.feature_size
        assert (completion.prompt_tokens, completion.completion_tokens, completion.finish_reason) == (11, 3, "stop")
        assert 0 <= (completion.first_token_ms or 0) <= completion.latency_ms
        assert completion.replica == "local"

    async def test_the_episode_header_goes_before_the_metadata(self, world: World) -> None:
        answer = await world.ask(episode="from-header", metadata={"episode_id": "from-body"})
        (view,) = await world.get("/v1/episodes/from-header")
        assert view["decision"]["id"] == answer["id"]

    async def test_sampling_reaches_the_engine(self, world: World) -> None:
        await world.ask(temperature=0.5, top_p=0.9, seed=7, max_completion_tokens=5, stop=["</tool_call>", ""])
        sampling = world.engine.generated[-1][2]
        assert (sampling.temperature, sampling.top_p, sampling.seed) == (0.5, 0.9, 7)
        assert (sampling.max_tokens, sampling.stop) == (5, ("</tool_call>",))
        assert (sampling.n, sampling.logprobs, sampling.json_schema) == (1, None, None)

    async def test_json_is_asked_of_the_engine_as_a_schema(self, world: World) -> None:
        wanted = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
        named = {"name": "point", "strict": True, "schema": wanted}
        await world.ask(response_format={"type": "json_schema", "json_schema": named})
        await world.ask(response_format={"type": "json_object"})
        schemas = [json.loads(sampling.json_schema or "") for _, _, sampling in world.engine.generated]
        assert schemas == [wanted, {"type": "object"}]

    async def test_nulls_are_what_is_left_open(self, world: World) -> None:
        names = ["temperature", "top_p", "seed", "max_tokens", "stop", "stream", "metadata", "routing", "n", "tools"]
        await world.post(CHAT, chat() | dict.fromkeys(names))
        sampling = world.engine.generated[-1][2]
        assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.0, 1.0, 64)

    async def test_choices_are_answers_to_one_decision(self, world: World) -> None:
        answer = await world.ask(n=3)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
        assert {choice["message"]["content"] for choice in answer["choices"]} == {"left_click(500, 250)"}
        assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 3 + 4 + 5, "total_tokens": 23}
        *_, decision, completion = await world.events()
        assert isinstance(completion, Completion)
        assert (decision.type, completion.completion_tokens, completion.finish_reason) == (
            "decision",
            12,
            "stop,stop,stop",
        )
        assert len(world.engine.generated) == 1
        assert await world.say({"decision_id": answer["id"], "success": True}) == ["recorded"]

    async def test_a_choice_that_is_missing_is_no_answer(self, world: World) -> None:
        world.engine.finish = None
        assert (await world.post(CHAT, chat(n=2))).status_code == 500
        assert await world.kinds() == ["decision", "cancellation"]

    async def test_logprobs_come_when_asked(self, world: World) -> None:
        assert (await world.ask())["choices"][0]["logprobs"] is None
        (choice,) = (await world.ask(logprobs=True, top_logprobs=2))["choices"]
        said = choice["logprobs"]["content"]
        assert "".join(each["token"] for each in said) == choice["message"]["content"]
        assert said[0] == {
            "token": "left_",
            "bytes": list(b"left_"),
            "logprob": -0.25,
            "top_logprobs": [
                {"token": "left_", "bytes": list(b"left_"), "logprob": -0.25},
                {"token": "0", "bytes": [48], "logprob": -9999.0},
            ],
        }
        (bare,) = (await world.ask(logprobs=True))["choices"]
        assert {len(each["top_logprobs"]) for each in bare["logprobs"]["content"]} == {0}


class TestStream:
    async def test_pieces_come_one_by_one_and_the_last_chunk_has_the_routing(self, world: World) -> None:
        response = await world.post(CHAT, chat("open the claims", stream=True))
        assert response.headers["content-type"].startswith("text/event-stream")
        first, *middle, last = stream(response)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert [chunk["choices"][0]["delta"]["content"] for chunk in middle] == world.engine.pieces
        assert (last["choices"][0]["delta"], last["choices"][0]["finish_reason"]) == ({}, "stop")
        assert last["routing"]["arm"] == "claims"
        chunks = [first, *middle, last]
        assert {chunk["id"] for chunk in chunks} == {response.headers["x-pointsman-decision-id"]}
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert {chunk["model"] for chunk in chunks} == {f"{BASE}:claims"}
        assert not any("routing" in chunk for chunk in chunks[:-1])
        assert await world.kinds() == ["decision", "completion"]

    async def test_choices_come_side_by_side_and_are_one_decision(self, world: World) -> None:
        usage = {"include_usage": True}
        chunks = stream(await world.post(CHAT, chat(n=2, stream=True, stream_options=usage, logprobs=True)))
        *told, counted = chunks
        assert {chunk["choices"][0]["index"] for chunk in told} == {0, 1}
        for number in (0, 1):
            own = [chunk["choices"][0] for chunk in told if chunk["choices"][0]["index"] == number]
            assert "".join(one["delta"].get("content", "") for one in own) == "left_click(500, 250)"
            assert [one["finish_reason"] for one in own] == [None] * 4 + ["stop"]
            spoken = [one["logprobs"]["content"] for one in own if one["logprobs"]]
            assert [[each["token"] for each in said] for said in spoken] == [[piece] for piece in world.engine.pieces]
        assert ["routing" in chunk for chunk in told] == [False] * (len(told) - 1) + [True]
        assert counted["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        assert await world.kinds() == ["decision", "completion"]

    async def test_usage_comes_when_asked(self, world: World) -> None:
        asked = stream(await world.post(CHAT, chat(stream=True, stream_options={"include_usage": True})))
        assert asked[-1]["choices"] == []
        assert asked[-1]["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
        assert not any("usage" in chunk for chunk in stream(await world.post(CHAT, chat(stream=True))))


class TestModels:
    @pytest.mark.parametrize(
        ("model", "arm", "served"),
        [
            (BASE, "base", BASE),
            (f"{BASE}:inbox", "inbox", f"{BASE}:inbox"),
            ("inbox", "inbox", f"{BASE}:inbox"),
        ],
    )
    async def test_a_model_that_names_an_arm_pins_it(self, world: World, model: str, arm: str, served: str) -> None:
        answer = await world.ask("open the calendar", model=model)
        assert (answer["model"], answer["routing"]["arm"]) == (served, arm)
        assert answer["routing"]["propensity"] == 1.0
        assert world.engine.generated[-1][1] == ({} if arm == "base" else {arm: 1.0})
        decision = (await world.get(f"/v1/decisions/{answer['id']}"))["decision"]
        assert decision["eligible"] == [arm]

    async def test_routing_arms_restrict_auto(self, world: World) -> None:
        answer = await world.ask("open the calendar", routing={"arms": ["inbox", "base"]})
        assert answer["routing"]["arm"] in ("inbox", "base")
        decision = (await world.get(f"/v1/decisions/{answer['id']}"))["decision"]
        assert sorted(decision["eligible"]) == ["base", "inbox"]

    async def test_every_name_is_listed_and_can_be_asked_for(self, world: World) -> None:
        listed = await world.get("/v1/models")
        names = [card["id"] for card in listed["data"]]
        assert listed["object"] == "list"
        assert sorted(names) == sorted(["auto", BASE, *FAMILIES, *(f"{BASE}:{family}" for family in FAMILIES)])
        for name in names:
            await world.ask(model=name)


class TestPrompts:
    async def test_a_chat_without_an_image_has_no_vision_features(self, world: World) -> None:
        await world.ask("open the calendar")
        *_, decision, _ = await world.events()
        assert isinstance(decision, Decision)
        assert decision.features[-2:] == b"\x00\x00"

    async def test_the_image_of_a_data_url_is_routed_on_and_answered(self, world: World) -> None:
        message, image = image_message("open the calendar")
        await world.ask(messages=[message])
        *_, decision, _ = await world.events()
        assert isinstance(decision, Decision)
        assert decision.features[-2:] != b"\x00\x00"
        assert world.engine.generated[-1][0].images == [image]

    async def test_an_agent_is_routed_on_its_latest_image_and_first_instruction(self, world: World) -> None:
        (first, _), (_, latest) = image_message("open the inbox"), image_message("", color="blue")
        url = data_url(latest)
        turns = [
            {"role": "system", "content": "You click on the calendar and the claims."},
            first,
            {"role": "assistant", "content": "<tool_call>calendar</tool_call>"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url, "detail": "high"}}]},
        ]
        answer = await world.ask(messages=turns)
        assert answer["routing"]["arm"] == "inbox"
        prompt = world.engine.generated[-1][0]
        assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]
        assert (prompt.routed.instruction, prompt.routed.images) == ("open the inbox", [latest])


class TestRoute:
    async def test_it_explains_and_logs_nothing(self, world: World) -> None:
        before = await world.events()
        response = await world.post("/v1/route", chat("open the inbox"))
        explained = response.json()
        assert (explained["arm"], explained["supervised"], explained["propensity"]) == ("inbox", "inbox", 1.0)
        assert explained["policy_version"] == world.router.decider.snapshots.version
        assert sorted(explained["resident"]) == sorted(FAMILIES)
        scores = [arm["score"] for arm in explained["arms"]]
        assert scores == sorted(scores, reverse=True)
        assert {arm["arm"] for arm in explained["arms"]} == {"base", *FAMILIES}
        gates = {arm["arm"]: arm["gate"] for arm in explained["arms"]}
        assert gates.pop("base") is None
        assert sum(gates.values()) == pytest.approx(1.0)
        assert await world.events() == before
        assert world.engine.generated == []

    async def test_it_agrees_with_the_decision_that_follows(self, world: World) -> None:
        explained = (await world.post("/v1/route", chat("open the claims"))).json()
        decision = (await world.ask("open the claims"))["id"]
        scored = (await world.get(f"/v1/decisions/{decision}"))["decision"]["scored"]
        assert [one["arm"] for one in scored] == [one["arm"] for one in explained["arms"]]
        assert [one["mean"] for one in scored] == pytest.approx([one["mean"] for one in explained["arms"]])

    async def test_it_takes_a_restriction(self, world: World) -> None:
        response = await world.post("/v1/route", chat("open the inbox", routing={"arms": ["claims"]}))
        assert [arm["arm"] for arm in response.json()["arms"]] == ["claims"]


class TestPlacement:
    async def test_what_is_not_resident_costs_a_page_in(self, world: World) -> None:
        world.leave_resident("claims", "inbox")
        explained = (await world.post("/v1/route", chat("open the calendar"))).json()
        costs = {arm["arm"]: arm["cost_ms"] for arm in explained["arms"]}
        assert costs == {"base": 0.0, "inbox": 0.0, "claims": 0.0, "calendar": world.settings.router.page_in_ms}
        assert (await world.ask("open the calendar"))["routing"]["resident"] is False

    async def test_a_high_price_of_waiting_turns_the_choice(self, make_world: MakeWorld) -> None:
        world = await make_world(router={"epsilon_supervised": 0, "epsilon_uniform": 0, "cost_per_ms": 1.0})
        world.leave_resident("claims", "inbox")
        assert (await world.ask("open the calendar"))["routing"]["arm"] != "calendar"


class TestOperations:
    async def test_health_and_readiness(self, world: World) -> None:
        assert await world.get("/healthz") == {"status": "ok"}
        assert (await world.http.get("/readyz")).status_code == 503
        await world.store.heartbeat(1.0)
        assert (await world.http.get("/readyz")).status_code == 503
        await world.store.heartbeat(time.time() - 2)
        ready = await world.get("/readyz")
        assert ready["status"] == "ready"
        assert ready["learner_age_s"] > 0
        assert ready["store_warnings"] == []

    async def test_metrics_count_requests_decisions_and_feedback(self, world: World) -> None:
        answer = await world.ask("open the inbox")
        await world.say({"decision_id": answer["id"], "reward": 1}, {"decision_id": "nobody", "reward": 1})
        await world.http.get("/v1/decisions/nobody")
        text = (await world.http.get("/metrics")).text
        assert 'pointsman_decisions_total{arm="inbox",explored="false"} 1.0' in text
        assert 'pointsman_feedback_total{status="recorded"} 1.0' in text
        assert 'pointsman_feedback_total{status="unknown"} 1.0' in text
        assert 'pointsman_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
        assert 'pointsman_requests_total{route="/v1/decisions/{decision_id}",status="404"} 1.0' in text
        assert 'pointsman_request_seconds_count{route="/v1/feedback"} 1.0' in text
        assert re.search(rf"pointsman_policy_version {world.router.decider.snapshots.version}\.0", text)

    async def test_the_reference_lists_the_routes(self, world: World) -> None:
        paths = (await world.get("/openapi.json"))["paths"]
        assert {"/v1/chat/completions", "/v1/route", "/v1/feedback", "/v1/bandit", "/healthz"} <= paths.keys()


async def test_a_replica_whose_engine_has_stopped_says_so(world: World) -> None:
    replica = world.router.model
    assert isinstance(replica, ModelReplica)
    replica.check_health()
    world.engine.close()
    with pytest.raises(EngineStopped):
        replica.check_health()
