"""Rewards in the store: recorded once, corrected, on time or late."""

import pytest

from cluster.events import Cancellation, Feedback, Timeout
from cluster.request_store import Status
from cluster.store import Observation, Store
from tests.cluster.conftest import RETENTION_S, WINDOW_S, MakeDecision
from tests.cluster.said import NOW, completion, episode_reward, give, reward


async def feedback_events(store: Store) -> list[Feedback]:
    return [event for _, event in await store.event_range() if isinstance(event, Feedback)]


async def timeouts(store: Store) -> list[str]:
    return [event.decision_id for _, event in await store.event_range() if isinstance(event, Timeout)]


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
