"""What the fold keeps of policies rather than of arms: how each would have done on the log, and the guard. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from cluster.events import Decision
from cluster.learner_store import Counted, Watched
from policies import Context, Policy, PolicyConfig, create
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from policies.guard import Guard, GuardConfig
from policies.posterior import Posterior
from policies.prior import LearningConfig, Prior
from policies.tally import Score, Tally

SUPERVISED = "supervised"


@dataclass(frozen=True)
class WatchConfig:
    """serving: the policy of modes online and frozen.  beside: policies that are scored whoever serves.  policy: what
    they are configured with; their own choices are scored, without exploration."""

    serving: str = "linucb"
    beside: tuple[str, ...] = ()
    policy: PolicyConfig = PolicyConfig()
    guard: GuardConfig = GuardConfig()


class Watch:
    """Weighs every decision under the watched policies as of its place in the log, and counts it once it is rewarded.

    A policy that did not serve is asked what it would have chosen, on what had been learned by then: never on rewards
    that came later. The unit is a decision by itself or an episode that is rewarded as a whole; in an episode a policy
    beside chooses step by step, without the margin.
    """

    def __init__(
        self, config: WatchConfig, contexts: ContextMap, learning: LearningConfig, stored: bytes | None = None
    ) -> None:
        self._config = config
        self._posterior = Posterior(Prior(contexts.statistics, learning))
        greedy = replace(config.policy, epsilon_supervised=0.0, epsilon_uniform=0.0)
        names = dict.fromkeys([config.serving, *config.beside])
        self._policies: dict[str, Policy] = {
            name: create(name, self._posterior, greedy, contexts.supervision) for name in names
        }
        state = json.loads(stored) if stored else {"tallies": {}, "guard": None}
        self.tallies = {name: Tally.from_json(text) for name, text in state["tallies"].items()}
        self.guard = Guard.from_json(state["guard"], config.guard) if state["guard"] else Guard(config.guard)
        self._stale: set[str] = set()
        self.touched = False

    def change(self, arm: str) -> None:
        """The arm's statistics are about to change: look at them again before the next choice."""
        self._stale.add(arm)

    def weigh(self, decision: Decision, context: Context, arms: Mapping[str, ArmStatistics]) -> Watched | None:
        """The decision's weights under the watched policies, given the arms before it; None where it had no choice."""
        if len(decision.eligible) < 2 or not decision.best:
            return None
        beside = set(self._config.beside) | {self._config.serving}
        others = {name: self._choice(name, decision, context, arms) for name in sorted(beside - {decision.policy})}

        def weight(arm: str) -> float:
            return (arm == decision.arm) / decision.propensity

        return Watched(
            own=weight(decision.best),
            reference=weight(decision.supervised),
            same=decision.best == decision.supervised,
            guarded=decision.mode in ("online", "frozen") and decision.policy == self._config.serving,
            policy=decision.policy,
            others={name: weight(arm) for name, arm in others.items()},
        )

    def count(self, unit: Sequence[Watched], before: Counted | None, reward: float | None) -> Counted | None:
        """Count a unit with its reward in place of what was counted `before`, when it may have had fewer steps.

        The guard takes a unit's first reward only, whatever is withdrawn and said again.
        """
        if not unit or (before is None and reward is None):
            return before
        after = Counted(reward=reward, weights=_weights(unit))
        if before == after:
            return after
        self.touched = True
        if before:
            self._add(before, -1)
        self._add(after, 1)
        if before is None and reward is not None and all(step.guarded for step in unit):
            own, reference = prod(step.own for step in unit), prod(step.reference for step in unit)
            self.guard.observe(own, reference, reward, same=all(step.same for step in unit))
        return after

    def _add(self, counted: Counted, times: int) -> None:
        if counted.reward is not None:
            for name, weight in counted.weights.items():
                self.tallies.setdefault(name, Tally()).add(weight, counted.reward, times)

    def reset_guard(self) -> None:
        """Begin anew."""
        self.touched, self.guard = True, Guard(self._config.guard)

    def to_bytes(self) -> bytes:
        """Exact serialisation."""
        tallies = {name: self.tallies[name].to_json() for name in sorted(self.tallies)}
        return json.dumps({"tallies": tallies, "guard": self.guard.to_json()}).encode()

    def _choice(self, name: str, decision: Decision, context: Context, arms: Mapping[str, ArmStatistics]) -> str:
        self._refresh(decision.eligible, arms)
        costs = dict(zip(decision.eligible, decision.costs, strict=True)) if decision.costs else {}
        # The seed differs from the one that the service drew with, so that a policy that draws does so independently.
        seed = f"beside {decision.id}"
        return (
            self._policies[name]
            .decide(self._posterior.named(context), eligible=decision.eligible, costs=costs, seed=seed)
            .arm
        )

    def _refresh(self, eligible: Iterable[str], arms: Mapping[str, ArmStatistics]) -> None:
        known = set(self._posterior.arms)
        for arm in sorted(set(eligible) - known | self._stale & known):
            empty = ArmStatistics.empty(self._posterior.dimension, 1.0)
            self._posterior.put(arm, arms.get(arm, empty))
        self._stale -= known | set(eligible)


class GuardView(NamedTuple):
    """The guard as others see it: its evidence is 1 at the alarm, which was raised at unit number `alarm`."""

    units: int
    differing: int
    evidence: float
    alarm: int | None


def guard_view(stored: bytes | None) -> GuardView | None:
    """What the stored state says of the guard."""
    text = json.loads(stored)["guard"] if stored else None
    if text is None:
        return None
    guard = Guard.from_json(text, GuardConfig(**json.loads(text)["config"]))
    return GuardView(guard.units, guard.differing, guard.evidence, guard.alarm)


def scores(stored: bytes | None) -> dict[str, Score]:
    """What the stored state says of each policy."""
    tallies = json.loads(stored)["tallies"] if stored else {}
    return {name: Tally.from_json(text).score() for name, text in tallies.items()}


def _weights(unit: Sequence[Watched]) -> dict[str, float]:
    """The unit's weight under each policy that every one of its decisions was weighed under."""
    steps = [{**step.others, step.policy: step.own, SUPERVISED: step.reference} for step in unit]
    names = set.intersection(*(set(step) for step in steps))
    return {name: prod(step[name] for step in steps) for name in sorted(names)}
