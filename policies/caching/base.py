"""The contract of every residency policy, and the registry that finds one by name."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from policies import checks


@dataclass(frozen=True)
class ResidencyConfig:
    """`pins`: the adapters that "static" keeps, most wanted first."""

    pins: tuple[str, ...] = ()


class ResidencyPolicy(ABC):
    """Says which adapter leaves a tier of limited room, from what it is told of requests and page-ins.

    It moves nothing and holds no room of its own: the owner of a tier tells it what happens there and asks for a victim
    while something does not fit. Its clock counts requests. Adapters are opaque names; sizes are in any one unit.

    Some policies follow a plan: a target set, computed elsewhere, whose members leave last and are fetched ahead.
    """

    name: ClassVar[str]
    planned: ClassVar[bool] = False
    """Whether `plan` has an effect."""

    def __init__(self, config: ResidencyConfig = ResidencyConfig()) -> None:
        self.config = config
        self.clock = 0
        self._target: tuple[str, ...] = ()
        self._resident: set[str] = set()
        self._last: dict[str, int] = {}

    @property
    def target(self) -> tuple[str, ...]:
        """What should be resident, most wanted first; empty where only the past counts."""
        return self._target

    def plan(self, target: Sequence[str]) -> None:
        """Aim at this set, most wanted first. Without effect unless `planned`. ValueError: one is named twice."""
        if len(set(target)) < len(target):
            raise ValueError(f"target is {list(target)}, expected each adapter once")
        if self.planned:
            self._target = tuple(target)

    def missing(self) -> list[str]:
        """What to fetch ahead of any request, most wanted first."""
        return [adapter for adapter in self._target if adapter not in self._resident]

    def requested(self, adapters: Collection[str]) -> None:
        """A request came that needs these adapters at once, resident or not; none for the base alone."""
        self.clock += 1
        for adapter in adapters:
            self._last[adapter] = self.clock

    def paged_in(self, adapter: str, size: float, ms: float) -> None:
        """An adapter of `size` is resident from now on, which took `ms`. ValueError: one of them is negative."""
        checks.number(f"size of {adapter!r}", size, 0)
        checks.number(f"ms of {adapter!r}", ms, 0)
        self._resident.add(adapter)

    def evicted(self, adapter: str) -> None:
        """An adapter is resident no longer, whoever decided so."""
        self._resident.discard(adapter)

    def victim(self, candidates: Collection[str]) -> str:
        """Which of the resident adapters that nobody uses goes first. ValueError: there is none."""
        if not candidates:
            raise ValueError("candidates are empty, expected at least one resident adapter that is not in use")
        return min(candidates, key=self._order)

    @abstractmethod
    def worth(self, adapter: str) -> float:
        """What keeping a resident adapter is worth. Outside the target the least goes first, the older of equals."""

    def last_used(self, adapter: str) -> int:
        """The clock at its latest request, 0 before any."""
        return self._last.get(adapter, 0)

    def _order(self, adapter: str) -> tuple[int, float, int, str]:
        return self._rank(adapter), self.worth(adapter), self.last_used(adapter), adapter

    def _rank(self, adapter: str) -> int:
        """0 outside the target, then from the least to the most wanted."""
        return len(self._target) - self._target.index(adapter) if adapter in self._target else 0


P = TypeVar("P", bound=ResidencyPolicy)
_registry: dict[str, type[ResidencyPolicy]] = {}


def register(policy: type[P]) -> type[P]:
    """Class decorator: make a policy available to `create` under its name. ValueError: the name is taken."""
    if policy.name in _registry:
        raise ValueError(f"residency policy name is {policy.name!r}, expected none of {sorted(_registry)}")
    _registry[policy.name] = policy
    return policy


def names() -> list[str]:
    """The registered names."""
    return sorted(_registry)


def create(name: str, config: ResidencyConfig = ResidencyConfig()) -> ResidencyPolicy:
    """The policy registered under `name`, which has seen nothing. ValueError: an unknown name."""
    if name not in _registry:
        raise ValueError(f"residency policy is {name!r}, expected one of {names()}")
    return _registry[name](config)
