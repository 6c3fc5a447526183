"""What an operator sees: arms, decisions, episodes, adapters, as JSON-ready models."""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel

from cluster.events import Cancellation, Completion, Decision
from cluster.learner_store import LedgerRow
from cluster.store import Observation, StoredDecision
from policies.checks import Array
from policies.evidence import ArmStatistics
from services.adapters.shelf import Adapter
from services.insight import answers
from services.insight.answers import Answers
from services.learning.watch import scores
from services.routing.decider import Decider
from services.routing.router import Router

_RECENT = 256
_Z95 = 1.959963984540054


class Drift(BaseModel):
    """An alarm of the residual test: the reward of the arm's decision `tick` raised it, at `time` (unix s)."""

    tick: int
    time: float
    worse: bool  # the arm earned less than was believed
    restored: bool  # the prior explains the arm again
    kappa: float  # the prior's trust from then on


class ArmView(BaseModel):
    """What is known of one arm. Means and widths are averages over the contexts of recent decisions.

    `served_mean` and `served_width` are over those alone that the arm served.
    """

    arm: str
    pulls: int
    pending: int
    matured: int
    reward_mean: float | None
    reward_interval: tuple[float, float] | None  # 95%, Wilson
    posterior_mean: float | None
    posterior_width: float | None
    served_mean: float | None
    served_width: float | None
    prior_trust: float  # κ
    drifts: list[Drift]  # alarms of the residual test, oldest first
    adapter_hash: str | None
    updated: float | None  # unix seconds of the last event
    resident: bool
    state: str  # active, or frozen: routed to no more
    answers: Answers  # of decisions whose waiting is over


class PolicyView(BaseModel):
    """What the log says that a policy's own choices earn: SNIPS over all its units, with a 95% interval.

    `effective` is how many equally weighted units they are worth, `mean_weight` is 1 but for chance. "supervised" is
    the supervised router's choice, whatever policy serves.
    """

    policy: str
    units: int
    effective: float
    mean_weight: float
    value: float | None
    low: float | None
    high: float | None


class GuardView(BaseModel):
    """Whether the policy has been found worse than the supervised one: evidence reaches 1 at the alarm.

    `differing` of the `units` are those in which both would choose differently; `alarm` is the unit that raised it.
    """

    units: int
    differing: int
    evidence: float
    alarm: int | None


class BanditView(BaseModel):
    """The state of the learner as this Router knows it."""

    policy: str
    policy_version: int
    mode: str  # online, shadow, frozen, or fallback: the supervised policy serves since the guard's alarm
    router: str
    contexts: int  # recent decisions that the posterior is averaged over
    learner_age_s: float | None  # seconds since the Learner's last sign of life
    behind_events: int  # events that these beliefs do not hold yet
    behind_s: float  # age of the oldest of them in seconds, 0 when nothing waits
    warnings: list[str]  # where feedback depends on the arm or the reward
    guard: GuardView | None
    policies: list[PolicyView]
    arms: list[ArmView]


class DecisionView(BaseModel):
    """A logged decision and what became of it."""

    decision: Decision
    completion: Completion | None
    cancellation: Cancellation | None
    observations: dict[str, Observation]
    ledger: LedgerRow | None

    @classmethod
    def of(cls, stored: StoredDecision) -> "DecisionView":
        """The view of a stored decision; raw features stay in the store."""
        return cls(
            decision=stored.decision,
            completion=stored.completion,
            cancellation=stored.cancellation,
            observations=stored.observations,
            ledger=stored.ledger,
        )


class AdapterView(BaseModel):
    """One adapter; `suspended` says why it cannot serve now, null if it can."""

    name: str
    fingerprint: str
    rank: int
    targets: tuple[str, ...]
    bytes: int
    source: str  # a directory, or a Hugging Face repository as owner/name@commit
    description: str
    tags: tuple[str, ...]
    coordinates: str
    pinned: bool  # it stays on every device
    suspended: str | None

    @classmethod
    def of(cls, adapter: Adapter, suspended: str | None = None) -> "AdapterView":
        """The view of a registered adapter."""
        return cls(
            name=adapter.name,
            fingerprint=adapter.fingerprint,
            rank=adapter.rank,
            targets=adapter.targets,
            bytes=adapter.size,
            source=adapter.source,
            description=adapter.description,
            tags=adapter.tags,
            coordinates=adapter.coordinates,
            pinned=adapter.pinned,
            suspended=suspended,
        )


async def bandit(router: Router, recent: Sequence[StoredDecision] | None = None) -> BanditView:
    """Everything about the bandit; averages are over `recent`, by default the latest decisions in the store."""
    recent = await router.store.decisions(_RECENT) if recent is None else recent
    decider = router.decider
    state, behind = await router.store.learner_state(), await decider.snapshots.behind()
    resident = set(recent[0].decision.resident) if recent else set(router.arms.registry.paths)
    posterior = decider.snapshots.posterior
    X, served = _contexts(decider, recent)
    means, widths = posterior.means(X), posterior.widths(X)
    views = [
        _arm(
            arm,
            posterior.statistics(arm),
            _average(means[:, row], widths[:, row]),
            _average(means[served == arm, row], widths[served == arm, row]),
            resident=set(router.arms.may_turn_on(arm)) <= resident,
            state=router.arms[arm].state,
        )
        for row, arm in enumerate(posterior.arms)
    ]
    return BanditView(
        policy=decider.policy.name,
        policy_version=decider.snapshots.version,
        mode=decider.modes.mode,
        router=decider.contexts.fingerprint,
        contexts=len(X),
        learner_age_s=max(0.0, time.time() - state.alive) if state.alive else None,
        behind_events=behind.events,
        behind_s=behind.age_s,
        warnings=answers.warnings({arm: posterior.statistics(arm) for arm in posterior.arms}),
        guard=guard(decider),
        policies=[
            PolicyView(policy=name, **score._asdict()) for name, score in scores(decider.snapshots.watched).items()
        ],
        arms=views,
    )


def guard(decider: Decider) -> GuardView | None:
    """What the guard has found, as of the last snapshot."""
    found = decider.snapshots.guard
    return GuardView(**found._asdict()) if found else None


class _Average(NamedTuple):
    mean: float | None = None
    width: float | None = None


def _average(means: Array, widths: Array) -> _Average:
    return _Average(float(means.mean()), float(widths.mean())) if len(means) else _Average()


def _contexts(decider: Decider, recent: Sequence[StoredDecision]) -> tuple[Array, np.ndarray[Any, np.dtype[np.str_]]]:
    """Contexts [n,d] of decisions, and the names of now of the arms that served them."""
    size = 2 * decider.contexts.input_dimension
    decisions = [stored.decision for stored in recent if len(stored.decision.features) == size]
    served = np.array([decider.arms.current(decision.arm) for decision in decisions], dtype=np.str_)
    features = [np.frombuffer(decision.features, np.float16) for decision in decisions]
    X = decider.contexts.map_batch(np.stack(features))[0] if features else np.zeros((0, decider.contexts.dimension))
    return X, served


def _arm(arm: str, known: ArmStatistics, recent: _Average, served: _Average, *, resident: bool, state: str) -> ArmView:
    return ArmView(
        arm=arm,
        pulls=known.pulls,
        pending=known.pending,
        matured=known.matured,
        reward_mean=known.reward_sum / known.matured if known.matured else None,
        reward_interval=wilson(known.reward_sum, known.matured) if known.matured else None,
        posterior_mean=recent.mean,
        posterior_width=recent.width,
        served_mean=served.mean,
        served_width=served.width,
        prior_trust=known.kappa,
        drifts=[Drift(**alarm._asdict()) for alarm in known.alarms],
        adapter_hash=known.adapter_hash,
        updated=known.updated or None,
        resident=resident,
        state=state,
        answers=answers.answers(known),
    )


def wilson(total: float, n: int) -> tuple[float, float]:
    """95% interval of a mean of n rewards in [0, 1] that sum to `total` (Wilson 1927; conservative for non-binary)."""
    mean, z2 = total / n, _Z95**2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * math.sqrt(max(0.0, mean * (1 - mean)) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
