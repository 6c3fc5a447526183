"""The contract of every policy, and the registry that finds one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from policies import checks, mixing
from policies.beliefs import believe
from policies.checks import Array, Mask, Rows
from policies.config import PolicyConfig
from policies.episodes import Branch, Course, Step, proceed
from policies.request import Choice, Context, Request, Scored
from policies.supervision import Supervision

if TYPE_CHECKING:
    from policies.posterior import Posterior

__all__ = ["Array", "Choice", "Context", "Policy", "PolicyConfig", "Request", "Scored", "create", "register"]


class Policy(ABC):
    """Ranks the arms by `score` and draws from a mixture around its own choice, so every decision can be evaluated.

    A policy reads the posterior and its supervision, and deciding changes neither: any policy can run beside another.
    """

    name: ClassVar[str]
    optimistic: ClassVar[bool] = False
    """Whether scores add α·width. In an episode only the first step goes by them: its steps are pending together, so
    the width of the arm that serves shrinks, and a change of arms would blur what the one reward is for."""
    draws: int = 0
    """Draws that the target is estimated from; 0: it is exact."""

    def __init__(self, posterior: Posterior, config: PolicyConfig, supervision: Supervision | None = None) -> None:
        self.posterior = posterior
        self.config = config
        self.supervision = supervision or Supervision()

    def decide(
        self,
        context: Context,
        *,
        eligible: Sequence[str],
        costs: Mapping[str, float],
        seed: str,
        course: Course | None = None,
    ) -> Choice:
        """Choose among `eligible`; `costs` are in ms, 0 where missing; `seed` is the episode's or decision's id.

        `course` is that of the last choice of the episode; none for its first step and for a decision by itself.
        The same seed and inputs give the same choice. ValueError: no eligible arm, one named twice, an unknown
        one, an x that is not finite or not [d], a cost that is not finite.
        """
        return self.decide_batch([context], eligible=eligible, costs=costs, seeds=[seed], courses=[course])[0]

    def decide_batch(
        self,
        contexts: Sequence[Context],
        *,
        eligible: Sequence[str],
        costs: Mapping[str, float],
        seeds: Sequence[str],
        courses: Sequence[Course | None] | None = None,
    ) -> list[Choice]:
        """A choice for each context, as `decide` would make it, scored together."""
        if not contexts:
            return []
        request, scores = self._scored(contexts, eligible, costs)
        best = scores.argmax(axis=1)
        target, supervised = self.target(request, scores), _supervised(request, best)
        lasting = request.beliefs.means - request.penalties if self.optimistic else scores
        candidates = self._candidates(request)
        choices = []
        for i, (seed, course) in enumerate(zip(seeds, courses or [None] * len(seeds), strict=True)):
            reasons = (request.arms, scores[i], lasting[i], target[i], candidates[i])
            scored = Scored(*reasons, int(best[i]), int(supervised[i]), seed)
            choices.append(self._choice(self._step(scored, course), scored, request, i))
        return choices

    def distribution(
        self, contexts: Sequence[Context], *, eligible: Sequence[str], costs: Mapping[str, float]
    ) -> Array:
        """p(a|x) [B,K] of decisions by themselves, over the eligible arms: what their propensities are read from."""
        request, scores = self._scored(contexts, eligible, costs)
        supervised = _supervised(request, scores.argmax(axis=1))
        return mixing.distribution(self.target(request, scores), supervised, self._candidates(request), self.config)

    def predict_expectations(
        self, contexts: Sequence[Context], *, eligible: Sequence[str], costs: Mapping[str, float]
    ) -> Array:
        """Scores [B,K] of the eligible arms, what the policy ranks by (MABWiser's name for it)."""
        return self._scored(contexts, eligible, costs)[1]

    @abstractmethod
    def score(self, request: Request) -> Array:
        """Scores [B,K], in reward where the policy has such a notion; the largest is the policy's best arm."""

    def target(self, request: Request, scores: Array) -> Array:
        """The policy's own distribution [B,K] before the mixing: all of it on the best score."""
        return mixing.certain(scores.argmax(axis=1), len(request.arms))

    def favourite(self, scored: Scored) -> int:
        """The position that the policy draws from its target, decided by the seed alone."""
        return scored.best

    def ways(self, scored: Scored, course: Course) -> dict[Branch, int]:
        """Where each branch of an episode's coin leads next, with certainty."""
        best = scored.sticky(course.arm, self.config.episode_margin)
        return {"best": best, "supervised": scored.supervised, "kept": scored.at(course.kept, best)}

    def _scored(
        self, contexts: Sequence[Context], eligible: Sequence[str], costs: Mapping[str, float]
    ) -> tuple[Request, Array]:
        request = self._request(contexts, tuple(eligible), costs)
        return request, self.score(request)

    def _step(self, scored: Scored, course: Course | None) -> Step:
        if course is None:
            return mixing.pick(scored, self.favourite(scored), self.config)
        return proceed(scored.arms, self.ways(scored, course), course)

    def _choice(self, step: Step, scored: Scored, request: Request, i: int) -> Choice:
        beliefs, arms = request.beliefs, request.arms
        return Choice(
            arms[step.position],
            step.propensity,
            step.explored,
            arms[scored.supervised],
            arms,
            beliefs.means[i],
            beliefs.widths[i],
            request.waits,
            scored.scores,
            step.course,
            self._error(float(scored.target[step.position])),
            bool(beliefs.proven[i]),
        )

    def _error(self, target: float) -> float:
        own = 1 - self.config.epsilon_supervised - self.config.epsilon_uniform
        return own * (target * (1 - target) / self.draws) ** 0.5 if self.draws else 0.0

    def _candidates(self, request: Request) -> Mask:
        plausible = mixing.plausible(request.beliefs.optimism, self.config.alpha * request.beliefs.widths)
        new: Mask = self.posterior.burning_in(self.config.burn_in)[request.rows]
        return plausible | new

    def _request(self, contexts: Sequence[Context], arms: tuple[str, ...], costs: Mapping[str, float]) -> Request:
        if not arms or len(set(arms)) < len(arms):
            raise ValueError(f"eligible is {list(arms)}, expected at least one arm and each once")
        rows = self.posterior.rows(arms)
        X = np.stack([checks.array("x", context.x, (self.posterior.dimension,)) for context in contexts])
        gates = np.stack([_looked_up(context.gates, arms, np.nan) for context in contexts])
        waits = _looked_up(costs, arms, 0.0)
        for k in np.flatnonzero(~np.isfinite(waits)).tolist():
            checks.number(f"cost of {arms[k]!r}", float(waits[k]))
        penalties = self.config.cost_per_ms * waits
        beliefs = believe(self.posterior, X, rows, penalties, self.config)
        return Request(arms, rows, X, gates, waits, penalties, tuple(context.task for context in contexts), beliefs)


def _looked_up(values: Mapping[str, float], arms: tuple[str, ...], otherwise: float) -> Array:
    return np.fromiter(map(values.get, arms, repeat(otherwise)), np.float64, len(arms))


def _supervised(request: Request, best: Rows) -> Rows:
    """[B]: the eligible arm with the largest gate, or the best one where the MLP knows none."""
    known = ~np.isnan(request.gates)
    largest = np.where(known, request.gates, -np.inf).argmax(axis=1)
    return np.where(known.any(axis=1), largest, best)


P = TypeVar("P", bound=Policy)
_registry: dict[str, type[Policy]] = {}


def register(policy: type[P]) -> type[P]:
    """Class decorator: make a policy available to `create` under its name. ValueError: the name is taken."""
    if policy.name in _registry:
        raise ValueError(f"policy name is {policy.name!r}, expected none of {sorted(_registry)}")
    _registry[policy.name] = policy
    return policy


def create(name: str, posterior: Posterior, config: PolicyConfig, supervision: Supervision | None = None) -> Policy:
    """The policy registered under `name`. ValueError: an unknown name, or supervision that lacks what it needs."""
    if name not in _registry:
        raise ValueError(f"policy is {name!r}, expected one of {sorted(_registry)}")
    return _registry[name](posterior, config, supervision)
