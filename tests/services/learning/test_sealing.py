"""What is no longer hot leaves Redis, nothing is lost on the way, and learning never notices."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.archive import Archive, Damaged
from cluster.events import Event
from cluster.settings import Settings
from policies.context import ContextMap
from policies.prior import LearningConfig
from services.configuration import feedback_rules, learning_config, make_store
from services.learning.folding import Folding
from services.learning.learner import Learner
from services.learning.sealing import Sealer, SealingConfig
from services.learning.verification import verify
from tests.services.conftest import MakeWorld
from tests.services.learning.test_fold import decision, reward
from tests.services.learning.test_learner import committed
from tests.services.world import World, chat, end, eventually

HOT_S = 86_400.0
COLD = time.time() + 1.5 * HOT_S  # all that happens in a test is cold then, and not overdue


def folding(world: World, contexts: ContextMap | None = None, settings: Settings | None = None) -> Folding:
    chosen = settings or world.settings
    return Folding(contexts or world.contexts, learning_config(chosen), feedback_rules(chosen))


def sealer(world: World, *, segment: int = 5, keep_s: float = 0.0, contexts: ContextMap | None = None) -> Sealer:
    assert world.store.archive is not None
    config = SealingConfig(hot_s=HOT_S, segment=segment, keep_s=keep_s)
    return Sealer(world.store, world.store.archive, folding(world, contexts), config)


async def traffic(world: World, first: int, n: int) -> None:
    """Decisions for one arm, all but the last rewarded, folded."""
    now, print_ = time.time(), world.registry["inbox"].fingerprint
    for i in range(first, first + n):
        await world.store.decide(decision(f"d{i}", time=now, adapters={"inbox": print_}))
    await world.store.feedback([reward(f"d{i}", (i % 3) / 2, time=now) for i in range(first, first + n - 1)])
    await world.fold()


async def log(world: World) -> list[Event]:
    return [event async for batch in world.store.history() for _, event in batch]


async def hot(world: World) -> int:
    return len(await world.store.event_range())


def archive(world: World) -> Archive:
    assert world.store.archive is not None
    return world.store.archive


async def test_full_segments_of_cold_folded_events_leave_redis(world: World) -> None:
    await traffic(world, 0, 8)
    events = await log(world)
    assert await sealer(world).step(time.time()) == 0  # nothing is cold
    assert await sealer(world).step(COLD) == len(events) // 5
    assert await hot(world) == len(events) % 5
    assert await log(world) == events
    assert [segment.events for segment in archive(world).segments()] == [5] * (len(events) // 5)
    assert await sealer(world).step(COLD + HOT_S) == 1  # the rest has waited long enough
    assert (await hot(world), await log(world)) == (0, events)


async def test_what_is_not_folded_stays(world: World) -> None:
    await traffic(world, 0, 4)
    folded = await hot(world)
    for i in range(10, 20):
        await world.store.decide(decision(f"d{i}", time=time.time()))
    await sealer(world, segment=1).step(COLD)
    assert archive(world).last == (await world.store.learner_state()).position
    assert (await hot(world), len(await log(world))) == (10, folded + 10)


@pytest.mark.parametrize("until", [None, 7])
async def test_a_part_of_the_log_is_read_across_the_seam(world: World, until: int | None) -> None:
    await traffic(world, 0, 8)
    entries = await world.store.event_range()
    await sealer(world).step(COLD)
    end_ = entries[until][0] if until else None
    found = [one async for batch in world.store.history(entries[2][0], end_, count=2) for one in batch]
    assert found == entries[3 : until + 1 if until else None]


async def test_sealed_decisions_are_still_shown_corrected_and_settled(world: World) -> None:
    """For as long as the ledger keeps them."""
    await traffic(world, 0, 8)
    before = await world.arm("inbox")
    await sealer(world, segment=1).step(COLD)
    assert await hot(world) == 0
    assert (await world.get("/v1/decisions/d1"))["ledger"]["rewards"] == {"anonymous/judge": 0.5}
    await world.store.feedback([reward("d1", 1.0, time=time.time()), reward("d7", 1.0, time=time.time())])
    after = await world.arm("inbox")
    assert (after["matured"], after["pending"]) == (before["matured"] + 1, 0)
    assert after["reward_mean"] * 8 == pytest.approx(before["reward_mean"] * 7 + 1.5)
    assert (await verify(world.store, folding(world))).ok


async def test_the_checkpoint_follows_and_the_rest_is_folded_from_it(world: World) -> None:
    await traffic(world, 0, 8)
    await sealer(world).step(COLD)
    await traffic(world, 10, 6)
    await world.store.feedback([reward("d7", 0.0, time=time.time()), reward("d2", 0.25, time=time.time())])
    await world.fold()
    part = await verify(world.store, folding(world))
    assert (part.start, part.ok) == (archive(world).last, True)
    whole = await verify(world.store, folding(world), whole=True)
    assert (whole.start, whole.ok) == ("0-0", True)
    assert [arm.arm for arm in whole.arms] == ["base", "calendar", "claims", "inbox"]


@pytest.mark.parametrize("at", ["seal", "drop", "checkpoint"])
async def test_killed_anywhere_the_next_one_goes_on(world: World, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies leaves what it had done; whoever comes next loses nothing and doubles nothing."""
    await traffic(world, 0, 8)
    events = await log(world)

    class Killed(BaseException):
        pass

    async def die(*_: Any, **__: Any) -> None:
        raise Killed

    first = sealer(world)
    if at == "seal":
        archive(world).directory.mkdir(parents=True)
        (archive(world).directory / "0.part").write_bytes(b"half a segm")
    elif at == "drop":
        monkeypatch.setattr(world.store, "drop_sealed", die)
        raw = await world.store.raw_events("0-0", 5)
        archive(world).seal("0-0", raw)  # linked, and still in Redis
        with pytest.raises(Killed):
            await first.step(COLD)
    else:
        monkeypatch.setattr(Sealer, "_follow", die)
        with pytest.raises(Killed):
            await first.step(COLD)
    monkeypatch.undo()
    assert await log(world) == events
    second = sealer(world)
    await second.step(COLD + HOT_S)
    assert (await hot(world), await log(world)) == (0, events)
    assert (await verify(world.store, folding(world), whole=True)).ok
    assert (await world.store.behind("0-0", 0)).events == 0


async def test_each_seal_reads_what_is_new_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = Archive.read

    def counted(self: Archive, segment: Any) -> Any:
        read.append(segment.after)
        return original(self, segment)

    monkeypatch.setattr(Archive, "read", counted)
    for round_ in range(4):
        await traffic(world, 10 * round_, 6)
        await sealer(world, segment=1).step(COLD)
    segments = archive(world).segments()
    assert len(segments) > 20
    assert sorted(read) == sorted(segment.after for segment in segments)


async def test_a_directory_that_fails_alarms_and_learning_goes_on(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the directory should be")
    world: World = await make_world(store={"archive": blocked / "archive"})
    config = SealingConfig(hot_s=1e-3, segment=2, every_s=0.01)
    learner = Learner(world.store, world.contexts, learning_config(world.settings), pace_ms=0, sealing=config)
    with caplog.at_level(logging.CRITICAL):
        running = asyncio.create_task(learner.run(world.registry))

        async def alarmed() -> bool:
            ready = (await world.http.get("/readyz")).json()
            return "blocked" in ready.get("alarms", {}).get("sealing", "")

        async def folded() -> bool:
            return (await committed(world)).keys() >= {"inbox"} and (await committed(world))["inbox"].pulls == 6

        await eventually(alarmed)
        assert "pointsman_sealing_failed 1.0" in (await world.http.get("/metrics")).text
        before = len(await log(world))
        for i in range(6):
            await world.store.decide(decision(f"d{i}", time=time.time()))
        await eventually(folded)
        assert await hot(world) == before + 6
        blocked.unlink()

        async def well() -> bool:
            ready = (await world.http.get("/readyz")).json()
            return ready.get("alarms") == {} and await hot(world) == 0

        await eventually(well)
        assert "pointsman_sealing_failed 0.0" in (await world.http.get("/metrics")).text
        await end(running)
    assert len(await log(world)) == before + 6


async def test_a_leftover_that_cannot_be_swept_away_is_an_alarm_too(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    (archive(world).directory / "somebodys.part").mkdir(parents=True)
    with caplog.at_level(logging.CRITICAL):
        running = asyncio.create_task(sealer(world).run())

        async def alarmed() -> bool:
            return "somebodys.part" in (await world.store.alarms()).get("sealing", "")

        await eventually(alarmed)
        await end(running)


async def test_a_damaged_archive_does_not_stop_a_learner_that_needs_nothing_of_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await traffic(world, 0, 8)
    await sealer(world).step(COLD)
    archive(world).segments()[0].path.write_bytes(b"no segment")
    damaged = Archive(archive(world).directory)
    other = make_store(world.settings)
    other.archive = damaged
    async with other:
        with caplog.at_level(logging.CRITICAL):
            again = Learner(other, world.contexts, learning_config(world.settings))
            await again.start(world.registry)
            await world.store.decide(decision("next", time=time.time()))
            await again.step()
            assert (await committed(world))["inbox"].pulls == 9
            changed = Learner(other, world.contexts, LearningConfig(discount=0.5))
            with pytest.raises(Damaged, match="is not readable"):
                await changed.start(world.registry)


async def test_another_directory_is_not_taken_for_the_archive(world: World, tmp_path: Path) -> None:
    await traffic(world, 0, 8)
    await sealer(world).step(COLD)
    moved = Sealer(world.store, Archive(tmp_path / "elsewhere"), folding(world), SealingConfig(HOT_S, 1))
    remaining = await hot(world)
    assert await moved.step(COLD) == 0
    assert "is it the right directory" in (await world.store.alarms())["sealing"]
    assert await hot(world) == remaining


async def test_sealed_events_are_kept_as_long_as_the_setting_says(world: World) -> None:
    await traffic(world, 0, 8)
    assert await sealer(world, segment=1, keep_s=HOT_S).step(COLD) > 0
    assert await hot(world) == 0
    assert [event.type for event in await log(world)] == ["erased"]  # what is left of the last one
    assert (await world.store.ledger(["d1"]), await world.store.decision("d1")) == ({}, None)


async def test_after_a_silence_longer_than_events_are_kept_sealing_goes_on(world: World) -> None:
    await traffic(world, 0, 8)
    await sealer(world, segment=1, keep_s=HOT_S).step(COLD)
    await traffic(world, 10, 4)
    assert await sealer(world, segment=1, keep_s=2 * HOT_S).step(COLD) > 0
    assert await world.store.alarms() == {}
    assert [event.id for event in await log(world) if event.type == "decision"] == ["d10", "d11", "d12", "d13"]


async def test_of_many_sealers_at_once_each_leaves_the_others_alone(world: World) -> None:
    """Whatever their settings, every event is sealed once, and the checkpoint is what the segments come to."""
    made = []
    for segment in (1, 2, 3, 5):
        other = Sealer(world.store, Archive(archive(world).directory), folding(world), SealingConfig(HOT_S, segment))
        made.append(other)
    for round_ in range(4):
        await traffic(world, 10 * round_, 6)
        events = await log(world)
        await asyncio.gather(*(one.step(COLD) for one in made * 3))
        assert await world.store.alarms() == {}
        assert await log(world) == events
        assert (await verify(world.store, folding(world))).ok
    assert len(archive(world).segments()) > 4
    assert (await verify(world.store, folding(world), whole=True)).ok


async def test_the_sealer_of_a_learner_that_was_replaced_does_nothing(world: World) -> None:
    await traffic(world, 0, 8)
    older = Learner(world.store, world.contexts, learning_config(world.settings))
    await older.start(world.registry)
    left = Sealer(world.store, archive(world), folding(world), SealingConfig(HOT_S, 1), older._leads)
    await Learner(world.store, world.contexts, learning_config(world.settings)).start(world.registry)
    before = await hot(world)
    assert (await left.step(COLD), await hot(world)) == (0, before)
    with archive(world).lock() as alone:
        assert alone
        assert await sealer(world).step(COLD) == 0
    assert await sealer(world).step(COLD) > 0


async def test_a_learner_that_folds_again_waits_for_the_sealer(
    world: World, other_contexts: ContextMap, caplog: pytest.LogCaptureFixture
) -> None:
    await traffic(world, 0, 8)
    await sealer(world).step(COLD)
    again = Learner(world.store, other_contexts, learning_config(world.settings))
    with caplog.at_level(logging.CRITICAL), archive(world).lock():
        starting = asyncio.create_task(again.start(world.registry))

        async def begun() -> bool:
            return (await world.store.learner_state()).epoch == 2

        await eventually(begun)
        await asyncio.wait([starting], timeout=0.5)
        assert not starting.done()
    await starting
    assert (await world.store.learner_state()).router == other_contexts.fingerprint


@pytest.mark.parametrize("change", ["router", "discount", "nothing committed"])
async def test_after_a_change_everything_is_folded_again(
    world: World, change: str, other_contexts: ContextMap, caplog: pytest.LogCaptureFixture
) -> None:
    """From the sealed events and the hot ones, with every correction in its place."""
    await traffic(world, 0, 8)
    await sealer(world).step(COLD)
    await traffic(world, 10, 6)
    await world.store.feedback([reward("d7", 0.0, time=time.time()), reward("d2", 0.25, time=time.time())])
    await world.fold()
    config = learning_config(world.settings)
    contexts = other_contexts if change == "router" else world.contexts
    if change == "discount":
        config = learning_config(world.settings.model_copy(update={"learner": shorter(world)}))
    if change == "nothing committed":
        await world.store._redis.delete(world.store._key("learner"), world.store._key("arms"))
    other = Folding(contexts, config, feedback_rules(world.settings))
    with caplog.at_level(logging.CRITICAL):
        for _ in range(3):  # interrupted and begun again
            again = Learner(world.store, contexts, config, batch=3)
            await again.start(world.registry)
            await again.step()
        while await again.step():
            pass
    found = await verify(world.store, other, whole=True)
    assert found.ok, found
    assert (await committed(world))["inbox"].matured == 13
    assert (await world.store.learner_state()).rebuilding == ""
    await world.store.feedback([reward("d3", 1.0, time=time.time())])
    await again.step()
    assert (await verify(world.store, other)).ok


def shorter(world: World) -> Any:
    return world.settings.learner.model_copy(update={"discount": 0.9})


async def test_a_router_keeps_its_beliefs_until_all_is_folded_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await traffic(world, 0, 8)
    await sealer(world).step(COLD)
    known = (await world.arm("inbox"))["pulls"]
    config = learning_config(world.settings.model_copy(update={"learner": shorter(world)}))
    with caplog.at_level(logging.CRITICAL):
        again = Learner(world.store, world.contexts, config, batch=1)
        await again.start(world.registry)
        seen = set()
        while await again.step():
            await world.router.decider.snapshots.refresh()
            seen.add((await world.get("/v1/bandit/arms/inbox"))["pulls"])
    assert seen == {known}


async def test_a_store_of_its_own_reads_the_same_log(world: World) -> None:
    await traffic(world, 0, 8)
    events = await log(world)
    await sealer(world).step(COLD)
    async with make_store(world.settings) as other:
        assert [event async for batch in other.history() for _, event in batch] == events


async def test_a_retry_finds_the_decision_that_was_sealed_meanwhile(world: World) -> None:
    headers = {"x_client_request_id": "r1"}
    first = (await world.post("/v1/chat/completions", chat(), **headers)).json()["id"]
    await world.fold()
    await sealer(world, segment=1).step(COLD)
    assert await hot(world) == 0
    assert (await world.post("/v1/chat/completions", chat(), **headers)).json()["id"] == first
    kept = await world.store.decide(decision("d2"), "anonymous:id:r1")
    assert (kept.fresh, kept.decision.id) == (False, first)
    await sealer(world, segment=1, keep_s=HOT_S).step(COLD)  # now it is gone for good
    assert (await world.store.decide(decision("d3"), "anonymous:id:r1")).fresh
    again = await world.store.decide(decision("d4"), "anonymous:id:r1")
    assert (again.fresh, again.decision.id) == (False, "d3")
