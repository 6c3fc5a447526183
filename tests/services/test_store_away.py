"""The store goes away: a clear 503, nothing half done, and everything works again when it is back."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from cluster.redis_server import RedisServer
from tests.services.conftest import MakeWorld
from tests.services.world import World, chat, eventually

CALLS: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", chat()),
    ("POST", "/v1/chat/completions", chat(stream=True)),
    ("POST", "/v1/feedback", {"decision_id": "d", "reward": 1}),
    ("GET", "/v1/bandit", None),
    ("GET", "/v1/decisions", None),
    ("GET", "/v1/decisions/d", None),
    ("GET", "/readyz", None),
]


async def test_requests_fail_clearly_and_work_again(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path).start()
    try:
        world: World = await make_world(store={"url": server.url})
        before = await world.ask("open the inbox")
        await world.say({"decision_id": before["id"], "reward": 1})
        await world.fold()
        with caplog.at_level(logging.CRITICAL):
            server.stop()
            responses = await asyncio.gather(*(world.http.request(m, path, json=body) for m, path, body in CALLS))
            for response in responses:
                error = response.json()["error"]
                assert (response.status_code, error["type"], error["code"]) == (503, "server_error", "store_away")
                assert int(response.headers["retry-after"]) >= 1
            assert await world.get("/healthz") == {"status": "ok"}
            explained = await world.post("/v1/route", chat("open the inbox"))
            assert explained.json()["arm"] == "inbox"  # deciding needs no store
            assert world.engine.generated[1:] == []
            server.start()

            async def back() -> bool:
                return (await world.http.get("/v1/decisions")).status_code == 200

            await eventually(back)
        await world.ask("open the inbox")
        assert await world.kinds() == ["decision", "completion", "feedback", "decision", "completion"]
        arm = await world.arm("inbox")
        assert (arm["pulls"], arm["pending"], arm["matured"]) == (2, 1, 1)
    finally:
        server.stop()
