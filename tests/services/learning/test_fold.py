"""The fold: the same evidence whatever the batches, each reward once, and nothing that stops it."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cluster.events import (
    ArmRegistered,
    ArmRemoved,
    Cancellation,
    Completion,
    Decision,
    Event,
    Feedback,
    Timeout,
)
from cluster.learner_store import LedgerRow
from policies.context import ContextMap
from policies.drift import Alarm
from policies.evidence import ArmStatistics
from policies.prior import LearningConfig
from services.learning.fold import Fold
from services.learning.rewards import FeedbackRules
from tests.services.fakes import features

CONFIG = LearningConfig(discount=0.9, version_carry=0.25)


def decision(id_: str, arm: str = "inbox", **changes: Any) -> Decision:
    values: dict[str, Any] = {
        "time": 1.0, "id": id_, "model": "qwen", "arm": arm, "gates": {arm: 1.0}, "adapters": {arm: "v1"},
        "propensity": 1.0, "explored": False, "supervised": arm, "policy": "linucb", "policy_version": 1,
        "mode": "online", "router": "r", "eligible": [arm], "resident": [arm], "scored": [],
        "features": features(id_).tobytes(),
    }  # fmt: skip
    return Decision(**values | changes)


def reward(target: str, value: float | None, *members: str, source: str = "judge", **more: Any) -> Feedback:
    """Feedback on a decision, or with `members` on the episode of that name."""
    goal = {"episode_id" if members else "decision_id": target}
    filled = {"reward": value, "truncated": value is None, "members": list(members or [target])}
    return Feedback.model_validate({"time": 2.0, "source": source} | goal | filled | more)


def completion(id_: str) -> Completion:
    return Completion(
        time=2.0, decision_id=id_, latency_ms=1.0, prompt_tokens=1, completion_tokens=1, finish_reason="stop"
    )


class Ledger:
    """Folds events in batches, with what earlier batches left in the ledger."""

    def __init__(self, contexts: ContextMap, rules: FeedbackRules = FeedbackRules()) -> None:
        self.contexts = contexts
        self.rules = rules
        self.fold = Fold(contexts, CONFIG, {}, rules)
        self.decisions: dict[str, Decision] = {}
        self.rows: dict[str, LedgerRow] = {}

    def take(self, *events: Event) -> "Ledger":
        """One batch: what it needs of the ledger is read before, what it touched is committed after."""
        self.decisions |= {event.id: event for event in events if isinstance(event, Decision)}
        wanted = Fold.references(*events)
        known = {i: (one, self.rows.get(i)) for i, one in self.decisions.items() if i in wanted}
        for event in events:
            self.fold.apply(event, known)
        self.rows |= self.fold.rows
        blobs = {arm: statistics.to_bytes() for arm, statistics in self.fold.arms.items()}
        arms = {arm: ArmStatistics.from_bytes(blob) for arm, blob in blobs.items()}
        self.fold = Fold(self.contexts, CONFIG, arms, self.rules)
        return self

    def __getitem__(self, arm: str) -> ArmStatistics:
        return self.fold.arms[arm]

    def x(self, id_: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.contexts.map(np.frombuffer(self.decisions[id_].features, np.float16)).x


@pytest.fixture
def ledger(contexts: ContextMap) -> Ledger:
    return Ledger(contexts)


def counts(arm: ArmStatistics) -> tuple[int, int, int, float]:
    return arm.pulls, arm.pending, arm.matured, arm.reward_sum


def same(one: ArmStatistics, other: ArmStatistics) -> bool:
    close = all(np.allclose(getattr(one, n), getattr(other, n), rtol=1e-12, atol=1e-12) for n in ("S", "e", "P"))
    return close and counts(one) == pytest.approx(counts(other)) and one.kappa == other.kappa


def test_a_decision_is_pending_until_its_reward(ledger: Ledger) -> None:
    ledger.take(decision("d1"), decision("d2"))
    assert counts(ledger["inbox"]) == (2, 2, 0, 0.0)
    assert ledger.rows["d2"] == LedgerRow(tick=2, arm="inbox", status="pending", weight=1.0, rewards={})
    ledger.take(reward("d1", 0.75))
    assert counts(ledger["inbox"]) == (2, 1, 1, 0.75)
    assert ledger["inbox"].e == pytest.approx(0.9 * 0.75 * ledger.x("d1"))
    assert pytest.approx(np.outer(ledger.x("d2"), ledger.x("d2"))) == ledger["inbox"].P
    assert ledger.rows["d1"].status == "matured"


EVENTS: Sequence[Event] = (
    ArmRegistered(time=0.0, arm="inbox", adapter_hash="v1"),
    ArmRegistered(time=0.0, arm="base"),
    decision("d1", episode="e"),
    decision("d2", episode="e"),
    decision("d3", "claims"),
    Completion(time=1.5, decision_id="d1", latency_ms=1, prompt_tokens=1, completion_tokens=1, finish_reason="stop"),
    reward("e", 1.0, "d1", "d2"),
    reward("d3", None),
    decision("d4"),
    Cancellation(time=2.0, decision_id="d4", reason="gone"),
    reward("d3", 0.5),
    ArmRegistered(time=3.0, arm="inbox", adapter_hash="v2"),
    reward("e", 0.5, "d1", "d2", previous=1.0),
    decision("d5"),
    Timeout(time=9.0, decision_id="d5"),
    reward("d2", 0.0, source="user"),
    ArmRemoved(time=10.0, arm="claims"),
    reward("d3", None, previous=0.5),
    decision("d6"),
    completion("d6"),
    Timeout(time=11.0, decision_id="d6"),
    reward("d6", 1.0, late=True),
    decision("d7"),
    decision("d8"),
    reward("d7", 1.0, key="nightly"),
    reward("d8", 1.0, key="nightly", source="a"),
    reward("d8", 0.0, key="nightly", source="b"),
    reward("d8", 0.5),
)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("rules", [FeedbackRules(), FeedbackRules(True, 0.25, 1.5)])
def test_the_batches_do_not_matter(contexts: ContextMap, size: int, rules: FeedbackRules) -> None:
    whole, split = Ledger(contexts, rules).take(*EVENTS), Ledger(contexts, rules)
    for start in range(0, len(EVENTS), size):
        split.take(*EVENTS[start : start + size])
    assert split.rows == whole.rows
    assert split.fold.arms.keys() == whole.fold.arms.keys() == {"inbox", "base", "claims"}
    assert all(same(split[arm], whole[arm]) for arm in whole.fold.arms)


def test_what_is_touched_is_what_is_committed(contexts: ContextMap) -> None:
    fold = Fold(contexts, CONFIG, {})
    fold.apply(decision("d1"), {})
    fold.apply(decision("d2", "claims"), {})
    assert (fold.population.touched, set(fold.rows)) == ({"inbox", "claims"}, {"d1", "d2"})
    fold.clear()
    assert (fold.population.touched, fold.rows) == (set(), {})


class TestCorrections:
    def test_a_correction_is_as_if_the_last_word_had_been_the_first(self, contexts: ContextMap) -> None:
        corrected = Ledger(contexts).take(decision("d1"), decision("d2"), reward("d1", 1.0), reward("d1", 0.25))
        straight = Ledger(contexts).take(decision("d1"), decision("d2"), reward("d1", 0.25))
        assert same(corrected["inbox"], straight["inbox"])
        assert corrected.rows == straight.rows

    def test_truncated_then_an_outcome(self, contexts: ContextMap) -> None:
        ledger = Ledger(contexts).take(decision("d1"), reward("d1", None))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 0, 0.0), "censored")
        ledger.take(reward("d1", 0.5))
        assert same(ledger["inbox"], Ledger(contexts).take(decision("d1"), reward("d1", 0.5))["inbox"])

    def test_an_outcome_then_truncated(self, contexts: ContextMap) -> None:
        ledger = Ledger(contexts).take(decision("d1"), reward("d1", 0.5))
        ledger.take(reward("d1", None))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 0, 0.0), "censored")
        assert pytest.approx(np.zeros_like(ledger["inbox"].S)) == ledger["inbox"].S
        ledger.take(reward("d1", None))
        assert counts(ledger["inbox"]) == (1, 0, 0, 0.0)

    def test_sources_count_as_their_mean(self, contexts: ContextMap) -> None:
        ledger = Ledger(contexts).take(decision("d1"), reward("d1", 1.0), reward("d1", 0.5, source="user"))
        assert same(ledger["inbox"], Ledger(contexts).take(decision("d1"), reward("d1", 0.75))["inbox"])
        ledger.take(reward("d1", None, source="user"))
        assert same(ledger["inbox"], Ledger(contexts).take(decision("d1"), reward("d1", 1.0))["inbox"])


class TestEpisodes:
    def test_an_episode_weighs_as_one_observation(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), decision("d2", "claims"), reward("e", 1.0, "d1", "d2"))
        for arm, id_ in (("inbox", "d1"), ("claims", "d2")):
            x = ledger.x(id_)
            assert pytest.approx(0.5 * np.outer(x, x)) == ledger[arm].S
            assert ledger[arm].e == pytest.approx(0.5 * x)
        assert {row.weight for row in ledger.rows.values()} == {0.5}

    def test_a_correction_keeps_the_weight_that_was_folded(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), reward("e", 1.0, "d1"), decision("d2", "claims"))
        ledger.take(reward("e", 0.5, "d1", "d2", previous=1.0))
        assert (ledger.rows["d1"].weight, ledger.rows["d2"].weight) == (1.0, 0.5)
        x = ledger.x("d1")
        assert pytest.approx(np.outer(x, x)) == ledger["inbox"].S
        assert ledger["inbox"].e == pytest.approx(0.5 * x)

    def test_it_says_nothing_of_a_step_that_was_not_taken(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), Cancellation(time=1.0, decision_id="d1", reason="gone"))
        ledger.take(reward("e", 1.0, "d1"))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 0, 0.0), "cancelled")

    def test_a_step_that_was_not_taken_does_not_dilute_the_others(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), decision("d2"), Cancellation(time=1.0, decision_id="d1", reason="gone"))
        ledger.take(reward("e", 1.0, "d1", "d2"))
        assert (ledger.rows["d2"].weight, ledger.rows["d2"].status) == (1.0, "matured")

    def test_a_step_that_a_retry_finished_was_taken(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), Cancellation(time=1.0, decision_id="d1", reason="gone"))
        ledger.take(completion("d1"))
        assert counts(ledger["inbox"]) == (1, 0, 0, 0.0)
        ledger.take(reward("e", 1.0, "d1"))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 1, 1.0), "matured")

    def test_a_completion_changes_nothing_else(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), completion("d1"))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 1, 0, 0.0), "pending")


class TestEndings:
    def test_cancelled_then_rewarded_by_itself(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), Cancellation(time=1.0, decision_id="d1", reason="gone"))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 0, 0.0), "cancelled")
        ledger.take(reward("d1", 1.0))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 1, 1.0), "matured")

    def test_rewarded_then_cancelled(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), reward("d1", 1.0), Cancellation(time=1.0, decision_id="d1", reason="gone"))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 1, 1.0), "matured")

    def test_timed_out_is_closed_for_good(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), Timeout(time=9.0, decision_id="d1"))
        ledger.take(reward("e", 1.0, "d1"), reward("d1", 0.5))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 0, 0.0), "timed_out")

    def test_late_teaches_nothing_and_closes_what_it_names(self, ledger: Ledger) -> None:
        """A late reward takes the decision's time-out away, so it has to stand in for it."""
        ledger.take(decision("d1"), reward("d1", 1.0, late=True))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 0, 0.0), "timed_out")
        ledger.take(reward("d1", 0.5, previous=1.0))
        assert counts(ledger["inbox"]) == (1, 0, 0, 0.0)

    def test_late_leaves_what_has_an_outcome(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), reward("d1", 1.0), reward("e", 0.0, "d1", source="user", late=True))
        assert (counts(ledger["inbox"]), ledger.rows["d1"].status) == ((1, 0, 1, 1.0), "matured")

    def test_what_was_never_decided_is_passed_over(self, ledger: Ledger) -> None:
        ledger.take(
            reward("d1", 1.0), Cancellation(time=1.0, decision_id="d2", reason="x"), Timeout(time=1.0, decision_id="d3")
        )
        assert ledger.fold.arms == {}
        assert ledger.rows == {}


class TestKeys:
    """A key's sources have together one word's weight, and a key no more evidence than it may."""

    def test_inventing_sources_outvotes_nobody(self, contexts: ContextMap) -> None:
        loud = [reward("d1", 1.0, key="loud", source=f"s{n}") for n in range(9)]
        ledger = Ledger(contexts).take(decision("d1"), reward("d1", 0.0, key="quiet"), *loud)
        assert same(ledger["inbox"], Ledger(contexts).take(decision("d1"), reward("d1", 0.5))["inbox"])

    def test_a_key_cannot_correct_another_by_taking_its_name(self, contexts: ContextMap) -> None:
        said = reward("d1", 1.0, key="one", source="one"), reward("d1", 0.0, key="two", source="one")
        ledger = Ledger(contexts).take(decision("d1"), *said)
        assert ledger.rows["d1"].rewards == {"one": 1.0, "two/one": 0.0}
        assert ledger["inbox"].reward_sum == 0.5

    def test_a_key_holds_at_most_its_cap_of_an_arm(self, contexts: ContextMap) -> None:
        ids = [f"d{i}" for i in range(6)]
        ledger = Ledger(contexts, FeedbackRules(key_cap=1.5)).take(*(decision(id_) for id_ in ids))
        for id_ in ids:
            ledger.take(reward(id_, 1.0, key="loud"))
        held = [row.weight * row.voices.get("loud", 1.0) * 0.9 ** (6 - row.tick) for row in ledger.rows.values()]
        assert sum(held) == pytest.approx(1.5)
        assert ledger["inbox"].contribution("loud") == pytest.approx(1.5)
        assert {row.status for row in ledger.rows.values()} == {"matured", "censored"}
        assert ledger["inbox"].pending == 0

    def test_the_room_of_a_key_grows_back_with_the_arms_clock(self, contexts: ContextMap) -> None:
        ledger = Ledger(contexts, FeedbackRules(key_cap=1.0)).take(decision("d1"), reward("d1", 1.0))
        ledger.take(decision("d2"), reward("d2", 1.0))
        assert ledger.rows["d2"].voices == {"anonymous": pytest.approx(0.1)}
        ledger.take(reward("d2", 0.0))
        x, y = ledger.x("d1"), ledger.x("d2")
        assert ledger["inbox"].e == pytest.approx(0.9 * x)
        assert pytest.approx(0.9 * np.outer(x, x) + 0.1 * np.outer(y, y)) == ledger["inbox"].S

    def test_what_a_cut_takes_of_an_arm_it_takes_of_every_key(self, contexts: ContextMap) -> None:
        """New weights, then a drift while decisions are under way: a key holds what is left of its words."""
        ids = [f"d{i}" for i in range(9)]
        ledger = Ledger(contexts, FeedbackRules(key_cap=100.0)).take(*(decision(id_) for id_ in ids[:6]))
        ledger.take(*(reward(id_, 1.0) for id_ in ids[:3]))
        ledger.take(ArmRegistered(time=2.0, arm="inbox", adapter_hash="v2"), reward("d3", 1.0))
        ledger.take(*(decision(id_, adapters={"inbox": "v2"}) for id_ in ids[6:]), reward("d6", 1.0))
        ledger["inbox"].drifted(Alarm(7, 2.0, worse=True, restored=False, kappa=0.1), 0.5)
        ledger.take(reward("d4", 1.0), reward("d8", 1.0))
        arm = ArmStatistics.from_bytes(ledger["inbox"].to_bytes())
        words = [row for row in ledger.rows.values() if row.rewards]
        assert arm.contribution("anonymous") == pytest.approx(sum(arm.strength(row.tick, 1.0) for row in words))

    def test_who_has_room_is_heard_beside_who_has_none(self, contexts: ContextMap) -> None:
        ledger = Ledger(contexts, FeedbackRules(key_cap=1.0)).take(decision("d1"), reward("d1", 0.0, key="loud"))
        ledger.take(decision("d2"), reward("d2", 0.0, key="loud", source="x"), reward("d2", 1.0, key="quiet"))
        assert ledger.rows["d2"].voices == {"loud": pytest.approx(0.1)}
        x, y = ledger.x("d1"), ledger.x("d2")
        assert ledger["inbox"].e == pytest.approx(y / 1.1)
        assert pytest.approx(0.9 * np.outer(x, x) + np.outer(y, y)) == ledger["inbox"].S


class TestTimeouts:
    """What comes after the window, by the two settings for it."""

    @pytest.fixture
    def generous(self, contexts: ContextMap) -> Ledger:
        return Ledger(contexts, FeedbackRules(timeout_reward=0.25))

    def test_an_answer_without_feedback_earns_the_default(self, generous: Ledger) -> None:
        generous.take(decision("d1"), completion("d1"), Timeout(time=9.0, decision_id="d1", members=2))
        assert (counts(generous["inbox"]), generous.rows["d1"].status) == ((1, 0, 1, 0.25), "timed_out")
        assert generous["inbox"].e == pytest.approx(0.25 / 2 * generous.x("d1"))

    def test_an_answer_that_comes_after_the_window_earns_it_then(self, generous: Ledger) -> None:
        generous.take(decision("d1"), Timeout(time=9.0, decision_id="d1"))
        assert counts(generous["inbox"]) == (1, 0, 0, 0.0)
        generous.take(completion("d1"))
        assert counts(generous["inbox"]) == (1, 0, 1, 0.25)

    @pytest.mark.parametrize("unanswered", [[], [Cancellation(time=2.0, decision_id="d1", reason="gone")]])
    def test_what_never_answered_earns_nothing(self, generous: Ledger, unanswered: list[Event]) -> None:
        generous.take(decision("d1"), *unanswered, Timeout(time=9.0, decision_id="d1"))
        assert counts(generous["inbox"]) == (1, 0, 0, 0.0)

    def test_what_has_a_reward_or_was_cut_off_keeps_it(self, generous: Ledger) -> None:
        generous.take(decision("d1"), completion("d1"), reward("d1", 1.0), Timeout(time=9.0, decision_id="d1"))
        generous.take(decision("d2"), completion("d2"), reward("d2", None), Timeout(time=9.0, decision_id="d2"))
        assert counts(generous["inbox"]) == (2, 0, 1, 1.0)

    def test_late_feedback_replaces_what_the_time_out_did(self, contexts: ContextMap) -> None:
        late = Ledger(contexts, FeedbackRules(learn_late=True, timeout_reward=0.25))
        late.take(decision("d1"), completion("d1"), Timeout(time=9.0, decision_id="d1"), reward("d1", 1.0, late=True))
        assert same(late["inbox"], Ledger(contexts).take(decision("d1"), reward("d1", 1.0))["inbox"])
        late.take(reward("d1", 0.0, late=True, previous=1.0))
        assert counts(late["inbox"]) == (1, 0, 1, 0.0)

    def test_an_episode_that_late_feedback_closes_weighs_as_one_observation(self, generous: Ledger) -> None:
        ids = ("d1", "d2", "d3", "d4")
        generous.take(*(decision(id_, episode="e") for id_ in ids), *(completion(id_) for id_ in ids))
        generous.take(reward("e", 1.0, *ids, late=True))
        assert [row.weight for row in generous.rows.values()] == [0.25] * 4

    def test_late_feedback_may_come_before_the_time_out(self, contexts: ContextMap) -> None:
        late = Ledger(contexts, FeedbackRules(learn_late=True)).take(decision("d1"), reward("d1", 1.0, late=True))
        assert (counts(late["inbox"]), late.rows["d1"].status) == ((1, 0, 1, 1.0), "matured")


class TestArms:
    def test_an_arm_begins_with_its_registration_or_its_first_decision(self, ledger: Ledger) -> None:
        ledger.take(ArmRegistered(time=0.0, arm="claims", adapter_hash="v1"), decision("d1"))
        assert counts(ledger["claims"]) == (0, 0, 0, 0.0)
        assert counts(ledger["inbox"]) == (1, 1, 0, 0.0)
        assert (ledger["claims"].adapter_hash, ledger["inbox"].adapter_hash) == ("v1", "v1")

    def test_a_router_that_is_faster_than_the_learner_makes_no_new_version(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), ArmRegistered(time=0.0, arm="inbox", adapter_hash="v1"))
        assert (ledger["inbox"].kappa, ledger["inbox"].cuts) == (1.0, [])

    def test_a_new_version_carries_a_share(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), reward("d1", 1.0), decision("d2"))
        known = copy.deepcopy(ledger["inbox"])
        ledger.take(ArmRegistered(time=3.0, arm="inbox", adapter_hash="v2"))
        assert (ledger["inbox"].kappa, ledger["inbox"].adapter_hash) == (0.25, "v2")
        assert pytest.approx(0.25 * known.S) == ledger["inbox"].S
        ledger.take(reward("d2", 1.0))
        assert ledger["inbox"].e == pytest.approx(0.25 * (known.e + ledger.x("d2")))

    def test_the_same_version_again_changes_nothing(self, ledger: Ledger) -> None:
        ledger.take(decision("d1"), reward("d1", 1.0))
        known = copy.deepcopy(ledger["inbox"])
        ledger.take(ArmRegistered(time=3.0, arm="inbox", adapter_hash="v1"))
        assert same(ledger["inbox"], known)

    def test_an_arm_that_comes_back_knows_what_it_knew(self, contexts: ContextMap) -> None:
        """Rewards of its decisions may come before, between and after; each counts once."""
        removed, back = ArmRemoved(time=2.0, arm="inbox"), ArmRegistered(time=3.0, arm="inbox", adapter_hash="v1")
        asked = [decision(f"d{i}") for i in range(4)]
        rewards = [reward(f"d{i}", i / 4) for i in range(3)]
        interrupted = Ledger(contexts).take(*asked, rewards[0], removed)
        interrupted.take(rewards[1]).take(back).take(rewards[2], Timeout(time=9.0, decision_id="d3"))
        straight = Ledger(contexts).take(*asked, *rewards, Timeout(time=9.0, decision_id="d3"))
        assert same(interrupted["inbox"], straight["inbox"])


@pytest.mark.parametrize("content", [b"", b"\x00\x00", features("x").tobytes() * 2])
def test_features_of_another_model_are_passed_over(ledger: Ledger, content: bytes) -> None:
    """They may be in the log when the model is changed; the Learner must get past them."""
    ledger.take(decision("d1", features=content), decision("d2"))
    ledger.rows["d1"] = LedgerRow(tick=1, arm="inbox", status="pending", weight=1.0, rewards={})
    ledger.take(reward("d1", 1.0), Timeout(time=9.0, decision_id="d1"), reward("d2", 0.5))
    assert counts(ledger["inbox"]) == (1, 0, 1, 0.5)


def test_an_arm_that_breaks_raises_the_same_alarm_whatever_the_batches(contexts: ContextMap) -> None:
    """The residual test is part of the fold: a Learner that restarts in between sees the same drift."""
    asked = [decision(f"d{i}") for i in range(60)]
    events = [event for i, one in enumerate(asked) for event in (one, reward(f"d{i}", float(i < 40), time=2.0 + i))]
    whole, parted = Ledger(contexts), Ledger(contexts)
    whole.take(*events)
    for start in range(0, len(events), 7):
        parted.take(*events[start : start + 7])
    known = whole["inbox"]
    assert known.alarms[-1].worse
    assert known.alarms[-1].time >= 42.0
    assert known.kappa == known.alarms[-1].kappa < 1.0
    assert (parted["inbox"].alarms, parted["inbox"].kappa) == (known.alarms, known.kappa)
    assert same(parted["inbox"], known)


def test_what_the_fold_raised_is_told_until_it_is_committed(contexts: ContextMap) -> None:
    fold = Fold(contexts, CONFIG, {})
    decided = {f"d{i}": decision(f"d{i}") for i in range(60)}
    for i, one in enumerate(decided.values()):
        fold.apply(one, {})
        fold.apply(reward(one.id, float(i < 40)), {})
    found = [Alarm(one.tick, one.time, one.worse, one.restored, one.kappa) for one in fold.drifts]
    assert found == fold.arms["inbox"].alarms != []
    assert {(one.arm, one.decision_id) for one in fold.drifts} == {("inbox", f"d{one.tick - 1}") for one in found}
    fold.clear()
    assert fold.drifts == []
