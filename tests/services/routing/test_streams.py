"""How an answer can end: finished, given up by its client, or failed. No end leaves a pending pull behind."""

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message as ASGIMessage

from cluster.events import Cancellation, Decision
from services.edge.sse import AnswerStream
from services.engine.base import Message, Part, Prompt, Sampling
from services.routing.call import Call
from tests.services.world import World, chat, eventually, listening

CHAT = "/v1/chat/completions"
STREAM: dict[str, Any] = {"json": chat("open the inbox", stream=True)}


async def cancelled(world: World) -> str:
    """Wait until the only decision is cancelled; its id."""

    async def ended() -> bool:
        return "cancellation" in await world.kinds()

    await eventually(ended)
    assert await world.kinds() == ["decision", "cancellation"]
    *_, decision, cancellation = await world.events()
    assert isinstance(decision, Decision)
    assert isinstance(cancellation, Cancellation)
    assert cancellation.decision_id == decision.id
    arm = await world.arm("inbox")
    assert (arm["pulls"], arm["pending"], arm["matured"]) == (1, 0, 0)
    return decision.id


async def test_a_client_that_leaves_between_pieces(world: World) -> None:
    world.engine.waits_after = 1
    async with listening(world.app) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", CHAT, **STREAM) as response:
            lines = response.aiter_lines()
            while '"left_"' not in await anext(lines):
                pass
            decision_id = response.headers["x-pointsman-decision-id"]
        assert await cancelled(world) == decision_id
    assert world.engine.given_up == 1


async def test_a_client_that_leaves_before_the_first_piece(world: World) -> None:
    world.engine.gate.clear()
    async with listening(world.app) as url, httpx.AsyncClient(base_url=url) as client:
        async with client.stream("POST", CHAT, **STREAM):
            assert await world.kinds() == ["decision"]
        await cancelled(world)
    assert world.engine.given_up == 1


async def test_an_answer_that_nobody_begins_to_read(world: World) -> None:
    """The connection may be gone when the decision has just been taken; no garbage collector is waited for."""
    prompt = Prompt((Message("user", (Part(text="open the inbox"),)),))
    routed = await world.router.route(Call(prompt, world.registry.arms, Sampling(max_tokens=1)))
    deltas = await world.router.responder.tell(routed)

    async def receive() -> ASGIMessage:
        return {"type": "http.disconnect"}

    async def send(_: ASGIMessage) -> None:
        raise OSError("the client is gone")

    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}}
    with pytest.raises(ClientDisconnect):
        await AnswerStream(routed, world.router.base, deltas, usage=False)(scope, receive, send)
    await cancelled(world)
    assert [delta async for delta in deltas] == []


async def test_a_request_that_is_cancelled_while_it_waits_for_the_answer(world: World) -> None:
    world.engine.gate.clear()
    asking = asyncio.create_task(world.post(CHAT, chat("open the inbox")))

    async def decided() -> bool:
        return "decision" in await world.kinds()

    await eventually(decided)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await cancelled(world)
    assert world.engine.given_up == 1


@pytest.mark.parametrize("after", range(60))
async def test_a_request_that_is_cancelled_anywhere(world: World, after: int) -> None:
    """Wherever the cancellation strikes, a decision that was written has an end."""
    asking = asyncio.create_task(world.post(CHAT, chat("open the inbox")))
    for _ in range(after * 4):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])

    async def ended() -> bool:
        return await world.kinds() in ([], ["decision", "cancellation"], ["decision", "completion"])

    await eventually(ended)
    assert (await world.arm("inbox"))["pending"] == (await world.kinds()).count("completion")


@pytest.mark.parametrize("fails_after", [0, 2, 3])
async def test_a_stream_that_fails_says_so_and_is_cancelled(
    world: World, fails_after: int, caplog: pytest.LogCaptureFixture
) -> None:
    world.engine.fails_after = fails_after
    with caplog.at_level(logging.CRITICAL):
        response = await world.post(CHAT, chat("open the inbox", stream=True))
    *chunks, last = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    assert response.status_code == 200
    assert [chunk["choices"][0]["delta"]["content"] for chunk in chunks] == ["", *world.engine.pieces[:fails_after]]
    assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "generation_failed")
    assert "secret" not in response.text
    assert "[DONE]" not in response.text
    await cancelled(world)


@pytest.mark.parametrize("fails_after", [0, 2])
async def test_an_answer_that_fails_is_an_error_without_a_traceback(world: World, fails_after: int) -> None:
    world.engine.fails_after = fails_after
    response = await world.post(CHAT, chat("open the inbox"))
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (500, "server_error", "internal_error")
    assert "secret" not in response.text
    assert "Traceback" not in response.text
    assert 'status="500"} 1.0' in (await world.http.get("/metrics")).text
    await cancelled(world)


@pytest.mark.parametrize("pieces", [[], ["half"]])
async def test_an_answer_that_just_stops_has_failed(world: World, pieces: list[str]) -> None:
    world.engine.pieces, world.engine.finish = pieces, None
    assert (await world.post(CHAT, chat("open the inbox"))).status_code == 500
    await cancelled(world)


async def test_feedback_on_a_failed_answer_counts(world: World) -> None:
    """Somebody who rewards the decision itself has seen what came of it, perhaps on a retry."""
    world.engine.fails_after = 2
    await world.post(CHAT, chat("open the inbox"), x_episode_id="e")
    decision_id = await cancelled(world)
    assert await world.say({"episode_id": "e", "reward": 1}) == ["recorded"]
    assert (await world.arm("inbox"))["matured"] == 0
    assert await world.say({"decision_id": decision_id, "reward": 1}) == ["recorded"]
    assert (await world.arm("inbox"))["matured"] == 1
