"""A request that is sent again is one pull of an arm, not two."""

import asyncio

import httpx2
import pytest
from openai import AsyncOpenAI, InternalServerError

from tests.services.auth_keys import bearer, keys
from tests.services.conftest import MakeWorld
from tests.services.world import World, chat, eventually

CHAT = "/v1/chat/completions"


async def decision(world: World, text: str = "open the inbox", **headers: str) -> str:
    response = await world.post(CHAT, chat(text), **headers)
    assert response.status_code == 200, response.text
    decision_id: str = response.json()["id"]
    return decision_id


async def pulls(world: World) -> int:
    await world.fold()
    return sum(arm["pulls"] for arm in (await world.get("/v1/bandit"))["arms"])


async def test_the_same_client_request_id_is_the_same_decision(world: World) -> None:
    first = await decision(world, x_client_request_id="r1")
    assert await decision(world, x_client_request_id="r1") == first
    assert await decision(world, "another body", x_client_request_id="r1") == first
    assert await decision(world, x_client_request_id="r2") != first
    assert await pulls(world) == 2
    assert 'pointsman_decisions_total{arm="inbox",explored="false"} 2.0' in (await world.http.get("/metrics")).text


async def test_the_same_client_request_id_at_once_is_the_same_decision(world: World) -> None:
    ids = await asyncio.gather(*(decision(world, x_client_request_id="r1") for _ in range(8)))
    assert len(set(ids)) == 1
    assert await pulls(world) == 1


async def test_an_sdks_first_attempt_is_a_new_decision_each_time(world: World) -> None:
    """An agent may well send the same screen twice on purpose."""
    ids = [await decision(world, x_stainless_retry_count="0") for _ in range(3)]
    assert len(set(ids)) == 3
    assert await pulls(world) == 3


async def test_an_sdks_retry_is_the_decision_of_the_last_first_attempt(world: World) -> None:
    await decision(world, x_stainless_retry_count="0")
    second = await decision(world, x_stainless_retry_count="0")
    assert await decision(world, x_stainless_retry_count="1") == second
    assert await decision(world, x_stainless_retry_count="2") == second
    assert await decision(world, "another body", x_stainless_retry_count="1") != second
    assert await pulls(world) == 3


async def test_a_retry_whose_first_attempt_never_came_decides(world: World) -> None:
    first = await decision(world, x_stainless_retry_count="1")
    assert await decision(world, x_stainless_retry_count="2") == first


async def test_requests_that_say_nothing_are_new(world: World) -> None:
    assert await decision(world) != await decision(world)


async def test_keys_do_not_share_request_ids(make_world: MakeWorld) -> None:
    world = await make_world(auth={"keys": keys("one", "two")})
    ids = [
        await decision(world, x_client_request_id="r1", authorization=bearer(name)) for name in ("one", "two", "one")
    ]
    assert ids[0] == ids[2] != ids[1]


async def test_the_retry_window_closes(make_world: MakeWorld) -> None:
    world = await make_world(router={"retry_window_s": 1})
    first = await decision(world, x_client_request_id="r1")

    async def forgotten() -> bool:
        return await decision(world, x_client_request_id="r1") != first

    await eventually(forgotten)


async def test_explaining_a_request_does_not_take_its_id(world: World) -> None:
    await world.post("/v1/route", chat("open the inbox"), x_client_request_id="r1")
    await decision(world, x_client_request_id="r1")
    assert await pulls(world) == 1


async def test_the_openai_client_retries_within_one_decision(world: World) -> None:
    world.engine.fails_after = 0
    transport = httpx2.ASGITransport(world.app, raise_app_exceptions=False)
    http = httpx2.AsyncClient(transport=transport)
    async with AsyncOpenAI(base_url="http://pointsman/v1", api_key="x", max_retries=2, http_client=http) as client:
        with pytest.raises(InternalServerError):
            await client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "open the inbox"}])
        assert len(world.engine.generated) == 3
        assert await world.kinds() == ["decision", "cancellation"]
