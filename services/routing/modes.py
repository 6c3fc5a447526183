"""Who decides now: the policy that learns, or the supervised one in its place."""

from typing import Literal

from cluster.events import Mode
from policies import Policy, PolicyConfig
from services.routing.snapshots import SnapshotFollower

Serving = Mode | Literal["fallback"]


class Modes:
    """The mode in force, and the policy that serves in it.

    online: the policy, on beliefs that follow every reward.  frozen: the policy, on the beliefs of the moment of
    freezing: means, widths and burn-in counts stand; the Learner goes on and what it learned holds again afterwards.
    shadow: the supervised policy with its own mixing; the Learner learns from its outcomes and scores the policy.
    fallback: the guard found the policy worse than the supervised one, which serves until an operator resets the guard.
    """

    def __init__(self, policy: Policy, supervised: Policy, snapshots: SnapshotFollower, *, falls_back: bool) -> None:
        self._policy = policy
        self._supervised = supervised
        self._snapshots = snapshots
        self._falls_back = falls_back

    def tune(self, config: PolicyConfig, *, falls_back: bool) -> None:
        """Go on with another configuration."""
        self._policy.config = self._supervised.config = config
        self._falls_back = falls_back

    @property
    def mode(self) -> Serving:
        """The mode in force."""
        chosen, guard = self._snapshots.mode, self._snapshots.guard
        fallen = self._falls_back and guard is not None and guard.alarm is not None
        return "fallback" if fallen and chosen != "shadow" else chosen

    @property
    def policy(self) -> Policy:
        """The policy that serves."""
        return self._supervised if self.mode in ("shadow", "fallback") else self._policy
