"""What goes into a decision and what comes out of it. Arrays [K] align with the eligible arms, in their order."""

from typing import NamedTuple

from policies.checks import Array, Mask, Rows
from policies.episodes import Course


class Context(NamedTuple):
    """What a policy sees of a request: x [d], the supervised gate of every arm that the MLP knows, and its task."""

    x: Array
    gates: dict[str, float]
    task: str | None = None


class Beliefs(NamedTuple):
    """Means [B,K], widths [B,K] (0 where none was computed), and the scores [B,K] of optimism: mean + α·width − c·cost.

    proven [B]: whether the best optimistic score would be the best with every width computed.
    """

    means: Array
    widths: Array
    optimism: Array
    proven: Mask


class Request(NamedTuple):
    """B requests that passed the checks, and what the posterior says of them.

    The eligible arms and their rows in the posterior, X [B,d], gates [B,K] (NaN where the MLP does not know the arm),
    waits [K] in ms and what they cost in reward, and the task of each request.
    """

    arms: tuple[str, ...]
    rows: Rows
    X: Array
    gates: Array
    waits: Array
    penalties: Array
    tasks: tuple[str | None, ...]
    beliefs: Beliefs


class Scored(NamedTuple):
    """What the pick for one request goes by.

    scores [K] rank the arms for this policy, `best` leads them; lasting [K] are the scores without what they add for
    exploring, by which an episode's later steps go; target [K] is the policy's own distribution before the
    mixing; candidates [K] are the plausible and the new arms.
    """

    arms: tuple[str, ...]
    scores: Array
    lasting: Array
    target: Array
    candidates: Mask
    best: int
    supervised: int
    seed: str

    def sticky(self, arm: str, margin: float) -> int:
        """Position of `arm`, unless it is not eligible or another lasts better, by more than `margin`."""
        if arm not in self.arms:
            return self.best
        position, other = self.arms.index(arm), int(self.lasting.argmax())
        return other if self.lasting[other] - self.lasting[position] > margin else position

    def at(self, arm: str, otherwise: int) -> int:
        """Position of `arm`; `otherwise` if it is not eligible."""
        return self.arms.index(arm) if arm in self.arms else otherwise


class Choice(NamedTuple):
    """A decision with its reasons; costs are in ms.

    `propensity` is p(a|x) in (0, 1], given the earlier steps of an episode; `explored` tells that chance led away from
    the best arm; `supervised` is the eligible arm with the largest gate, or the best arm where the MLP knows none of
    them. Means and widths are the posterior's, whatever the policy; scores are what this policy ranks by. `course` is
    the episode after this step. `error` is the standard error of the propensity as an estimate of the ideal policy's,
    0 where it is exact; `proven` tells that no width that was left out could have changed the best optimistic score.
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
    error: float = 0.0
    proven: bool = True
