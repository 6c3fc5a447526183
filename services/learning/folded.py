"""A posterior that stands on a fold of events in memory: no store, no clock."""

from collections.abc import Iterable

from cluster.events import Event
from policies.checks import Array
from policies.evidence import ArmStatistics
from policies.posterior import Posterior
from services.learning.fold import Fold
from services.learning.states import frozen


class FoldedPosterior:
    """What a Learner and the Router that follows it are together: events go into the fold, `refresh` shows them."""

    def __init__(self, fold: Fold, posterior: Posterior) -> None:
        self._fold = fold
        self._posterior = posterior
        self._standing: dict[str, bytes] | None = None  # what is shown while the beliefs are frozen

    def fold(self, event: Event) -> None:
        """Take in the next event; the posterior stays as it is."""
        self._fold.apply(event, {})  # it is never cleared, so it finds every earlier decision by itself

    def refresh(self) -> None:
        """Take over the arms that the fold has touched, and drop the names that it has left."""
        population = self._fold.population
        for arm in population.removed & set(self._posterior.arms):
            self._posterior.remove(arm)
        thawed, self._standing = self._standing is not None, None
        self.put(population.touched | set(self._posterior.arms if thawed else ()))
        population.clear()

    def freeze(self) -> None:
        """Show every arm as it was at the last freezing."""
        before, self._standing = self._standing, frozen(self._fold.states.all)
        arms = self._standing.keys() | set(self._posterior.arms)
        self.put(arm for arm in arms if before is None or before.get(arm) != self._standing.get(arm))

    def current(self, name: str) -> str:
        """What an arm that had this name is called now."""
        return self._fold.population.current(name)

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
        """Recompute arms from what is to be shown of them."""
        for arm in sorted(arms):
            self._posterior.put(arm, self._shown(arm))

    def _shown(self, arm: str) -> ArmStatistics:
        empty = ArmStatistics.empty(self._posterior.dimension, self._posterior.prior.config.discount)
        if self._standing is None:
            return self._fold.arms.get(arm, empty)
        return ArmStatistics.from_bytes(self._standing[arm]) if arm in self._standing else empty
