"""The contract of every policy, and the registry that finds one by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeVar

import numpy as np

from policies import checks
from policies.checks import Array, Rows
from policies.episodes import Branch, Course, Step, proceed

if TYPE_CHECKING:
    from policies.posterior import Posterior

__all__ = ["Array", "Choice", "Context", "Policy", "PolicyConfig", "Request", "Scored", "create", "register"]


class Context(NamedTuple):
    """What a policy sees of a request: x [d], and the supervised gate of every arm that the MLP knows."""

    x: Array
    gates: dict[str, float]


class Choice(NamedTuple):
    """A decision with its reasons. The arrays [K] align with `arms`, the eligible arms in order; costs are in ms.

    `propensity` is p(a|x) in (0, 1], given the earlier steps of an episode; `explored` tells that chance led away from
    the best arm; `supervised` is the eligible arm with the largest gate, or the best arm where the MLP knows none of
    them; `course` is the episode after this step.
    """

    arm: str
    propensity: float
    explored: bool
    supervised: str
    arms: tuple[str, ...]
    means: Array
    widths: Array
    costs: Array
    scores: Array
    course: Course


class Request(NamedTuple):
    """A request that passed the checks: the eligible arms, their rows in the posterior, x [d] and the gates."""

    arms: tuple[str, ...]
    rows: Rows
    x: Array
    gates: Mapping[str, float]


class Scored(NamedTuple):
    """What a pick goes by: scores [K] of the arms, the bonuses α·width [K] in them, the best and supervised index."""

    arms: tuple[str, ...]
    rows: Rows
    scores: Array
    bonuses: Array
    best: int
    supervised: int
    seed: str

    def sticky(self, arm: str, margin: float) -> int:
        """Position of `arm`, unless it is not eligible or the best one's score is more than `margin` above its own."""
        if arm not in self.arms:
            return self.best
        position = self.arms.index(arm)
        return self.best if self.scores[self.best] - self.scores[position] > margin else position

    def at(self, arm: str, otherwise: int) -> int:
        """Position of `arm`; `otherwise` if it is not eligible."""
        return self.arms.index(arm) if arm in self.arms else otherwise


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of the decision, shared by all policies so that one can be swapped for another.

    alpha: widths added to a mean.  epsilon_*: shares of decisions that follow the supervised arm, or spread over the
    plausible arms.  cost_per_ms: reward that a millisecond of waiting is worth.  burn_in: pulls during which an arm
    without labelled examples counts as plausible.  fixed_arm: what the policy "fixed" serves.  episode_margin: gain in
    score above which an episode goes on with another arm.
    """

    alpha: float = 0.2
    epsilon_supervised: float = 0.02
    epsilon_uniform: float = 0.03
    cost_per_ms: float = 0.0001
    burn_in: int = 20
    fixed_arm: str = "base"
    episode_margin: float = 0.05

    def __post_init__(self) -> None:
        for name in ("alpha", "epsilon_supervised", "epsilon_uniform", "cost_per_ms", "burn_in", "episode_margin"):
            checks.number(name, getattr(self, name), 0)
        total = self.epsilon_supervised + self.epsilon_uniform
        if total >= 1:
            raise ValueError(f"epsilon_supervised + epsilon_uniform is {total}, expected less than 1")


class Policy(ABC):
    """Chooses an arm by score = mean + α·width − c·cost. It reads the posterior and never changes it."""

    name: ClassVar[str]

    def __init__(self, posterior: Posterior, config: PolicyConfig) -> None:
        self.posterior = posterior
        self.config = config

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
        request = self._request(context, eligible)
        waits = np.array([checks.number(f"cost of {arm!r}", costs.get(arm, 0.0)) for arm in request.arms])
        means, widths = self.estimate(request)
        bonuses = self.config.alpha * widths
        scores = means + bonuses - self.config.cost_per_ms * waits
        best = int(np.argmax(scores))
        supervised = _supervised(request, best)
        scored = Scored(request.arms, request.rows, scores, bonuses, best, supervised, seed)
        step = self.pick(scored) if course is None else proceed(scored.arms, self.ways(scored, course), course)
        arm, label = request.arms[step.position], request.arms[supervised]
        reasons = (request.arms, means, widths, waits, scores)
        return Choice(arm, step.propensity, step.explored, label, *reasons, step.course)

    @abstractmethod
    def estimate(self, request: Request) -> tuple[Array, Array]:
        """Means [K] and widths [K] of the request's arms."""

    @abstractmethod
    def pick(self, scored: Scored) -> Step:
        """Choose one of the scored arms, as the first step of an episode or for a decision by itself."""

    def ways(self, scored: Scored, course: Course) -> dict[Branch, int]:
        """Where each branch of an episode's coin leads next, with certainty."""
        best = scored.sticky(course.arm, self.config.episode_margin)
        return {"best": best, "supervised": scored.supervised, "kept": scored.at(course.kept, best)}

    def _request(self, context: Context, eligible: Sequence[str]) -> Request:
        if not eligible or len(set(eligible)) < len(eligible):
            raise ValueError(f"eligible is {list(eligible)}, expected at least one arm and each once")
        x = checks.array("x", context.x, (self.posterior.dimension,))
        return Request(tuple(eligible), self.posterior.rows(eligible), x, context.gates)


def _supervised(request: Request, best: int) -> int:
    known = [index for index, arm in enumerate(request.arms) if arm in request.gates]
    return max(known, key=lambda index: request.gates[request.arms[index]], default=best)


P = TypeVar("P", bound=Policy)
_registry: dict[str, type[Policy]] = {}


def register(policy: type[P]) -> type[P]:
    """Class decorator: make a policy available to `create` under its name. ValueError: the name is taken."""
    if policy.name in _registry:
        raise ValueError(f"policy name is {policy.name!r}, expected none of {sorted(_registry)}")
    _registry[policy.name] = policy
    return policy


def create(name: str, posterior: Posterior, config: PolicyConfig) -> Policy:
    """The policy registered under `name`. ValueError: an unknown name."""
    if name not in _registry:
        raise ValueError(f"policy is {name!r}, expected one of {sorted(_registry)}")
    return _registry[name](posterior, config)
