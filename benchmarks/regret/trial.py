"""One stretch of requests with the outcome of every arm: what all learners live through alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from policies.checks import Array, Mask
from policies.prior import SupervisedStatistics

Steps = npt.NDArray[np.int64]


class Labelled(NamedTuple):
    """Examples from before the first request: contexts X [m,d] and the index of the arm that is right for each."""

    X: Array
    labels: Steps


@dataclass(frozen=True, eq=False)
class Trial:
    """n requests over K arms.

    success [n,K]: what an arm would really earn.  observed [n,K]: the reward that would be posted for it.  oracle [n]:
    what the arm earns that is best for the request's `family` [n] at this time.  known [n]: whether the supervised
    router was trained on such requests.  episode [n]: contiguous numbers; an episode's reward is the mean over its
    steps, and comes `delay` decisions after its last one.  source [n]: the client who posts it.  arrives [K]: the step
    at which an arm appears.  releases: by step, arms whose new version is announced.  changes: steps at which the best
    arm for some requests becomes another.
    """

    seed: int
    arms: tuple[str, ...]
    X: Array
    G: Array
    mlp_arms: tuple[str, ...]
    success: Array
    observed: Array
    oracle: Array
    family: Steps
    known: Mask
    prior: SupervisedStatistics
    labelled: Labelled
    episode: Steps
    source: Steps
    arrives: Steps
    delay: int = 0
    releases: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    changes: tuple[int, ...] = ()

    @property
    def n(self) -> int:
        """Requests."""
        return len(self.X)

    @cached_property
    def gates(self) -> list[dict[str, float]]:
        """The supervised gates of each request by arm."""
        return [dict(zip(self.mlp_arms, row, strict=True)) for row in self.G.tolist()]

    def begins(self, step: int) -> bool:
        """Whether the step is the first of its episode."""
        return step == 0 or bool(self.episode[step] != self.episode[step - 1])

    @cached_property
    def due(self) -> dict[int, tuple[int, int]]:
        """By the number of decisions taken: the steps [first, last) of the episode whose reward comes then."""
        ends = np.flatnonzero(np.append(self.episode[1:] != self.episode[:-1], True)) + 1
        starts = np.concatenate([[0], ends[:-1]])
        return {int(end) + self.delay: (int(start), int(end)) for start, end in zip(starts, ends, strict=True)}
