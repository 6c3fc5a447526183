"""The books of one device tier: which adapter has which pages, who holds it, who has to go. Pure: nothing is copied."""

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from policies.caching import ResidencyPolicy

Reason = Literal["room", "plan", "outdated", "abandoned", "failed"]
"""Why an adapter left: for a request, for the plan, as another version came or it was removed, as nobody waited for
it any more while it was loaded, as it could not be loaded."""


_TIMES: Final = 10
"""How often a plan is told before its member gets the page of an adapter that nobody has needed in between."""


@dataclass
class Slot:
    """One adapter on the device, or on its way there."""

    pages: tuple[int, ...]
    pins: int = 0
    ready: bool = False
    ahead: bool = False  # fetched before anybody asked


class Reserved(NamedTuple):
    """What became of a reservation that was granted."""

    missing: tuple[str, ...]  # to be loaded onto the pages that they have now
    evicted: tuple[str, ...]


class PageTable:
    """Pages by content hash. `kept` ones leave last, `outdated` ones first and as soon as nobody holds them."""

    def __init__(self, capacity: int, policy: ResidencyPolicy) -> None:
        self.capacity = capacity
        self.policy = policy
        self.kept: frozenset[str] = frozenset()
        self.outdated: set[str] = set()
        self.evictions: Counter[Reason] = Counter()
        self._free = list(range(capacity))
        self._slots: dict[str, Slot] = {}
        self._told = deque([0] * _TIMES, maxlen=_TIMES)  # the policy's clock when plans were told

    def __contains__(self, key: str) -> bool:
        return key in self._slots

    def __getitem__(self, key: str) -> Slot:
        return self._slots[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    @property
    def free(self) -> int:
        """Pages that nobody has."""
        return len(self._free)

    @property
    def ready(self) -> tuple[str, ...]:
        """Adapters that can serve."""
        return tuple(key for key, slot in self._slots.items() if slot.ready)

    def plan(self, target: Sequence[str]) -> None:
        """Aim at this set, if the policy follows plans; told at regular times, also if it is the same."""
        self.policy.plan(target)
        self._told.append(self.policy.clock)

    def reserve(self, sizes: Mapping[str, int]) -> Reserved | None:
        """Pin adapters that take so many pages, all of them or, where there is no room, none."""
        missing = {key: pages for key, pages in sizes.items() if key not in self._slots}
        victims = self._victims(sum(missing.values()), self._idle() - sizes.keys())
        if victims is None:
            return None
        self._place(missing, victims, "room")
        for key in sizes:
            self._slots[key].pins += 1
        return Reserved(tuple(missing), tuple(victims))

    def reserve_ahead(self, key: str, pages: int) -> Reserved | None:
        """Pages for an adapter that nobody waits for; what is kept or planned does not leave for it.

        Nor, unless it is to be kept, does what was needed lately: a member of the plan and what is asked for instead of
        it would take each other's pages all the time.
        """
        spared = self.kept | set(self.policy.target)
        if key not in self.kept:
            spared |= {other for other in self._slots if self.policy.last_used(other) > self._told[0]}
        victims = self._victims(pages, self._idle() - spared)
        if victims is None:
            return None
        self._place({key: pages}, victims, "plan")
        self._slots[key].ahead = True
        return Reserved((key,), tuple(victims))

    def release(self, keys: Iterable[str]) -> list[str]:
        """Let go of what `reserve` pinned; those that left at once."""
        for key in keys:
            self._slots[key].pins -= 1
        gone = list(self.outdated & self._idle())
        for key in gone:
            self._evict(key, "outdated")
        return gone

    def arrived(self, key: str, ms: float) -> bool:
        """An adapter was copied to its pages. False if nobody wants it any more: it has none then."""
        slot = self._slots[key]
        if not self.is_wanted(key):
            self.drop(key, "abandoned")
            return False
        slot.ready, slot.ahead = True, False
        self.policy.paged_in(key, len(slot.pages), ms)
        return True

    def is_wanted(self, key: str) -> bool:
        """Whether somebody waits for, or holds, an adapter that has pages."""
        slot = self._slots[key]
        return slot.pins > 0 or (slot.ahead and key not in self.outdated)

    def drop(self, key: str, reason: Reason) -> None:
        """Take the pages of an adapter that could not be loaded, or that nobody waits for."""
        slot = self._slots.pop(key)
        self._free += slot.pages
        self.outdated.discard(key)
        self.evictions[reason] += 1

    def outdate(self, keys: Collection[str]) -> list[str]:
        """These are no longer served: no request names them again. Those that left at once."""
        self.outdated = set(keys) & self._slots.keys()
        return self.release(())

    def check_integrity(self, held: Mapping[str, int]) -> None:
        """RuntimeError unless every page has one owner and every adapter as many pins as `held` says."""
        pages = [page for slot in self._slots.values() for page in slot.pages]
        if sorted([*self._free, *pages]) != list(range(self.capacity)):
            raise RuntimeError(f"pages {sorted(pages)} in use and {sorted(self._free)} free, of {self.capacity}")
        pins = {key: slot.pins for key, slot in self._slots.items() if slot.pins}
        if pins != (expected := {key: count for key, count in held.items() if count}):
            raise RuntimeError(f"pins {pins}, expected {expected}")

    def _idle(self) -> set[str]:
        return {key for key, slot in self._slots.items() if slot.ready and not slot.pins}

    def _victims(self, pages: int, idle: set[str]) -> list[str] | None:
        """Idle adapters whose leaving makes room, or None: outdated ones first, kept ones last."""
        found: list[str] = []
        room = len(self._free)
        for group in (idle & self.outdated, idle - self.outdated - self.kept, idle & self.kept - self.outdated):
            while group and room < pages:
                found.append(self.policy.victim(group))
                group.discard(found[-1])
                room += len(self._slots[found[-1]].pages)
        return found if room >= pages else None

    def _place(self, missing: Mapping[str, int], victims: Iterable[str], reason: Reason) -> None:
        for key in victims:
            self._evict(key, "outdated" if key in self.outdated else reason)
        for key, pages in missing.items():
            self._slots[key] = Slot(tuple(self._free[:pages]))
            del self._free[:pages]

    def _evict(self, key: str, reason: Reason) -> None:
        self.drop(key, reason)
        self.policy.evicted(key)
