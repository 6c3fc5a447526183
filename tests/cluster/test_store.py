"""The store against a real server: what is read again, what expires, and what is never done twice."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from redis.asyncio import Redis

from cluster.connection import START, stream_order
from cluster.events import ArmRegistered, ArmRemoved, Cancellation, Decision
from cluster.store import Store
from tests.cluster.conftest import RETENTION_S, MakeDecision
from tests.cluster.said import NOW, ROUTER, ROW, commit, completion, episode_reward, give, reward
from tests.cutting_proxy import CuttingProxy


class TestEvents:
    async def test_reading_goes_on_after_the_last_one_read(self, store: Store, make_decision: MakeDecision) -> None:
        ids = [(await store.decide(make_decision(f"d{i}"))).stream_id for i in range(3)]
        first = await store.events(START, 2)
        assert [stream_id for stream_id, _ in first] == ids[:2]
        assert [stream_id for stream_id, _ in await store.events(ids[1], 2)] == ids[2:]
        assert [stream_id for stream_id, _ in await store.event_range(ids[1], ids[2])] == ids[1:]
        assert ids == sorted(ids, key=stream_order)

    async def test_a_waiting_reader_wakes_for_an_event(self, store: Store, make_decision: MakeDecision) -> None:
        waiting = asyncio.create_task(store.events(START, 10, block_ms=2000))
        await asyncio.sleep(0.05)
        await store.decide(make_decision("d1"))
        assert len(await asyncio.wait_for(waiting, 60)) == 1

    @pytest.mark.parametrize("block_ms", [None, 0, 20])
    async def test_reading_nothing_ends(self, store: Store, block_ms: int | None) -> None:
        assert await asyncio.wait_for(store.events(START, 10, block_ms), 60) == []

    def test_stream_ids_are_ordered_as_numbers(self) -> None:
        assert sorted(["10-0", "9-10", "9-9"], key=stream_order) == ["9-9", "9-10", "10-0"]


async def test_an_arm_is_posted_when_it_changes(store: Store) -> None:
    base, old, new = (ArmRegistered(time=NOW, arm="a", adapter_hash=hash_) for hash_ in (None, "", "c0ffee"))
    removed = ArmRemoved(time=NOW, arm="a")
    calls = [await store.change_arm(one) for one in (base, base, old, new, new)]
    calls += [await store.change_arm(removed), await store.change_arm(removed), await store.change_arm(new)]
    assert calls == [True, False, True, True, False, True, False, True]
    assert [event for _, event in await store.event_range()] == [base, old, new, removed, new]


class TestTrim:
    async def test_all_that_grows_with_requests_expires(
        self, store: Store, redis_url: str, prefix: str, make_decision: MakeDecision
    ) -> None:
        await store.decide(make_decision("d1", episode="e"), "request")
        await give(store, reward("d1", 1.0), episode_reward("e", 1.0))
        await store.commit(
            await store.acquire_epoch(), 0, START, NOW, {}, [], {"d1": ROW, "expired": ROW}, router=ROUTER
        )
        async with Redis.from_url(redis_url) as redis:
            keys = [key.decode().removeprefix(prefix) async for key in redis.scan_iter(f"{prefix}*")]
            lasting = {key for key in keys if await redis.ttl(prefix + key) == -1}
            of_decision = [await redis.ttl(f"{prefix}{key}") for key in keys if key.endswith((":d1", ":e"))]
        assert lasting == {"events", "learner", "versions"}
        assert len(of_decision) == 4
        assert min(of_decision) > RETENTION_S


class TestLostAnswers:
    """The server ran the script, the connection broke before the answer, the client sent it again."""

    async def test_every_write_happens_once(
        self, cut_store: Store, cut: CuttingProxy, make_decision: MakeDecision
    ) -> None:
        async def write(name: str, armed: bool) -> Sequence[str]:
            before = len(await cut_store.event_range())
            for call in writes(cut_store, make_decision(name, episode=name)):
                cut.armed = armed
                await call()
            return [event.type for _, event in await cut_store.event_range()][before:]

        expected = await write("a", armed=False)
        assert await write("b", armed=True) == expected
        assert cut.cuts == 7
        assert await cut_store.episode("b") == ["b"]
        assert [snapshot.version for snapshot in await cut_store.versions(START)] == [1, 2]


def writes(store: Store, decision: Decision) -> list[Callable[[], Awaitable[object]]]:
    """One call of every script, each of them with something to write."""
    id_ = decision.id
    items = [reward(id_, 0.1), reward(id_, 0.1), reward(id_, 0.2)]

    async def feedback() -> None:
        assert await store.feedback(items) == ["late", "duplicate", "late"]  # it has timed out

    async def version() -> None:
        state = await store.learner_state()
        await commit(store, state.epoch, state.version, f"{state.version + 1}-0")

    return [
        lambda: store.decide(decision, id_),
        lambda: store.complete(completion(id_)),
        lambda: store.post_timeouts(NOW * 2),
        feedback,
        lambda: store.cancel(Cancellation(time=NOW, decision_id=id_, reason="?")),
        lambda: store.change_arm(ArmRegistered(time=NOW, arm=id_)),
        version,
    ]
