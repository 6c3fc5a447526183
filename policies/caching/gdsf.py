"""Greedy-dual with sizes, costs and frequencies (GDSF: Cherkasova 1998, after Cao and Irani 1997)."""

from collections import Counter
from collections.abc import Collection

from policies.caching.base import ResidencyConfig, ResidencyPolicy, register


@register
class GDSF(ResidencyPolicy):
    """worth = L + uses · ms / size at the last use, where L is the worth of what was evicted last.

    `uses` are those since the adapter came in, ms its latest measured page-in. What is small, slow to fetch and often
    used stays; L rises, so that nothing lives on old uses.
    """

    name = "gdsf"

    def __init__(self, config: ResidencyConfig = ResidencyConfig()) -> None:
        super().__init__(config)
        self._floor = 0.0
        self._uses: Counter[str] = Counter()
        self._value: dict[str, float] = {}  # of one use: ms / size
        self._worth: dict[str, float] = {}

    def worth(self, adapter: str) -> float:
        return self._worth.get(adapter, self._floor)

    def requested(self, adapters: Collection[str]) -> None:
        super().requested(adapters)
        for adapter in adapters:
            self._uses[adapter] += 1
            self._weigh(adapter)

    def paged_in(self, adapter: str, size: float, ms: float) -> None:
        super().paged_in(adapter, size, ms)
        self._value[adapter] = ms / size if size else ms
        self._weigh(adapter)

    def evicted(self, adapter: str) -> None:
        super().evicted(adapter)
        self._floor = max(self._floor, self._worth.pop(adapter, self._floor))
        del self._uses[adapter]

    def _weigh(self, adapter: str) -> None:
        self._worth[adapter] = self._floor + max(1, self._uses[adapter]) * self._value.get(adapter, 1.0)
