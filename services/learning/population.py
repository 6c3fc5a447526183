"""The arms as the fold knows them: their statistics by name, through renamings and new versions."""

from collections.abc import Callable, Mapping

from cluster.events import ArmRegistered
from policies.evidence import ArmStatistics
from policies.prior import LearningConfig


class Population:
    """Statistics of every arm by its name of now, and what was touched since `clear`.

    `changing` is called with the name of an arm whose statistics are about to change.
    """

    def __init__(
        self,
        arms: Mapping[str, ArmStatistics],
        dimension: int,
        config: LearningConfig,
        changing: Callable[[str], None],
    ) -> None:
        self.arms = dict(arms)
        self._dimension = dimension
        self._config = config
        self._changing = changing
        for statistics in self.arms.values():
            statistics.change_discount(config.discount)
        self._follow_names()
        self.clear()

    def clear(self) -> None:
        """Forget what was touched: somebody has taken it over."""
        self.touched: set[str] = set()
        self.removed: set[str] = set()

    def current(self, name: str) -> str:
        """What an arm that had this name is called now."""
        return self._current.get(name, name)

    def known(self, name: str) -> ArmStatistics | None:
        """The arm's statistics, by a name of now or before, to be read."""
        return self.arms.get(self.current(name))

    def change(self, name: str) -> ArmStatistics:
        """The arm's statistics, by a name of now or before, to be changed; an unknown arm starts empty."""
        arm = self.current(name)
        self.touched.add(arm)
        self._changing(arm)
        if arm not in self.arms:
            self.arms[arm] = ArmStatistics.empty(self._dimension, self._config.discount)
        return self.arms[arm]

    def register(self, event: ArmRegistered) -> None:
        """The arm is there; with other weights than before it is a new version."""
        known = self.change(event.arm)
        known.like = list(event.like) or known.like
        if known.adapter_hash is None:
            known.adapter_hash = event.adapter_hash
        elif event.adapter_hash is not None and known.adapter_hash != event.adapter_hash:
            known.new_version(event.adapter_hash, self._config.version_carry)

    def rename(self, arm: str, to: str) -> None:
        """What is known of the arm goes by another name; so do its decisions under the old one, whenever they end."""
        self.arms[to] = self.change(arm)
        self.arms[to].former.append(arm)
        del self.arms[arm]
        self.touched = self.touched - {arm} | {to}
        self.removed = self.removed - {to} | {arm}
        self._follow_names()

    def _follow_names(self) -> None:
        self._current = {old: arm for arm, known in self.arms.items() for old in known.former if old != arm}
