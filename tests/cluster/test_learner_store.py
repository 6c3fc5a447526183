"""What the Learner commits, once and by one Learner, and how readers learn of it."""

import asyncio

import pytest

from cluster.connection import START
from cluster.learner_store import Fenced, LearnerState
from cluster.store import Store
from tests.cluster.conftest import MakeDecision
from tests.cluster.said import NOW, ROUTER, ROW, commit


class TestLearner:
    async def test_nothing_is_committed_at_first(self, store: Store) -> None:
        assert await store.learner_state() == LearnerState(0, 0, START, 0.0, "", 0.0)
        assert await store.arms() == {}
        assert await store.latest_version_id() == START

    async def test_a_reader_knows_how_far_behind_it_is(self, store: Store, make_decision: MakeDecision) -> None:
        assert await store.behind(START, 0) == (0, 0.0)
        ids = [(await store.decide(make_decision(f"d{i}"))).stream_id for i in range(3)]
        await asyncio.sleep(0.02)
        assert (await store.behind(ids[2], 3)) == (0, 0.0)
        behind = await store.behind(ids[0], 1)
        assert behind.events == 2
        assert behind.age_s >= 0.01
        await store.drop_sealed(ids[0])
        assert (await store.behind(ids[0], 1)).events == 2

    async def test_a_sign_of_life_changes_nothing_else(self, store: Store) -> None:
        before = await store.learner_state()
        await store.heartbeat(NOW)
        assert await store.learner_state() == before._replace(alive=NOW)

    async def test_a_commit_is_read_back(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        await store.decide(make_decision("d2"))
        epoch = await store.acquire_epoch()
        blobs = {"calendar": bytes(range(256)), "inbox": b""}
        assert await store.commit(epoch, 0, "7-1", NOW, blobs, [], {"d1": ROW, "nobody": ROW}, router=ROUTER) == 1
        assert await store.learner_state() == LearnerState(epoch, 1, "7-1", NOW, ROUTER, 0.0)
        assert await store.arms() == {name: (1, blob) for name, blob in blobs.items()}
        assert await store.arm_blobs(["inbox", "nobody"]) == {"inbox": b""}
        assert await store.ledger(["d1", "d2", "nobody"]) == {
            "d1": (make_decision("d1"), ROW),
            "d2": (make_decision("d2"), None),
        }

    async def test_versions_tell_what_changed(self, store: Store) -> None:
        epoch = await store.acquire_epoch()
        await store.commit(epoch, 0, "1-0", NOW, {"a": b"1", "b": b"1"}, [], {}, router=ROUTER)
        seen = await store.latest_version_id()
        await store.commit(epoch, 1, "2-0", NOW, {"b": b"2"}, ["a"], {}, router=ROUTER)
        (snapshot,) = await store.versions(seen)
        assert snapshot[1:] == (2, ["b"], ["a"], "2-0")
        assert await store.latest_version_id() == snapshot.stream_id
        assert await store.arms() == {"b": (2, b"2")}
        assert await store.versions(snapshot.stream_id) == []

    async def test_an_earlier_epoch_is_fenced_off(self, store: Store) -> None:
        old, new = await store.acquire_epoch(), await store.acquire_epoch()
        assert new > old
        with pytest.raises(Fenced, match=f"epoch {old} on version 0 refused: expected epoch {new}, version 0"):
            await commit(store, old, 0)
        assert await store.arms() == {}
        assert await commit(store, new, 0) == 1

    async def test_a_version_that_moved_is_refused(self, store: Store) -> None:
        epoch = await store.acquire_epoch()
        await commit(store, epoch, 0, "1-0")
        for version in (0, 2):
            with pytest.raises(Fenced, match="expected epoch 1, version 1"):
                await commit(store, epoch, version, "2-0", removed=["calendar"])
        assert list(await store.arms()) == ["calendar"]

    async def test_the_same_commit_again_changes_nothing(self, store: Store) -> None:
        epoch = await store.acquire_epoch()
        assert [await commit(store, epoch, 0, "1-0") for _ in range(2)] == [1, 1]
        assert [snapshot.version for snapshot in await store.versions(START)] == [1]

    async def test_a_fenced_learner_cannot_send_its_commit_again(self, store: Store) -> None:
        old = await store.acquire_epoch()
        await commit(store, old, 0, "1-0")
        await store.acquire_epoch()
        with pytest.raises(Fenced):
            await commit(store, old, 0, "1-0")
