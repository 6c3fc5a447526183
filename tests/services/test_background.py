"""What runs beside the requests: loops end when they are told to and say what ended them; work outlives its request."""

import asyncio
import logging

import pytest

from services.background import Background, Loops


async def forever() -> None:
    await asyncio.Event().wait()


async def stubborn() -> None:
    """As the Redis client can on Python 3.11: it swallows its first cancellation."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        await asyncio.sleep(60)


async def failing() -> None:
    raise ValueError("it failed")


async def test_what_ended_a_loop_is_raised_by_the_check() -> None:
    loops = Loops()
    loops.start(forever())
    await asyncio.sleep(0)
    loops.check()
    loops.start(failing())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="it failed"):
        loops.check()
    await loops.stop()


async def test_loops_are_over_when_they_have_been_stopped_and_may_begin_anew() -> None:
    loops, before = Loops(), asyncio.all_tasks()
    loops.start(forever(), stubborn())
    await asyncio.sleep(0)
    await asyncio.wait_for(loops.stop(), 10)
    assert asyncio.all_tasks() == before
    loops.check()
    loops.start(forever())
    loops.check()
    await loops.stop()


async def test_work_goes_on_when_its_request_is_cancelled() -> None:
    background, done = Background(), list[str]()

    async def write() -> None:
        await asyncio.sleep(0.01)
        done.append("written")

    async def request() -> None:
        background.spawn(write())
        await asyncio.sleep(60)

    asked = asyncio.create_task(request())
    await asyncio.sleep(0)
    asked.cancel()
    await background.finish()
    assert done == ["written"]
    assert background.running == set()


async def test_work_that_fails_is_logged_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    with caplog.at_level(logging.WARNING):
        background.spawn(failing())
        await background.finish()
    assert [record.message for record in caplog.records] == ["what follows a request could not be written: it failed"]
