"""Decisions in the store: durable and once each, one a request, one a step of an episode, and one end."""

import asyncio

import pytest

from cluster.connection import START
from cluster.events import Cancellation, EpisodeStep
from cluster.request_store import EpisodeMoved, LastStep
from cluster.store import Observation, Store
from tests.cluster.conftest import MakeDecision
from tests.cluster.said import NOW, ROUTER, ROW, completion, episode_reward, give, reward


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


class TestOutcomes:
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
