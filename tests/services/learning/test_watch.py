"""The watch: policies are weighed on what was known at the time, counted once, and guarded in the order of the log."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cluster.events import Decision, Event, Feedback, GuardReset, ModeChanged
from policies.config import PolicyConfig
from policies.context import ContextMap
from policies.guard import GuardConfig
from policies.prior import LearningConfig
from services.learning.fold import Fold
from services.learning.folding import Folding
from services.learning.states import FROZEN, MODE, WATCH
from services.learning.watch import SUPERVISED, Watch, WatchConfig, guard_view, scores
from tests.services.fakes import features
from tests.services.learning.test_fold import CONFIG, decision, reward

ARMS = ["calendar", "claims", "inbox"]
WATCHING = WatchConfig(beside=("mlp", "fixed"), policy=PolicyConfig(fixed_arm="claims"), guard=GuardConfig(delta=0.05))


def logged(id_: str, arm: str, *, best: str = "inbox", supervised: str = "inbox", **changes: Any) -> Decision:
    """A decision about the inbox among all arms."""
    values: dict[str, Any] = {
        "best": best, "supervised": supervised, "eligible": ARMS, "propensity": 0.5,
        "features": features(f"{id_}: open the inbox").tobytes(),
    }  # fmt: skip
    return decision(id_, arm, **values | changes)


def folded(
    contexts: ContextMap, *events: Event, watching: WatchConfig = WATCHING, learning: LearningConfig = CONFIG
) -> Fold:
    fold = Fold(contexts, learning, {}, watching=watching)
    for event in events:
        fold.apply(event, {})
    return fold


def units(fold: Fold) -> dict[str, tuple[int, float]]:
    """Units and mean weight by policy."""
    fold.watch.touched = True
    found = scores(fold.changed()[WATCH])
    return {name: (score.units, score.mean_weight) for name, score in found.items()}


def test_each_policy_weighs_the_decisions_that_it_would_have_taken(contexts: ContextMap) -> None:
    """The MLP reads "inbox"; the fixed policy would always take claims; LinUCB served, and explored once."""
    fold = folded(
        contexts,
        *(logged(f"d{i}", "inbox") for i in range(3)),
        logged("d3", "claims", explored=True),
        *(reward(f"d{i}", 1.0) for i in range(4)),
    )
    assert units(fold) == {
        "linucb": (4, 1.5), "mlp": (4, 1.5), "fixed": (4, 0.5), SUPERVISED: (4, 1.5),
    }  # fmt: skip


def test_a_policy_beside_knows_what_was_rewarded_before_and_nothing_else(contexts: ContextMap) -> None:
    """In shadow the MLP serves; LinUCB beside it leaves an arm only after it has seen it fail."""
    served = [logged(f"d{i}", "inbox", policy="mlp", mode="shadow", propensity=1.0) for i in range(60)]
    fails: list[Event] = [event for one in served for event in (one, reward(one.id, 0.0))]
    learning = LearningConfig(discount=1.0, prior_weight=3.0)
    fold = folded(contexts, *fails, watching=WatchConfig(), learning=learning)
    weights = [row.watched.others["linucb"] for row in fold.rows.values() if row.watched]
    assert weights[0] == 1.0
    assert weights[-1] == 0.0
    rewards = (reward(one.id, 0.0) for one in served)
    late = folded(contexts, *served, *rewards, watching=WatchConfig(), learning=learning)
    assert {row.watched.others["linucb"] for row in late.rows.values() if row.watched} == {1.0}


def test_a_correction_replaces_and_a_withdrawal_takes_back(contexts: ContextMap) -> None:
    fold = folded(contexts, logged("d0", "inbox"), logged("d1", "inbox"), reward("d0", 1.0), reward("d1", 1.0))
    fold.apply(reward("d0", 0.0, previous=1.0), {})
    assert fold.watch.tallies["linucb"].score().value == pytest.approx(0.5)
    fold.apply(reward("d1", None, previous=1.0), {})
    assert fold.watch.tallies["linucb"].score()[:1] == (1,)
    assert fold.watch.guard.units == 2  # the guard has taken the first words


def test_what_is_withdrawn_and_said_again_is_no_second_unit(contexts: ContextMap) -> None:
    """So that nobody raises the guard's alarm by toggling one decision."""
    fold = folded(
        contexts, logged("d0", "inbox"), *[reward("d0", value) for value in (0.0, None) * 5], reward("d0", 0.5)
    )
    assert fold.watch.guard.units == 1
    assert (fold.watch.tallies["linucb"].score().units, fold.watch.tallies["linucb"].score().value) == (1, 0.5)


def test_an_episode_that_has_grown_since_its_reward_is_counted_anew(contexts: ContextMap) -> None:
    steps = [logged(f"d{i}", "inbox", episode="e") for i in range(3)]
    fold = folded(contexts, *steps[:2], reward("e", 0.0, "d0", "d1"), steps[2])
    for value in (0.0, 1.0):
        fold.apply(reward("e", value, "d0", "d1", "d2"), {})
        found = fold.watch.tallies["linucb"].score()
        assert (found.units, found.mean_weight, found.value) == (1, 8.0, value)
    assert fold.watch.guard.units == 1


def test_an_episode_is_one_unit(contexts: ContextMap) -> None:
    steps = [logged("d0", "inbox", episode="e"), logged("d1", "claims", episode="e", explored=True)]
    fold = folded(contexts, *steps, reward("e", 1.0, "d0", "d1"))
    assert fold.watch.tallies["linucb"].score().mean_weight == 0.0
    both = [logged("d0", "inbox", episode="e"), logged("d1", "inbox", episode="e")]
    assert folded(contexts, *both, reward("e", 1.0, "d0", "d1")).watch.tallies["linucb"].score()[:3] == (1, 1.0, 4.0)


def test_a_decision_without_a_choice_says_nothing(contexts: ContextMap) -> None:
    fold = folded(contexts, logged("d0", "inbox", eligible=["inbox"], propensity=1.0), reward("d0", 1.0))
    assert fold.watch.tallies == {}
    assert fold.watch.guard.units == 0


def bad_policy(n: int = 1500) -> Iterator[Event]:
    """LinUCB takes claims and fails; in one decision of twenty the supervised arm serves and succeeds."""
    rng = np.random.default_rng(0)
    for i in range(n):
        explores = bool(rng.random() < 0.05)
        arm, p = ("inbox", 0.05) if explores else ("claims", 0.95)
        yield logged(f"d{i}", arm, best="claims", explored=explores, propensity=p)
        yield reward(f"d{i}", float(explores))


GUARDED = WatchConfig(guard=GuardConfig(0.05, 0.0, weight=1 / 0.95, reference_weight=20))


def test_the_guard_finds_a_policy_that_is_worse_and_begins_anew_when_told_to(contexts: ContextMap) -> None:
    fold = folded(contexts, *bad_policy(), watching=GUARDED)
    found = guard_view(fold.changed()[WATCH])
    assert found
    assert found.alarm
    assert (found.units, found.differing) == (1500, 1500)
    fold.clear()
    fold.apply(GuardReset(time=9.0, by="operator"), {})
    assert guard_view(fold.changed()[WATCH]) == (0, 0, 0.0, None)


@pytest.mark.parametrize("changes", [{"mode": "shadow", "policy": "mlp"}, {"mode": "fallback", "policy": "mlp"}])
def test_the_guard_looks_at_the_policy_only(contexts: ContextMap, changes: dict[str, Any]) -> None:
    fold = folded(contexts, logged("d0", "inbox", **changes), reward("d0", 1.0))
    assert fold.watch.guard.units == 0


def test_batches_make_no_difference(contexts: ContextMap) -> None:
    """Every commit in between goes through bytes."""
    events, folding = list(bad_policy(120)), Folding(contexts, CONFIG, watching=GUARDED)
    whole = folded(contexts, *events, watching=GUARDED)
    blobs: dict[str, bytes] = {}
    for start in range(0, len(events), 7):
        fold, batch = folding.start(blobs), events[start : start + 7]
        for event in batch:
            fold.apply(event, _ledger(events, whole, event))
        blobs |= fold.changed()
    assert blobs[WATCH] == whole.changed()[WATCH]


def _ledger(events: list[Event], whole: Fold, event: Event) -> dict[str, Any]:
    """What the ledger holds of the decision that a reward names: the row before it."""
    if not isinstance(event, Feedback):
        return {}
    known = next(one for one in events if isinstance(one, Decision) and one.id == event.members[0])
    changes: dict[str, Any] = {"status": "pending", "rewards": {}, "counted": None}
    return {known.id: (known, whole.rows[known.id].model_copy(update=changes))}


def test_freezing_keeps_every_arm_as_it_was_at_that_event(contexts: ContextMap) -> None:
    before = folded(contexts, logged("d0", "inbox"), reward("d0", 1.0))
    kept = before.arms["inbox"].to_bytes()
    before.apply(ModeChanged(time=3.0, mode="frozen", by="operator"), {})
    before.apply(logged("d1", "inbox"), {})
    changed = before.changed()
    assert changed[FROZEN + "inbox"] == kept != changed["inbox"]
    before.clear()
    before.apply(ModeChanged(time=4.0, mode="online", by="operator"), {})
    assert before.changed() == {FROZEN + "inbox": b"", MODE: b"online"}


def test_another_promise_of_the_guard_does_not_forget_the_scores(contexts: ContextMap) -> None:
    fold = folded(contexts, logged("d0", "inbox"), reward("d0", 1.0))
    again = Watch(WatchConfig(guard=GuardConfig(delta=0.2)), contexts, CONFIG, fold.changed()[WATCH])
    assert again.tallies["linucb"].score() == fold.watch.tallies["linucb"].score()
    assert (again.guard.units, fold.watch.guard.units) == (0, 1)
