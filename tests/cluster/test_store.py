"""The store against a real server: what each call records, what it refuses, and what it never does twice."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from redis.asyncio import Redis

from cluster.connection import START, stream_order
from cluster.events import ArmRegistered, ArmRemoved, Cancellation, Completion, Decision, EpisodeStep, Feedback, Timeout
from cluster.learner_store import Fenced, LearnerState, LedgerRow
from cluster.request_store import EpisodeMoved, LastStep, Status
from cluster.store import Observation, Store
from tests.cluster.conftest import RETENTION_S, WINDOW_S, MakeDecision
from tests.cluster.cutting_proxy import CuttingProxy

NOW = 1_000.25  # the time of every decision unless said otherwise
ROUTER = "feedbeef"
ROW = LedgerRow(tick=4, arm="calendar", status="matured", weight=1.0, rewards={"judge": 0.1 + 0.2})


def reward(decision_id: str, value: float | None, *, at: float = NOW + 1, **more: object) -> Feedback:
    return Feedback.model_validate(
        {"time": at, "decision_id": decision_id, "source": "judge", "reward": value, "truncated": value is None} | more
    )


def episode_reward(episode_id: str, value: float, *, at: float = NOW + 1) -> Feedback:
    return Feedback(time=at, episode_id=episode_id, source="judge", reward=value)


def completion(decision_id: str) -> Completion:
    return Completion(
        time=NOW, decision_id=decision_id, latency_ms=1.5, prompt_tokens=2, completion_tokens=3, finish_reason="stop"
    )


async def give(store: Store, *items: Feedback) -> list[Status]:
    return await store.feedback(items)


async def feedback_events(store: Store) -> list[Feedback]:
    return [event for _, event in await store.event_range() if isinstance(event, Feedback)]


async def timeouts(store: Store) -> list[str]:
    return [event.decision_id for _, event in await store.event_range() if isinstance(event, Timeout)]


async def commit(store: Store, epoch: int, version: int, position: str = START, removed: Sequence[str] = ()) -> int:
    return await store.commit(epoch, version, position, NOW, {"calendar": b"\x00blob"}, removed, {}, router=ROUTER)


class TestDecisions:
    async def test_a_decision_is_in_the_stream_whole(self, store: Store, make_decision: MakeDecision) -> None:
        decision = make_decision("d1")
        decided = await store.decide(decision)
        assert decided.fresh
        assert await store.events(START, 10) == [(decided.stream_id, decision)]

    async def test_the_same_decision_sent_again_is_not_a_second_one(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        first = await store.decide(make_decision("d1", episode="e"), "request")
        assert await store.decide(make_decision("d1", episode="e"), "request") == first
        assert len(await store.event_range()) == 1
        assert await store.episode("e") == ["d1"]

    async def test_a_request_key_gets_its_first_decision(self, store: Store, make_decision: MakeDecision) -> None:
        assert await store.decision_of_request("request") is None
        first = await store.decide(make_decision("d1"), "request")
        second = await store.decide(make_decision("d2", arm="inbox"), "request")
        assert (second.decision, second.fresh, second.stream_id) == (make_decision("d1"), False, first.stream_id)
        assert await store.decision_of_request("request") == make_decision("d1")
        assert await store.decision("d2") is None

    async def test_a_request_key_may_be_given_to_a_new_decision(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        await store.decide(make_decision("d1"), "request")
        assert (await store.decide(make_decision("d2"), "request", replace=True)).fresh
        assert await store.decision_of_request("request") == make_decision("d2")

    async def test_of_concurrent_decisions_for_one_request_one_is_written(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        decided = await asyncio.gather(*(store.decide(make_decision(f"d{i}"), "request") for i in range(20)))
        assert sum(one.fresh for one in decided) == 1
        assert len({one.decision.id for one in decided}) == 1
        assert len(await store.event_range()) == 1

    async def test_a_burst_waits_for_connections_and_loses_nothing(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        await asyncio.gather(*(store.decide(make_decision(f"d{i}")) for i in range(400)))
        found = [one.decision.id for one in await store.decisions(1000)]
        assert sorted(found) == sorted(f"d{i}" for i in range(400))

    async def test_a_request_key_is_forgotten_after_its_time(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"), "request", request_ttl_s=1)
        await asyncio.sleep(1.1)
        assert (await store.decide(make_decision("d2"), "request")).fresh

    async def test_history_shows_what_became_of_a_decision(self, store: Store, make_decision: MakeDecision) -> None:
        decided = await store.decide(make_decision("d1", episode="e"))
        assert await store.complete(completion("d1"))
        await give(store, reward("d1", 0.3, source="user"), reward("d1", None), episode_reward("e", 1.0))
        await store.commit(await store.acquire_epoch(), 0, decided.stream_id, NOW, {}, [], {"d1": ROW}, router=ROUTER)
        stored = await store.decision("d1")
        assert stored is not None
        assert (stored.stream_id, stored.decision) == (decided.stream_id, decided.decision)
        assert (stored.completion, stored.cancellation, stored.ledger) == (completion("d1"), None, ROW)
        assert stored.observations == {
            "anonymous/user": Observation(0.3, False),
            "anonymous/judge": Observation(None, True),
        }

    async def test_a_decision_shows_what_was_said_of_its_episode(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        await store.decide(make_decision("d1", episode="e"))
        await give(store, episode_reward("e", 0.7))
        stored = await store.decision("d1")
        assert stored is not None
        assert stored.observations == {"anonymous/judge": Observation(0.7, False)}

    async def test_decisions_come_newest_first_and_in_pages(self, store: Store, make_decision: MakeDecision) -> None:
        for i in range(5):
            await store.decide(make_decision(f"d{i}"))
            await give(store, *(reward(f"d{i}", 0.5, source=f"s{n}") for n in range(100)))
        first = await store.decisions(2)
        rest = await store.decisions(10, before=first[-1].stream_id)
        assert [one.decision.id for one in first] == ["d4", "d3"]
        assert [one.decision.id for one in rest] == ["d2", "d1", "d0"]

    async def test_what_is_unknown_is_none(self, store: Store) -> None:
        assert await store.decision("nobody") is None
        assert await store.episode("nobody") is None
        assert await store.decisions(3) == []


class TestSteps:
    def step(self, number: int = 1) -> EpisodeStep:
        return EpisodeStep(
            number=number, kept="calendar", branch="best", masses={"best": 0.1 + 0.2}, coordinates="relative"
        )

    async def test_the_last_step_is_what_the_next_one_is_taken_after(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        assert await store.last_step("e") is None
        first = await store.decide(make_decision("d1", episode="e", step=self.step()))
        last = await store.last_step("e")
        assert last == LastStep(first.stream_id, "calendar", self.step())
        second = make_decision("d2", episode="e", arm="inbox", step=self.step(2))
        decided = await store.decide(second, after=last)
        assert await store.last_step("e") == LastStep(decided.stream_id, "inbox", self.step(2))
        assert await store.last_step("other") is None
        assert await store.decide(second, after=last) == decided

    async def test_of_steps_taken_after_the_same_one_is_written(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        await store.decide(make_decision("d0", episode="e", step=self.step()))
        last = await store.last_step("e")
        made = [make_decision(f"d{i}", episode="e", step=self.step(2)) for i in range(1, 9)]
        results = await asyncio.gather(*(store.decide(one, after=last) for one in made), return_exceptions=True)
        assert sum(isinstance(result, EpisodeMoved) for result in results) == 7
        with pytest.raises(EpisodeMoved, match="'e' has gone on since it began"):
            await store.decide(make_decision("late", episode="e", step=self.step()))
        assert len(await store.event_range()) == 2
        assert len(await store.episode("e") or ()) == 2


class TestFeedback:
    async def test_first_feedback_is_recorded(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        item = reward("d1", 0.1 + 0.2, comment='"quoted" / ünï', terminated=True, key="team")
        assert await give(store, item) == ["recorded"]
        assert await feedback_events(store) == [item.model_copy(update={"members": ["d1"]})]

    async def test_equal_feedback_is_a_duplicate(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        assert await give(store, reward("d1", 1.0), reward("d1", 1.0, at=NOW + 9)) == ["recorded", "duplicate"]
        assert len(await feedback_events(store)) == 1

    async def test_another_value_is_a_correction_that_names_the_first(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        await store.decide(make_decision("d1"))
        assert await give(store, reward("d1", 1 / 3), reward("d1", 1.0)) == ["recorded", "corrected"]
        assert [(one.previous, one.reward) for one in await feedback_events(store)] == [(None, 1 / 3), (1 / 3, 1.0)]

    async def test_a_truncation_is_another_value(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        items = [reward("d1", None), reward("d1", None), reward("d1", 0.5), reward("d1", 0.5, truncated=True)]
        assert await give(store, *items) == ["recorded", "duplicate", "corrected", "corrected"]
        assert [one.previous for one in await feedback_events(store)] == [None, None, 0.5]

    async def test_sources_do_not_correct_each_other(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        assert await give(store, reward("d1", 1.0), reward("d1", 0.0, source="user")) == ["recorded", "recorded"]

    @pytest.mark.parametrize(("after", "status"), [(WINDOW_S, "recorded"), (WINDOW_S + 0.001, "late")])
    async def test_the_window_decides_what_is_late(
        self, store: Store, make_decision: MakeDecision, after: float, status: Status
    ) -> None:
        await store.decide(make_decision("d1"))
        assert await give(store, reward("d1", 1.0, at=NOW + after)) == [status]
        assert [one.late for one in await feedback_events(store)] == [status == "late"]

    async def test_feedback_on_nothing_known_is_unknown(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        expired = reward("d1", 1.0, at=NOW + RETENTION_S + 0.001)
        assert await give(store, reward("nobody", 1.0), episode_reward("nobody", 1.0), expired) == ["unknown"] * 3
        assert await feedback_events(store) == []

    async def test_an_episode_covers_its_decisions(self, store: Store, make_decision: MakeDecision) -> None:
        for i in range(3):
            await store.decide(make_decision(f"d{i}", episode="e", time=NOW + i))
        await store.decide(make_decision("other"))
        at = NOW + 2 + WINDOW_S  # the last member's deadline
        items = [episode_reward("e", 0.5, at=at), episode_reward("e", 0.5), episode_reward("e", 0.6)]
        assert await give(store, *items) == ["recorded", "duplicate", "corrected"]
        assert [one.members for one in await feedback_events(store)] == [["d0", "d1", "d2"]] * 2
        assert await store.post_timeouts(NOW + 10 * WINDOW_S) == 1
        assert await timeouts(store) == ["other"]

    async def test_the_same_word_for_a_longer_episode_is_new(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d0", episode="e"))
        assert await give(store, episode_reward("e", 0.5), episode_reward("e", 0.5)) == ["recorded", "duplicate"]
        await store.decide(make_decision("d1", episode="e"))
        items = [episode_reward("e", 0.5), episode_reward("e", 0.5), episode_reward("e", 0.25)]
        assert await give(store, *items) == ["recorded", "duplicate", "corrected"]
        assert [one.members for one in await feedback_events(store)] == [["d0"], ["d0", "d1"], ["d0", "d1"]]
        stored = await store.decision("d1")
        assert stored is not None
        assert stored.observations == {"anonymous/judge": Observation(0.25, False)}

    async def test_another_word_after_a_late_one_is_late_too(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        after = NOW + WINDOW_S + 1
        assert await give(store, reward("d1", 0.5, at=after)) == ["late"]
        assert await give(store, reward("d1", 0.5, at=after), reward("d1", 1.0, at=after)) == ["duplicate", "late"]
        stored = await store.decision("d1")
        assert stored is not None
        assert stored.observations == {"anonymous/judge": Observation(1.0, False)}

    async def test_an_episode_is_late_after_its_last_deadline(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d0", episode="e"))
        await store.decide(make_decision("d1", episode="e", time=NOW + 5))
        assert await give(store, episode_reward("e", 0.5, at=NOW + 5.1 + WINDOW_S)) == ["late"]

    async def test_a_batch_answers_in_its_order(self, store: Store, make_decision: MakeDecision) -> None:
        for i in range(0, 300, 2):
            await store.decide(make_decision(f"d{i}"))
        statuses = await give(store, *(reward(f"d{i}", 1.0) for i in range(300)))
        assert statuses == ["recorded", "unknown"] * 150
        assert await give(store) == []


class TestDeadlines:
    async def test_only_what_is_due_times_out_and_once(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("early"))
        await store.decide(make_decision("later", time=NOW + 1))
        assert await store.post_timeouts(NOW + WINDOW_S) == 1
        assert await store.post_timeouts(NOW + WINDOW_S) == 0
        (_, event) = (await store.event_range())[-1]
        assert event == Timeout(time=NOW + WINDOW_S, decision_id="early")

    async def test_what_has_timed_out_is_late_by_every_clock(self, store: Store, make_decision: MakeDecision) -> None:
        """The clock that brings time-outs may be ahead of the one that dates feedback."""
        for name in ("d1", "d2"):
            await store.decide(make_decision(name))
        await give(store, reward("d2", 0.5))
        assert await store.post_timeouts(NOW * 2) == 1
        said = [reward("d1", 1.0), reward("d1", 0.0), reward("d2", 1.0)]
        assert await give(store, *said) == ["late", "late", "corrected"]

    async def test_what_was_late_once_is_late_by_every_clock(self, store: Store, make_decision: MakeDecision) -> None:
        """One Router's clock may be ahead of another's: what the first word closed, a second cannot open again."""
        for name in ("d1", "d2"):
            await store.decide(make_decision(name))
        await give(store, reward("d2", 0.5))
        said = [reward("d1", 1.0, at=NOW + 1 + WINDOW_S), reward("d1", 0.0, source="other"), reward("d2", 1.0)]
        assert await give(store, *said) == ["late", "late", "corrected"]

    async def test_an_episode_is_late_when_all_of_it_has_timed_out(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        await store.decide(make_decision("d1", episode="e"))
        await store.decide(make_decision("d2", episode="e", time=NOW + 1))
        await store.post_timeouts(NOW + WINDOW_S)
        assert await give(store, episode_reward("e", 0.5)) == ["recorded"]
        await store.decide(make_decision("d3", episode="f"))
        await store.post_timeouts(NOW * 2)
        assert await give(store, episode_reward("f", 0.5)) == ["late"]

    async def test_a_time_out_knows_how_many_decisions_its_episode_had(
        self, store: Store, make_decision: MakeDecision
    ) -> None:
        for name in ("d1", "d2"):
            await store.decide(make_decision(name, episode="e"))
        await store.decide(make_decision("d3"))
        await store.post_timeouts(NOW * 2)
        found = [event for _, event in await store.event_range() if isinstance(event, Timeout)]
        assert [(event.decision_id, event.members) for event in found] == [("d1", 2), ("d2", 2), ("d3", 1)]

    async def test_the_limit_leaves_the_rest_for_the_next_call(self, store: Store, make_decision: MakeDecision) -> None:
        for i in range(5):
            await store.decide(make_decision(f"d{i}", time=NOW + i))
        assert [await store.post_timeouts(NOW * 2, limit=3) for _ in range(3)] == [3, 2, 0]
        assert await timeouts(store) == [f"d{i}" for i in range(5)]

    async def test_a_settled_decision_does_not_time_out(self, store: Store, make_decision: MakeDecision) -> None:
        for name in ("rewarded", "truncated", "cancelled", "waiting"):
            await store.decide(make_decision(name))
        await give(store, reward("rewarded", 1.0), reward("truncated", None))
        await store.cancel(Cancellation(time=NOW, decision_id="cancelled", reason="client left"))
        await store.post_timeouts(NOW * 2)
        assert await timeouts(store) == ["waiting"]

    async def test_completion_alone_settles_nothing(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        await store.complete(completion("d1"))
        assert await store.post_timeouts(NOW * 2) == 1


class TestOutcomesAndArms:
    async def test_a_decision_completes_once(self, store: Store, make_decision: MakeDecision) -> None:
        await store.decide(make_decision("d1"))
        assert [await store.complete(completion("d1")), await store.complete(completion("d1"))] == [True, False]
        assert [event for _, event in await store.event_range()][1:] == [completion("d1")]

    async def test_a_decision_is_cancelled_once(self, store: Store, make_decision: MakeDecision) -> None:
        cancellation = Cancellation(time=NOW, decision_id="d1", reason="engine failed")
        await store.decide(make_decision("d1"))
        assert [await store.cancel(cancellation), await store.cancel(cancellation)] == [True, False]
        stored = await store.decision("d1")
        assert stored is not None
        assert stored.cancellation == cancellation

    async def test_an_unknown_decision_has_no_outcome(self, store: Store) -> None:
        assert not await store.complete(completion("nobody"))
        assert not await store.cancel(Cancellation(time=NOW, decision_id="nobody", reason="?"))
        assert await store.event_range() == []

    async def test_an_arm_is_posted_when_it_changes(self, store: Store) -> None:
        base, old, new = (ArmRegistered(time=NOW, arm="a", adapter_hash=hash_) for hash_ in (None, "", "c0ffee"))
        removed = ArmRemoved(time=NOW, arm="a")
        calls = [await store.change_arm(one) for one in (base, base, old, new, new)]
        calls += [await store.change_arm(removed), await store.change_arm(removed), await store.change_arm(new)]
        assert calls == [True, False, True, True, False, True, False, True]
        assert [event for _, event in await store.event_range()] == [base, old, new, removed, new]


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
