"""The arms as one process sees them: the roster of the store over the adapters on disk."""

import time
from collections.abc import Collection
from typing import NamedTuple

from cluster.catalogue import Catalogue
from cluster.events import ArmRegistered, ArmRemoved
from cluster.roster import ArmRecord, ArmRefused, Roster
from cluster.store import Store
from services.adapters.metadata import AdapterUnavailable
from services.adapters.registry import BASE, Registry
from services.adapters.shelf import Adapter
from services.catalogue.adapters import adapters_of


class News(NamedTuple):
    """The store's adapters and arms as of one moment, or of a later one than the versions say."""

    versions: tuple[int, int]
    catalogue: Catalogue
    roster: Roster


class Arms:
    """Names of the arms, and what each turns on. Until the store has a roster, everything on disk is an arm."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._versions = (-1, -1)
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
    def suspended(self) -> dict[str, str]:
        """Arms of adapters whose files are gone, and why."""
        return self._suspended

    @property
    def lost(self) -> dict[str, str]:
        """The adapters whose files are gone, and why."""
        return self._lost

    def can_serve(self, gates: Collection[str]) -> bool:
        """Whether adapters are there, and not suspended."""
        return all(name in self.registry and name not in self._lost for name in gates)

    @property
    def routed(self) -> tuple[str, ...]:
        """Arms that the router chooses among."""
        return self._routed

    def gates(self, arm: str) -> dict[str, float]:
        """Adapters that an arm turns on whatever the request, with their weights; a mixture's depend on the request."""
        return self.registry.gates(self._records[arm].serves)

    def size(self, arm: str) -> int:
        """How many adapters an arm mixes at most; 0 if it is no mixture."""
        return self.registry.mixtures.get(self._records[arm].serves, 0)

    def adapters(self, arms: Collection[str]) -> list[str]:
        """The adapters of those of the arms that have one of their own, in the registry's order."""
        served = {self._records[arm].serves for arm in arms if arm in self._records}
        return [adapter.name for adapter in self.registry if adapter.name in served]

    def may_turn_on(self, arm: str) -> list[str]:
        """Every adapter that an arm might turn on."""
        return [adapter.name for adapter in self.registry] if self.size(arm) else list(self.gates(arm))

    def mixable(self, arms: Collection[str]) -> tuple[str, ...]:
        """Those of the arms whose adapters the router may mix."""
        return tuple(arm for arm in self._routed if arm in arms and self._records[arm].serves in self.registry)

    def versions(self, gates: Collection[str]) -> dict[str, Adapter]:
        """The adapters that are turned on, as of now. Raises AdapterUnavailable for one that was removed meanwhile."""
        if gone := [name for name in gates if name not in self.registry]:
            raise AdapterUnavailable(f"adapter {gone[0]!r} was removed meanwhile")
        return {name: self.registry[name] for name in gates}

    def fingerprints(self, gates: Collection[str]) -> dict[str, str]:
        """Their content hashes. Raises AdapterUnavailable as `versions`."""
        return {name: adapter.fingerprint for name, adapter in self.versions(gates).items()}

    def named(self, fingerprints: Collection[str]) -> list[str]:
        """The adapters whose content hashes are among these."""
        return [adapter.name for adapter in self.registry if adapter.fingerprint in fingerprints]

    def coordinates(self, arm: str) -> str | None:
        """The convention of an arm's answers; None for a mixture, which has that of the adapters it draws."""
        return None if self.size(arm) else self.registry.coordinates(self._records[arm].serves)

    def convention(self, *adapters: str) -> str:
        """The convention that the adapters share; the base's if there are none."""
        return self.registry.coordinates(adapters[0] if adapters else BASE)

    def knows(self, name: str) -> bool:
        """Whether this is or was the name of an arm, or of something on disk that may be one."""
        return self.current(name) in {*self._records, *self._suspended, *self.registry.arms}

    def current(self, name: str) -> str:
        """What an arm that had this name is called now."""
        return self._current.get(name, name)

    async def is_behind(self, store: Store) -> bool:
        """Whether there is more to take over from the store than was taken over last."""
        return self._waiting or await _versions(store) != self._versions

    async def news(self, store: Store) -> News:
        """What there is to take over."""
        return News(await _versions(store), await store.catalogue(), await store.roster())

    def put(self, news: News, folded: Collection[str]) -> None:
        """Take over adapters and arms; while the store has none, things are left as they are.

        A renamed arm goes by the name under which its evidence is `folded`, until the Learner has renamed it too.
        """
        self._versions = news.versions
        if news.catalogue:
            self.registry.follow(adapters_of(news.catalogue))
        if news.roster:
            self._put(news.roster, folded)

    def _put(self, roster: Roster, folded: Collection[str]) -> None:
        order = {name: place for place, name in enumerate(self.registry.arms)}
        names = {name: _folded_name(name, arm, folded) for name, arm in roster.items()}
        self._waiting = any(name != used for name, used in names.items())
        there = [(names[name], arm) for name, arm in roster.items() if arm.is_there and arm.serves in order]
        self._records = dict(sorted(there, key=lambda known: (order[known[1].serves], known[0])))
        self._routed = tuple(name for name, arm in self._records.items() if arm.state == "active")
        gone = {names[name]: arm for name, arm in roster.items() if arm.is_suspended and arm.serves in order}
        self._suspended = {name: arm.reason for name, arm in gone.items()}
        self._lost = {arm.serves: arm.reason for arm in gone.values()}
        called = [(old, names[name]) for name, arm in roster.items() for old in (*arm.former, name)]
        self._current = {old: name for old, name in called if old != name}


async def _versions(store: Store) -> tuple[int, int]:
    return await store.catalogue_version(), await store.roster_version()


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
    """Bring the roster in line with what is on disk; what could not be registered, and why.

    What is suspended stays so, unless it has another content now.
    """
    now, problems, roster = now or time.time(), [], await store.roster()
    suspended = {(record.serves, record.adapter_hash) for record in roster.values() if record.is_suspended}
    for name in registry.arms:
        fingerprint = registry[name].fingerprint if name in registry else None
        if (name, fingerprint) in suspended:
            continue
        try:
            await announce(store, name, fingerprint, now)
        except ArmRefused as error:
            problems.append(f"{name} is no arm: {error}")
    for arm, record in (await store.roster()).items():
        if record.serves not in registry.arms and record.is_there:
            await store.change_arm(ArmRemoved(time=now, arm=arm, absent=True))
    return problems
