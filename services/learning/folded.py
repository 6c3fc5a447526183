"""A posterior that stands on a fold of events in memory: no store, no clock."""

from collections.abc import Iterable

from cluster.events import Event
from policies.checks import Array
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from services.learning.fold import Fold


class FoldedPosterior:
    """What a Learner and the Router that follows it are together: events go into the fold, `refresh` shows them."""

    def __init__(self, fold: Fold, posterior: Posterior) -> None:
        self._fold = fold
        self._posterior = posterior

    def fold(self, event: Event) -> None:
        """Take in the next event; the posterior stays as it is."""
        self._fold.apply(event, {})  # it is never cleared, so it finds every earlier decision by itself

    def refresh(self) -> None:
        """Take over the arms that the fold has touched, and drop the names that it has left."""
        for arm in self._fold.removed & set(self._posterior.arms):
            self._posterior.remove(arm)
        self.put(self._fold.touched)
        self._fold.touched, self._fold.removed = set(), set()

    def current(self, name: str) -> str:
        """What an arm that had this name is called now."""
        return self._fold.current(name)

    def know(self, arms: Iterable[str]) -> None:
        """Begin with nothing for arms that no event has touched."""
        self.put(set(arms) - set(self._posterior.arms))

    def overlay(self, decisions: Iterable[tuple[str, Array]]) -> set[str]:
        """Count decisions as pending; the arms that are to be put again afterwards."""
        arms = set()
        for name, x in decisions:
            arm = self.current(name)
            self.know([arm])
            self._posterior.overlay(arm, x)
            arms.add(arm)
        return arms

    def put(self, arms: Iterable[str]) -> None:
        """Recompute arms from the statistics of the fold."""
        for arm in sorted(arms):
            empty = ArmStatistics.empty(self._posterior.dimension, self._posterior.prior.config.discount)
            self._posterior.put(arm, self._fold.arms.get(arm, empty))
