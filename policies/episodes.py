"""What an episode's earlier steps say about the next: a coin tossed once, an arm to stay with, an exact probability.

Given the arms so far, each way that the coin may have fallen leads to one certain arm. So a step's propensity is the
share of the ways still possible that lead to its arm, and the product over the steps is the trajectory's probability.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Branch = Literal["best", "supervised", "kept"]
"""How the coin may fall: the best arm (with the margin), the supervised arm, or one arm kept for the whole episode."""


@dataclass(frozen=True)
class Course:
    """An episode after its step number `steps`.

    arm: what served last.  kept: what served first, and what the branch "kept" stays with while it is eligible.
    branch: how the coin fell.  masses: for each branch that would have led to the same arms so far, its probability.
    """

    steps: int
    arm: str
    kept: str
    branch: Branch
    masses: Mapping[Branch, float]

    @property
    def propensity(self) -> float:
        """Probability of the arms so far, given the contexts: the product of the steps' propensities."""
        return sum(self.masses.values())


class Step(NamedTuple):
    """Where a step's arm stands among the scored ones, its propensity given the course, and the course after it."""

    position: int
    propensity: float
    explored: bool
    course: Course


def begin(arms: tuple[str, ...], position: int, best: int, branch: Branch, masses: Mapping[Branch, float]) -> Step:
    """The first step of an episode (or a decision by itself), served by the arm at `position`.

    `masses` holds the probability of every branch that leads to this arm.
    """
    arm = arms[position]
    course = Course(1, arm, arm, branch, masses)
    return Step(position, min(course.propensity, 1.0), position != best, course)


def proceed(arms: tuple[str, ...], ways: Mapping[Branch, int], course: Course) -> Step:
    """The next step: `ways` says which position each branch leads to, its own branch decides."""
    position = ways[course.branch]
    masses = {branch: mass for branch, mass in course.masses.items() if ways[branch] == position}
    after = Course(course.steps + 1, arms[position], course.kept, course.branch, masses)
    return Step(position, min(after.propensity / course.propensity, 1.0), position != ways["best"], after)
