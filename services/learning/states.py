"""What the fold keeps beside the arms, by names that no arm has: the mode, arms as they were frozen, the watch."""

from collections.abc import Mapping

from cluster.events import Mode
from policies.evidence import ArmStatistics

WATCH = "@watch"
"""Where the state of the watch is kept."""

MODE = "@mode"
"""Where the last mode that was folded is kept."""

FROZEN = "@frozen/"
"""What the name of an arm begins with under which its statistics at the last freezing are kept; empty when it ended."""


def is_state(name: str) -> bool:
    """Whether this is no arm's name."""
    return name.startswith("@")


def frozen(states: Mapping[str, bytes]) -> dict[str, bytes]:
    """The statistics of the last freezing, by arm; none when it has ended."""
    return {name.removeprefix(FROZEN): blob for name, blob in states.items() if name.startswith(FROZEN) and blob}


class States:
    """Serialised states by name, and which of them changed since `clear`."""

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        self.all = dict(stored)
        self.clear()

    def clear(self) -> None:
        """Forget what changed."""
        self._changed: set[str] = set()

    @property
    def changed(self) -> dict[str, bytes]:
        """What changed, by name."""
        return {name: self.all[name] for name in sorted(self._changed)}

    def put(self, name: str, value: bytes) -> None:
        """Keep a value."""
        self.all[name] = value
        self._changed.add(name)

    def change_mode(self, mode: Mode, arms: Mapping[str, ArmStatistics]) -> None:
        """Keep every arm as it is now, or give up what was kept."""
        self.put(MODE, mode.encode())
        if mode == "frozen":
            for arm, statistics in arms.items():
                self.put(FROZEN + arm, statistics.to_bytes())
        else:
            for arm in frozen(self.all):
                self.put(FROZEN + arm, b"")

    def rename(self, arm: str, to: str) -> None:
        """What was kept of an arm goes by its new name."""
        if kept := self.all.get(FROZEN + arm):
            statistics = ArmStatistics.from_bytes(kept)
            statistics.former.append(arm)
            self.put(FROZEN + to, statistics.to_bytes())
            self.put(FROZEN + arm, b"")
