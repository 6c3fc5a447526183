"""The arms as one process sees them: the roster of the store over the adapters on disk."""

import time
from collections.abc import Collection

from cluster.events import ArmRegistered, ArmRemoved
from cluster.roster import ArmRecord, ArmRefused, Roster
from cluster.store import Store
from services.adapters.registry import Registry


class Arms:
    """Names of the arms, and what each turns on. Until the store has a roster, everything on disk is an arm."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._version = -1
        self._put({name: ArmRecord(serves=name) for name in registry.arms}, frozenset())

    def __contains__(self, arm: str) -> bool:
        return arm in self._records

    def __getitem__(self, arm: str) -> ArmRecord:
        return self._records[arm]

    @property
    def names(self) -> tuple[str, ...]:
        """Arms that can serve: routed to, or frozen and asked for by name."""
        return tuple(self._records)

    @property
    def routed(self) -> tuple[str, ...]:
        """Arms that the router chooses among."""
        return self._routed

    def gates(self, arm: str) -> dict[str, float]:
        """Adapters that an arm turns on, with their weights."""
        return self.registry.gates(self._records[arm].serves)

    def fingerprints(self, arm: str) -> dict[str, str]:
        """Content hashes of the adapters that an arm turns on."""
        return self.registry.fingerprints(self._records[arm].serves)

    def coordinates(self, arm: str) -> str:
        """The convention of an arm's answers."""
        return self.registry.coordinates(self._records[arm].serves)

    def current(self, name: str) -> str:
        """What an arm that had this name is called now."""
        return self._current.get(name, name)

    async def is_behind(self, store: Store) -> bool:
        """Whether there is more to take over from the store's roster than was taken over last."""
        return self._waiting or await store.roster_version() != self._version

    def put(self, version: int, roster: Roster, folded: Collection[str]) -> None:
        """Take over a roster, an empty one leaves things as they are.

        A renamed arm goes by the name under which its evidence is `folded`, until the Learner has renamed it too.
        """
        self._version = version
        if roster:
            self._put(roster, folded)

    def _put(self, roster: Roster, folded: Collection[str]) -> None:
        order = {name: place for place, name in enumerate(self.registry.arms)}
        names = {name: _folded_name(name, arm, folded) for name, arm in roster.items()}
        self._waiting = any(name != used for name, used in names.items())
        there = [(names[name], arm) for name, arm in roster.items() if arm.is_there and arm.serves in order]
        self._records = dict(sorted(there, key=lambda known: (order[known[1].serves], known[0])))
        self._routed = tuple(name for name, arm in self._records.items() if arm.state == "active")
        called = [(old, names[name]) for name, arm in roster.items() for old in (*arm.former, name)]
        self._current = {old: name for old, name in called if old != name}


def _folded_name(name: str, arm: ArmRecord, folded: Collection[str]) -> str:
    names = (name, *reversed(arm.former))
    return next((each for each in names if each in folded), name)


async def announce(store: Store, serves: str, fingerprint: str | None, now: float) -> None:
    """Register what there is to serve with every arm that serves it, or with one of its own name.

    An arm that an operator removed stays so. Raises ArmRefused if the name is another arm's.
    """
    roster = await store.roster()
    for arm in [arm for arm, record in roster.items() if record.serves == serves] or [serves]:
        if arm not in roster or roster[arm].state != "removed":
            await store.change_arm(ArmRegistered(time=now, arm=arm, serves=serves, adapter_hash=fingerprint))


async def register(store: Store, registry: Registry, now: float | None = None) -> list[str]:
    """Bring the roster in line with what is on disk; what could not be registered, and why."""
    now, problems = now or time.time(), []
    for name in registry.arms:
        try:
            await announce(store, name, registry[name].fingerprint if name in registry else None, now)
        except ArmRefused as error:
            problems.append(f"{name} is no arm: {error}")
    for arm, record in (await store.roster()).items():
        if record.serves not in registry.arms and record.is_there:
            await store.change_arm(ArmRemoved(time=now, arm=arm, absent=True))
    return problems
