"""Decisions under concurrency, late rewards and snapshots that lag: taken again from the log, each is the same."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from cluster.connection import Entry
from cluster.events import Decision, Event
from policies import Policy, create
from policies.context import ContextMap
from policies.posterior import Posterior
from policies.prior import Prior
from services.configuration import learning_config, policy_config
from services.insight.replay import Replay, Replayed
from services.learning.fold import Fold
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES
from tests.services.routing.test_modes import alarm
from tests.services.world import World

ROUNDS, AT_ONCE = 12, 8
EXPLORING = {"epsilon_supervised": 0.2, "epsilon_uniform": 0.3, "refresh_s": 0.05}


@pytest.fixture
async def lived(make_world: MakeWorld) -> World:
    """A world after bursts of requests, some of them steps of episodes, with rewards of the burst before."""
    world: World = await make_world(router=EXPLORING, learner={"discount": 0.9})
    chance = random.Random(3)
    unsaid: list[str] = []
    for number in range(ROUNDS):
        asked = [
            world.ask(f"open the {chance.choice(FAMILIES)} {number}.{i}", episode=f"e{i}" if i < 2 else "")
            for i in range(AT_ONCE)
        ]
        answers = [answer["id"] for answer in await asyncio.gather(*asked)]
        if unsaid:
            await world.say(*[{"decision_id": id_, "reward": chance.random()} for id_ in unsaid])
        unsaid = answers
        if number % 3 == 1:
            await world.learner.step()  # the Router takes it over in the middle of the next burst, or later
        elif number % 3:
            await world.fold()
    await world.settle()
    return world


def replayed(entries: Sequence[Entry], world: World, contexts: ContextMap, policy: str = "linucb") -> list[Replayed]:
    learning = learning_config(world.settings)
    config = policy_config(world.settings)
    made: Policy = create(policy, Posterior(Prior(contexts.statistics, learning)), config, contexts.supervision)
    fold = Fold(contexts, learning, {})
    return list(Replay(entries, contexts, fold, made))


async def test_every_decision_is_taken_again(lived: World, contexts: ContextMap) -> None:
    entries = await lived.store.event_range()
    again = replayed(entries, lived, contexts)
    assert len(again) == ROUNDS * AT_ONCE
    assert all(one.same for one in again)
    for one in again:
        logged = {scored.arm: (scored.mean, scored.width) for scored in one.decision.scored}
        scored = dict(zip(one.choice.arms, zip(one.choice.means, one.choice.widths, strict=True), strict=True))
        for arm, numbers in logged.items():
            assert scored[arm] == pytest.approx(numbers, rel=1e-9, abs=1e-12)


async def test_the_log_was_worth_replaying(lived: World) -> None:
    """Choices differ, snapshots lag behind, own decisions are overlaid, episodes go on."""
    decisions = [event for _, event in await lived.store.event_range() if isinstance(event, Decision)]
    bases = [decision.basis for decision in decisions if decision.basis]
    assert len({decision.arm for decision in decisions}) > 1
    assert any(decision.explored for decision in decisions)
    assert len({basis.position for basis in bases}) > 3
    assert max(basis.pending for basis in bases) > AT_ONCE
    assert max(decision.step.number for decision in decisions if decision.step) == ROUNDS


async def test_another_policy_or_a_lost_reward_shows(lived: World, contexts: ContextMap) -> None:
    entries = await lived.store.event_range()
    assert not all(one.same for one in replayed(entries, lived, contexts, "lints"))
    silent = [(at, event) for at, event in entries if event.type != "feedback"]
    again = replayed(silent, lived, contexts)
    assert any(
        abs(dict(zip(one.choice.arms, one.choice.means, strict=True))[scored.arm] - scored.mean) > 1e-3
        for one in again
        for scored in one.decision.scored
    )


async def test_settings_tuned_meanwhile_are_replayed_from_the_log(world: World, contexts: ContextMap) -> None:
    for alpha in (0.0, 3.0, 0.5):
        world.router.tune(world.settings.tuned({"router": {"alpha": alpha}}))
        for number in range(6):
            answer = await world.ask(f"open the {FAMILIES[number % len(FAMILIES)]} {number}")
            await world.say({"decision_id": answer["id"], "reward": float(number % 2)})
        await world.settle()
    entries = await world.store.event_range()
    again = replayed(entries, world, contexts)
    assert {one.decision.tuning["alpha"] for one in again} == {0.0, 3.0, 0.5}
    assert all(one.same for one in again)
    scored = [(one, score) for one in again for score in one.decision.scored if score.width > 0]
    assert all(
        dict(zip(one.choice.arms, one.choice.scores, strict=True))[score.arm] == pytest.approx(score.score)
        for one, score in scored
    )


async def test_many_own_decisions_are_counted_and_only_the_latest_named(world: World, contexts: ContextMap) -> None:
    """While the Learner is away a Router overlays all that it decides, but does not name all of it again and again."""
    for number in range(70):
        await world.ask(f"open the inbox {number}")
    entries = await world.store.event_range()
    last = [event for _, event in entries if isinstance(event, Decision)][-1].basis
    assert last is not None
    assert (last.pending, len(last.latest)) == (69, 64)
    again = replayed(entries, world, contexts)
    assert len(again) == 70
    assert all(one.same for one in again)


@pytest.fixture
async def switched(make_world: MakeWorld) -> World:
    """A world in which operators change modes, the guard raises its alarm, and of each decision one arm is logged."""
    exploring = {**EXPLORING, "epsilon_supervised": 0.05, "top_arms": 1, "cost_per_ms": 0.05}
    world: World = await make_world(router=exploring, learner={"discount": 0.9}, guard={"delta": 0.05})
    world.leave_resident("claims")
    chance = random.Random(5)
    for number, mode in enumerate(("online", "frozen", "online", "frozen", "shadow", "frozen", "online", "online")):
        await world.post("/v1/mode", {"mode": mode})
        world.leave_resident("claims")  # what is asked for is resident soon again
        if number == 1:
            await alarm(world)
        for burst in range(3):
            asked = [world.ask(f"open the {chance.choice(FAMILIES)} {number}.{burst}.{i}") for i in range(4)]
            answers = await asyncio.gather(*asked)
            await world.say(*[{"decision_id": answer["id"], "reward": chance.random() / 2} for answer in answers])
            if burst:  # the first burst comes before the change is folded
                await world.fold()
        if number == 2:
            await world.post("/v1/guard/reset", {})
        if number == 3:
            await world.post("/v1/bandit/arms/claims/rename", {"to": "insurance"})
    await world.settle()
    return world


async def test_changes_of_mode_and_the_guards_fallback_are_replayed_from_the_log(
    switched: World, contexts: ContextMap
) -> None:
    entries = await switched.store.event_range()
    again = replayed(entries, switched, contexts)
    modes = {(one.decision.mode, one.decision.basis and one.decision.basis.frozen) for one in again}
    assert modes >= {("online", False), ("frozen", True), ("shadow", False), ("fallback", False), ("fallback", True)}
    assert [one.decision.id for one in again if not one.same] == []
    assert len(again) == 8 * 3 * 4
    for one in again:
        (logged,) = one.decision.scored
        at = one.choice.arms.index(logged.arm)
        assert (logged.mean, logged.width, logged.cost_ms) == pytest.approx(
            (one.choice.means[at], one.choice.widths[at], one.choice.costs[at]), rel=1e-9
        )
    silent = [(at, event) for at, event in entries if event.type != "mode_changed"]
    assert not all(one.same for one in replayed(silent, switched, contexts))
    free = [(at, costless(event)) for at, event in entries]
    assert not all(one.same for one in replayed(free, switched, contexts))


def costless(event: Event) -> Event:
    return event.model_copy(update={"costs": [0.0] * len(event.costs)}) if isinstance(event, Decision) else event
