"""Bad input: one clear error in OpenAI's shape that names the field, and no event."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.engine.base import Delta, InvalidSchema
from tests.services.conftest import MakeWorld
from tests.services.fakes import CONTROL
from tests.services.images import data_url, encoded, image_part
from tests.services.world import World, chat

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ENDLESS = {"allOf": [{"type": "string", "pattern": f"a.{{{n}}}b"} for n in range(40)]}
"""Patterns that must all fit: to find out whether any text does would take hours."""
CHAT, FEEDBACK = "/v1/chat/completions", "/v1/feedback"


def schema(wanted: Any, name: str = "answer") -> dict[str, Any]:
    """The body's field that asks for JSON of a schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": wanted}}}


async def refused(world: World, response: httpx.Response, status: int, *said: str, param: str | None) -> None:
    """The response is an error of that status that says all of `said`; nothing was decided or recorded."""
    error = response.json()["error"]
    assert response.status_code == status, error
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert error["code"]
    for words in said:
        assert words in error["message"], error["message"]
    assert "Traceback" not in response.text
    assert await world.kinds() == []


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({"model": "gpt-9"}, 404, "model", ["'gpt-9'", "expected one of auto, qwen"]),
        ({"model": "qwen:nobody"}, 404, "model", ["'qwen:nobody'"]),
        ({"routing": {"arms": ["inbox", "nobody"]}}, 400, "routing.arms", ["'nobody'", "base, calendar"]),
        ({"routing": {"arms": []}}, 400, "routing.arms", ["[]"]),
        ({"routing": {"adapters": ["inbox"]}}, 400, "routing.adapters", ["Extra"]),
        ({"model": "inbox", "routing": {"arms": ["claims"]}}, 400, "routing.arms", ["'inbox'", "['claims']"]),
        ({"temperature": -1}, 400, "temperature", ["-1", "greater than or equal to 0"]),
        ({"temperature": "hot"}, 400, "temperature", ["'hot'", "number"]),
        ({"top_p": 0}, 400, "top_p", ["0", "greater than 0"]),
        ({"max_tokens": 65}, 400, "max_tokens", ["65", "at most 64"]),
        ({"max_tokens": 0}, 400, "max_tokens", ["0", "greater than or equal to 1"]),
        ({"stop": ["x"] * 17}, 400, "stop", ["17 strings", "at most 16"]),
        ({"n": 0}, 400, "n", ["0", "greater than or equal to 1"]),
        ({"n": 9}, 400, "n", ["9", "at most 8"]),
        ({"max_completion_tokens": 65}, 400, "max_completion_tokens", ["65", "at most 64"]),
        ({"frequency_penalty": 2.5}, 400, "frequency_penalty", ["2.5", "less than or equal to 2"]),
        ({"presence_penalty": -3}, 400, "presence_penalty", ["-3", "greater than or equal to -2"]),
        ({"logit_bias": {"50256": -100}}, 400, "logit_bias", ["50256", "at most 0"]),
        ({"top_logprobs": 5}, 400, "top_logprobs", ["5 without logprobs"]),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", ["21", "less than or equal to 20"]),
        ({"tool_choice": "required"}, 400, "tool_choice", ["'required'", "'none'"]),
        ({"functions": [{"name": "f"}]}, 400, "functions", ["at most 0"]),
        ({"modalities": ["text", "audio"]}, 400, "modalities", ["audio", "at most 1"]),
        ({"top_k": 40}, 400, "top_k", ["40", "not permitted"]),
        ({"tools": [{"type": "function"}]}, 400, "tools", ["at most 0"]),
        ({"logprobs": "many"}, 400, "logprobs", ["'many'", "boolean"]),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type", ["'xml'", "'json_schema'"]),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format", ["no json_schema"]),
        ({"response_format": {"type": "text", "json_schema": {"name": "a"}}}, 400, "response_format", ["'text'"]),
        (schema({}, name=""), 400, "response_format.json_schema.name", ["at least 1"]),
        (schema(7), 400, "response_format.json_schema.schema", ["7", "dictionary"]),
        (schema({"not": {}}), 400, "response_format.json_schema.schema", ["Unimplemented", "not"]),
        (schema(ENDLESS), 400, "response_format.json_schema.schema", ["takes more than 2 s"]),
        (schema({"type": "click"}), 400, "response_format.json_schema.schema", ["click"]),
        (schema({"$ref": "#/nowhere"}), 400, "response_format.json_schema.schema", ["/nowhere"]),
        ({"messages": []}, 400, "messages", ["[]", "at least 1"]),
        ({"messages": "hello"}, 400, "messages", ["'hello'", "list"]),
        ({"messages": None}, 400, "messages", ["required"]),
        ({"messages": [{"role": "user"}]}, 400, "messages.0.content", ["required"]),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages.0.content", ["null", "required"]),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]},
            400,
            "messages.0.tool_calls",
            ["'user'", "assistant"],
        ),
        ({"messages": [{"role": "root", "content": "x"}]}, 400, "messages.0.role", ["'root'", "'system'"]),
        ({"messages": [{"role": "user", "content": 7}]}, 400, "messages.0.content", ["7", "string"]),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, 400, "messages.0.content.0", ["'video'"]),
        ({"metadata": {"episode_id": "e" * 129}}, 400, "metadata.episode_id", ["at most 128"]),
        ({"metadata": {"task": "two words"}}, 400, "metadata.task", ["'two words'"]),
        ({"messages": [{"role": "user", "content": f"ok{CONTROL}"}]}, 400, "messages", [CONTROL, "plain text"]),
    ],
)
async def test_chats(world: World, body: dict[str, Any], status: int, param: str, said: list[str]) -> None:
    for path in (CHAT, "/v1/route"):
        await refused(world, await world.post(path, chat(**body)), status, *said, param=param)


@pytest.mark.parametrize(
    ("item", "param", "said"),
    [
        ({"decision_id": "d", "reward": 1.5}, "reward", ["1.5", "less than or equal to 1"]),
        ({"decision_id": "d", "reward": -0.1}, "reward", ["-0.1", "greater than or equal to 0"]),
        ({"decision_id": "d", "reward": float("nan")}, "reward", ["nan", "finite"]),
        ({"decision_id": "d", "reward": float("inf")}, "reward", ["inf"]),
        ({"decision_id": "d", "reward": "good"}, "reward", ["'good'", "number"]),
        ({"decision_id": "d"}, "body", ["expected reward (0 to 1) or success"]),
        ({"decision_id": "d", "reward": 1, "success": True}, "body", ["not both"]),
        ({"reward": 1}, "body", ["exactly one of decision_id and episode_id"]),
        ({"decision_id": "d", "episode_id": "e", "reward": 1}, "body", ["exactly one of decision_id and episode_id"]),
        ({"decision_id": "", "reward": 1}, "decision_id", ["''", "at least 1"]),
        ({"episode_id": "e" * 129, "reward": 1}, "episode_id", ["at most 128"]),
        ({"decision_id": "d", "rewrad": 1}, "rewrad", ["Extra"]),
        ({"decision_id": "d", "reward": 1, "comment": "c" * 2001}, "comment", ["2000"]),
    ],
)
async def test_feedback(world: World, item: dict[str, Any], param: str, said: list[str]) -> None:
    headers = {"content-type": "application/json"}
    alone = await world.http.post(FEEDBACK, content=json.dumps(item), headers=headers)
    await refused(world, alone, 400, *said, param=param)
    good = {"decision_id": "other", "reward": 1}
    listed = await world.http.post(FEEDBACK, content=json.dumps([good, item]), headers=headers)
    await refused(world, listed, 400, *said, param="1" if param == "body" else f"1.{param}")


async def test_an_item_that_is_refused_keeps_the_whole_batch_out(world: World) -> None:
    answer = await world.ask()
    await world.settle()
    items = [{"decision_id": answer["id"], "reward": 1}, {"decision_id": answer["id"], "reward": 2}]
    assert (await world.post(FEEDBACK, items)).status_code == 400
    assert await world.kinds() == ["decision", "completion"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("data:image/png;base64,@@@@", ["broken base64"]),
        ("data:image/png;base64,abc", ["broken base64"]),
        ("data:image/png;base64,café", ["broken base64"]),
        ("data:image/png,rawbytes", ["data:image/<type>;base64,<data>"]),
        ("data:image/png;base64", ["data:image/<type>;base64,<data>"]),
        ("data:image/png;base64,", ["0 bytes", "no PNG, JPEG, WEBP, GIF"]),
        (data_url(b"<svg></svg>"), ["11 bytes", "no PNG"]),
        (data_url(encoded(kind="BMP")), ["no PNG"]),
        (data_url(encoded(101, 100)), ["101×100 pixels", "at most 10000"]),
        ("http://127.0.0.1/screen.png", ["'http://127.0.0.1/screen.png'", "expected a data URL"]),
        ("http://images.test@127.0.0.1/screen.png", ["expected a data URL"]),
        ("ftp://images.test/screen.png", ["expected a data URL"]),
        ("file:///etc/passwd", ["expected a data URL"]),
        ("http://[images.test/", ["expected a data URL"]),
        ("http://images.test:port/", ["no URL"]),
        ("", ["expected a data URL"]),
    ],
)
async def test_images(make_world: MakeWorld, url: str, said: list[str]) -> None:
    world = await make_world(limits={"image_pixels": 10_000, "image_hosts": ["images.test"]})
    messages = [{"role": "user", "content": "look"}, {"role": "user", "content": [image_part(url)]}]
    field = "messages[1].content[0].image_url.url"
    await refused(world, await world.post(CHAT, chat(messages=messages)), 400, field, *said, param=field)


async def test_too_many(make_world: MakeWorld) -> None:
    world = await make_world(limits={"messages": 3, "images": 2, "feedback_items": 2})
    turn = {"role": "user", "content": "look"}
    await refused(world, await world.post(CHAT, chat(messages=[turn] * 4)), 400, "4", "at most 3", param="messages")
    seen = {"role": "user", "content": [image_part(data_url(encoded()))] * 2}
    await refused(world, await world.post(CHAT, chat(messages=[seen, seen])), 400, "4", "at most 2", param="messages")
    items = [{"decision_id": "d", "reward": 1}] * 3
    await refused(world, await world.post(FEEDBACK, items), 400, "3 feedback items", "at most 2", param=None)


class TestBodies:
    async def test_an_announced_body_that_is_too_large(self, make_world: MakeWorld) -> None:
        world = await make_world(limits={"body_bytes": 2000})
        response = await world.post(CHAT, chat("x" * 2000))
        size = response.request.headers["content-length"]
        await refused(world, response, 413, f"{size} bytes", "at most 2000", param=None)

    async def test_a_chunked_body_that_is_too_large_is_not_read_to_the_end(self, make_world: MakeWorld) -> None:
        world, sent = await make_world(limits={"body_bytes": 2000}), 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal sent
            for _ in range(100):
                sent += 1
                yield b" " * 1000

        headers = {"content-type": "application/json"}
        response = await world.http.post(CHAT, content=chunks(), headers=headers)
        await refused(world, response, 413, "more than 2000 bytes", "at most 2000", param=None)
        assert response.json()["error"]["code"] == "body_too_large"
        assert sent == 3

    @pytest.mark.parametrize(
        ("content", "said"),
        [(b'{"model": "auto", "messages": [', "not JSON at character 31"), (b"", "required"), (b"[]", "dictionary")],
    )
    async def test_what_is_no_json_object(self, world: World, content: bytes, said: str) -> None:
        response = await world.http.post(CHAT, content=content, headers={"content-type": "application/json"})
        await refused(world, response, 400, said, param="body")

    async def test_text_that_is_not_utf8(self, world: World) -> None:
        headers = {"content-type": "application/json"}
        response = await world.http.post(CHAT, content=b'{"model": "\xff"}', headers=headers)
        assert response.status_code == 400
        assert response.json()["error"]["type"] == "invalid_request_error"

    @pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
    @pytest.mark.parametrize("path", [CHAT, "/v1/route", FEEDBACK])
    async def test_json_must_be_announced(self, world: World, kind: str, path: str) -> None:
        """A web page can post the other types to a service on the same machine without asking it first."""
        headers = {"content-type": kind} if kind else {}
        response = await world.http.post(path, content=json.dumps(chat()), headers=headers)
        await refused(world, response, 415, f"content-type: {kind!r}", "'application/json'", param=None)


@pytest.mark.parametrize("name", ["x-episode-id", "x-client-request-id"])
@pytest.mark.parametrize("value", ["e" * 129, "two words", b"caf\xe9"])
async def test_ids_in_headers(world: World, name: str, value: str | bytes) -> None:
    response = await world.http.post(
        CHAT, json=chat(), headers=[(name.encode(), value if isinstance(value, bytes) else value.encode())]
    )
    await refused(world, response, 400, name, "at most 128", param=name)


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v1/nothing", 404), ("GET", CHAT, 405), ("DELETE", FEEDBACK, 405)]
)
async def test_routes_that_do_not_exist(world: World, method: str, path: str, status: int) -> None:
    response = await world.http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}


async def test_a_schema_that_the_engine_alone_finds_too_much(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passed at the edge, and is a 400 that names the field all the same; the decision is withdrawn."""

    async def generate(*_: Any) -> AsyncIterator[Delta]:
        raise InvalidSchema("fuel exhausted")
        yield

    monkeypatch.setattr(world.engine, "generate", generate)
    response = await world.post(CHAT, chat("open the inbox", **schema({"type": "object"})))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "response_format.json_schema.schema"
    assert "fuel exhausted" in response.json()["error"]["message"]
    assert await world.kinds() == ["decision", "cancellation"]
