"""An answer begins while its decision is written, and nothing of it is told before that is done."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from services.engine.base import Delta
from services.routing.generation import Generation
from tests.services.world import World, chat, eventually

CHAT = "/v1/chat/completions"


async def test_nothing_is_told_before_the_decision_is_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has long answered when the store has."""
    write, may_write = world.router.store.decide, asyncio.Event()

    async def slow(*args: Any, **named: Any) -> Any:
        await may_write.wait()
        return await write(*args, **named)

    monkeypatch.setattr(world.router.store, "decide", slow)
    asking = asyncio.create_task(world.post(CHAT, chat("open the inbox", stream=True)))

    async def begun() -> bool:
        return bool(world.engine.generated)

    await eventually(begun)
    await asyncio.sleep(0.05)
    assert not asking.done()
    assert await world.kinds() == []
    may_write.set()
    assert "left_" in (await asking).text
    assert await world.kinds() == ["decision", "completion"]


async def test_what_was_begun_for_a_decision_that_there_is_already_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts of a request at once: both are answered under the decision that was written first."""

    async def unseen(_: str) -> None:
        return None

    monkeypatch.setattr(world.router.store, "decision_of_request", unseen)
    first = (await world.post(CHAT, chat("open the inbox"), x_client_request_id="r")).json()
    second = (await world.post(CHAT, chat("open the calendar"), x_client_request_id="r")).json()
    assert second["id"] == first["id"]
    assert [gates for _, gates, _ in world.engine.generated] == [{"inbox": 1.0}, {"calendar": 1.0}, {"inbox": 1.0}]
    assert world.engine.given_up == 1


class Stream:
    """Counts how often its end was reached, by exhaustion or otherwise."""

    def __init__(self, *pieces: str, fails: bool = False) -> None:
        self.pieces = pieces
        self.fails = fails
        self.ended = 0
        self.asked = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        try:
            self.asked.set()
            await self.goes_on.wait()
            if self.fails:
                raise RuntimeError("broken")
            for piece in self.pieces:
                yield Delta(piece)
        finally:
            self.ended += 1


async def test_the_first_piece_is_asked_for_before_it_is_read() -> None:
    stream = Stream("a", "b")
    generation = Generation(stream.deltas())
    await stream.asked.wait()
    assert generation.first_ms is None
    stream.goes_on.set()
    assert [delta.text async for delta in generation] == ["a", "b"]
    assert generation.first_ms is not None
    assert 0 <= generation.first_ms <= generation.ms
    assert stream.ended == 1


async def test_a_stream_without_pieces_is_empty() -> None:
    stream = Stream()
    stream.goes_on.set()
    assert [delta async for delta in Generation(stream.deltas())] == []


async def test_its_failure_is_the_readers() -> None:
    stream = Stream(fails=True)
    stream.goes_on.set()
    generation = Generation(stream.deltas())
    with pytest.raises(RuntimeError, match="broken"):
        async for _ in generation:
            pass
    await generation.aclose()


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_given_up_unread_the_stream_ends(*, goes_on: bool, fails: bool) -> None:
    stream = Stream("a", "b", fails=fails)
    generation = Generation(stream.deltas())
    await stream.asked.wait()
    if goes_on:
        stream.goes_on.set()
        await asyncio.sleep(0.01)
    await generation.aclose()
    assert stream.ended == 1
