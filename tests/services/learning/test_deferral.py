"""A damaged segment ends no learning: what is said of its decisions waits, and counts once it is restored."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

import pytest

from cluster.events import Cancellation, Feedback
from services.learning import deferral
from services.learning.learner import Learner
from services.learning.verification import verify
from tests.services.learning.test_fold import decision, reward
from tests.services.learning.test_learner import committed, learner
from tests.services.learning.test_sealing import COLD, HOT_S, archive, folding, log, sealer
from tests.services.world import World, end, eventually


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
async def sealed(world: World) -> World:
    """Decisions a0 … a3 in one segment, b0 … b3 in another; none has a reward yet."""
    for name in ("a", "b"):
        for i in range(4):
            made = decision(
                f"{name}{i}", time=time.time(), episode=f"e{i}" if i < 2 else None, adapters={"inbox": "v1"}
            )
            await world.store.decide(made)
        await world.fold()
        await sealer(world, segment=4).step(COLD + HOT_S)
    return world


@contextlib.contextmanager
def damaged(world: World) -> Iterator[None]:
    """The segment of a0 … a3 cannot be read until the block ends."""
    segments = [
        segment for segment in archive(world).segments() if b'"a3"' in str(archive(world).read(segment)).encode()
    ]
    path = segments[0].path
    content = path.read_bytes()
    path.write_bytes(b"PAR1 no segment")
    yield
    path.write_bytes(content)


async def say(world: World, target: str, value: float, **more: str) -> None:
    assert await world.store.feedback(
        [Feedback(time=time.time(), decision_id=target, source="s", reward=value, **more)]
    )


async def step(world: World) -> None:
    while await world.learner.step():
        pass


async def test_learning_goes_on_and_nothing_is_lost(sealed: World) -> None:
    with damaged(sealed):
        for target, value in (("a3", 0.25), ("b3", 1.0), ("b2", 0.5)):
            await say(sealed, target, value)
        await step(sealed)
        inbox = (await committed(sealed))["inbox"]
        assert (inbox.matured, inbox.reward_sum, inbox.pending) == (2, 1.5, 6)
        await sealed.store.heartbeat(time.time())
        alarm = (await sealed.get("/readyz"))["alarms"]["deferred"]
        assert "1 events on sealed decisions wait" in alarm
        assert ".parquet is not readable" in alarm
        assert "pointsman_deferred_events 1.0" in (await sealed.http.get("/metrics")).text
        assert (await sealed.get("/v1/bandit"))["behind_events"] == 0
        assert not await sealed.learner._deferral.release((await sealed.store.learner_state()).position)
    assert (await verify(sealed.store, folding(sealed), whole=True)).ok  # the log is without it, as what is in use
    assert await sealed.learner._deferral.release((await sealed.store.learner_state()).position)
    await step(sealed)
    inbox = (await committed(sealed))["inbox"]
    assert (inbox.matured, inbox.reward_sum, inbox.pending) == (3, 1.75, 5)
    assert (await sealed.store.deferred_count(), await sealed.store.alarms()) == (0, {})
    assert (await verify(sealed.store, folding(sealed), whole=True)).ok
    assert [event.type for event in await log(sealed)].count("feedback") == 3
    state = await sealed.store.learner_state()
    assert (await sealed.store.behind(state.position, state.folded)).events == 0


async def test_the_last_word_comes_last(sealed: World) -> None:
    """What is said after the segment was restored waits for what was said before; so do words on the same episode."""
    with damaged(sealed):
        await say(sealed, "a3", 0.25)
        await sealed.store.feedback([reward("e0", 0.5, "?", time=time.time())])  # of a0 and b0
        await step(sealed)
        assert await sealed.store.deferred_count() == 2
    for target in ("a3", "b0"):
        await say(sealed, target, 1.0)
    await step(sealed)
    assert await sealed.store.deferred_count() == 4
    assert await sealed.learner._deferral.release((await sealed.store.learner_state()).position)
    await step(sealed)
    rows = await sealed.store.ledger(["a3", "b0"])
    assert [row.rewards if row else None for _, row in rows.values()] == [
        {"anonymous/s": 1.0}, {"anonymous/judge": 0.5, "anonymous/s": 1.0},
    ]  # fmt: skip
    assert (await verify(sealed.store, folding(sealed), whole=True)).ok


async def test_nothing_comes_back_while_something_is_not_folded_yet(sealed: World) -> None:
    with damaged(sealed):
        await say(sealed, "a3", 0.25)
        await step(sealed)
    await say(sealed, "a3", 1.0)
    position = (await sealed.store.learner_state()).position
    assert not await sealed.learner._deferral.release(position)
    await step(sealed)
    assert await sealed.learner._deferral.release((await sealed.store.learner_state()).position)


async def test_a_learner_that_comes_later_knows_what_waits(sealed: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.learning.learner._LOOK_AGAIN_S", 0.01)
    with damaged(sealed):
        await say(sealed, "a3", 0.25)
        await sealed.store.cancel(Cancellation(time=time.time(), decision_id="a2", reason="left"))
        first = learner(sealed)
        await first.start(sealed.registry)
        await first.step()
        running = asyncio.create_task(learner(sealed).run(sealed.registry))

        async def alarmed() -> bool:
            return "2 events" in (await sealed.store.alarms()).get(deferral.ALARM, "")

        await eventually(alarmed)

    async def learned() -> bool:
        inbox = (await committed(sealed))["inbox"]
        return (inbox.matured, inbox.pending) == (1, 6)

    await eventually(learned)
    await end(running)
    assert await sealed.store.alarms() == {}
    assert (await verify(sealed.store, folding(sealed), whole=True)).ok


async def test_a_missing_segment_is_noticed_too(sealed: World) -> None:
    path = archive(sealed).segments()[-1].path
    content = path.read_bytes()
    path.unlink()
    await say(sealed, "b3", 1.0)
    again = Learner(sealed.store, sealed.contexts, sealed.learner._folding.config)
    await again.start(sealed.registry)
    await again.step()
    assert await sealed.store.deferred_count() == 1
    path.write_bytes(content)
    assert await again._deferral.release((await sealed.store.learner_state()).position)


async def test_what_cannot_be_read_is_said_so(sealed: World) -> None:
    with damaged(sealed):
        response = await sealed.http.get("/v1/decisions/a3")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "archive_damaged")
        assert ".parquet is not readable" in response.json()["error"]["message"]
        assert (await sealed.get("/v1/decisions/b3"))["decision"]["id"] == "b3"
