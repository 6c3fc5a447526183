"""The window of active adapters: pages of rank rows below the weights, which every decode step multiplies with.

    folded[group]:  [ W | A of module 0: pages 0…n−1 | A of module 1: pages 0…n−1 | … ]     n = pages in use
    expand[module]: [ B: pages 0…n−1 ]

n is the smallest power of two that holds what is pinned; what is not in use costs nothing. An adapter keeps its pages
after its last request, until another one needs them.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch

from services.adapters.tiers import PAGE
from services.engine.base import Gate
from services.engine.products import Apart, Folded, Matrix
from services.engine.routed.layout import Adapter, Page
from services.engine.routed.shape import GROUPS, Shape
from services.engine.routed.weights import Weights

_SETTLED: Final = 4
"""Steps without a change after which packing the window pays."""


class PageWindow:
    """Which adapters lie where. Pinned ones belong to running sequences."""

    def __init__(self, weights: Weights, shape: Shape, capacity: int) -> None:
        self._weights = weights
        self._layers = shape.layers
        self.capacity = capacity
        self.expanded = {
            module: weights.embeddings.new_zeros(shape.layers, capacity * PAGE, out)
            for module, out in shape.outputs.items()
        }
        self._places: OrderedDict[Adapter, tuple[int, ...]] = OrderedDict()  # least recently pinned first
        self._pins: Counter[Adapter] = Counter()
        self.pages = 0
        self.version = 0  # of what lies where
        self.both: dict[str, list[Folded | Apart]] = {}  # group: x to x Wᵀ and x Aᵀ, for each layer
        self.expand: dict[str, list[Matrix]] = {}  # module: B for each layer
        self._adapters: list[Matrix] = []  # every A and B
        self._unchanged = 0

    @property
    def ranks(self) -> int:
        """Rows that a decode step multiplies with, for each module."""
        return self.pages * PAGE

    def size(self, adapters: Iterable[Adapter]) -> int:
        """Pages that the adapters need."""
        return sum(len(adapter.pages) for adapter in adapters)

    def fits(self, adapters: Iterable[Adapter]) -> bool:
        """Whether `pin` would find room now."""
        return self.size({*self._pins, *adapters}) <= self.capacity

    def pin(self, adapters: Iterable[Adapter]) -> None:
        """Bring adapters in and hold them. Needs `fits`."""
        self._pins.update(tuple(adapters))
        missing = [adapter for adapter in adapters if adapter not in self._places]
        if missing:
            self._make_room(missing)
        for adapter in adapters:
            if adapter not in self._places:
                self._place(adapter)
            self._places.move_to_end(adapter)

    def unpin(self, adapters: Iterable[Adapter]) -> None:
        """Let go of what `pin` held."""
        self._pins.subtract(tuple(adapters))
        self._pins += Counter()  # without those that nobody holds

    def gates(self, rows: Sequence[Mapping[Adapter, Gate]]) -> torch.Tensor:
        """G [1, rows, ranks]: the gate of every rank row for each row of a batch; [layers, …] where blocks differ."""
        layers = self._layers if any(isinstance(gate, tuple) for gates in rows for gate in gates.values()) else 1
        table = torch.zeros(layers, len(rows), self.pages)
        for row, gates in enumerate(rows):
            for adapter, gate in gates.items():
                table[:, row, list(self._places[adapter])] = torch.tensor(gate).view(-1, 1)
        return table.repeat_interleave(PAGE, 2)

    def settle(self, rows: int) -> None:
        """Note a step of `rows` rows. After some without a change, the window is prepared for products of so many."""
        self._unchanged += 1
        if self._unchanged == _SETTLED:
            for matrix in self._adapters:
                matrix.pack(rows)

    def check_pins(self, expected: Mapping[Adapter, int]) -> None:
        """The adapters of running sequences are pinned once for each."""
        found, wanted = ({a.name: n for a, n in counts.items()} for counts in (self._pins, expected))
        if self._pins != expected:
            raise RuntimeError(f"pins {found}, expected {wanted}")

    def check_integrity(self) -> None:
        """Every page belongs to one adapter at most, and every pinned adapter has its pages."""
        used = [page for pages in self._places.values() for page in pages]
        if len(used) != len(set(used)) or any(page >= self.pages for page in used):
            raise RuntimeError(f"pages {sorted(used)} of {self.pages} are in use")
        homeless = [adapter.name for adapter in self._pins if adapter not in self._places]
        if homeless:
            raise RuntimeError(f"pinned adapters {homeless} have no pages")

    def _make_room(self, missing: list[Adapter]) -> None:
        """Forget idle adapters, oldest first; cut the window anew if it is too small for what is pinned, or too big."""
        pinned = self.size(self._pins)
        if pinned > self.pages or pinned * 4 <= self.pages:
            self._recut(min(_power_of_two(pinned), self.capacity))
        idle = [adapter for adapter in self._places if adapter not in self._pins]
        while idle and len(self._free()) < self.size(missing):
            del self._places[idle.pop(0)]

    def _recut(self, pages: int) -> None:
        kept = [adapter for adapter in self._places if adapter in self._pins]
        self._places.clear()
        self.pages = pages
        self._adapters = []
        for group, modules in GROUPS.items():
            first = self._weights.above[group]
            rows = self._weights.folded[group][:, : first + len(modules) * self.ranks]
            rows[:, first:] = 0
            self.both[group] = [self._both(group, layer, rows[layer]) for layer in range(len(rows))]
        for module, rows in self.expanded.items():
            rows[:, : self.ranks] = 0
            self.expand[module] = [self._matrix(layer[: self.ranks].t()) for layer in rows]
        for adapter in kept:
            self._place(adapter)

    def _both(self, group: str, layer: int, rows: torch.Tensor) -> Folded | Apart:
        if self._weights.packed:
            return Apart(self._weights.plain[group][layer], self._matrix(rows))
        return Folded(rows, self._weights.out[group])

    def _matrix(self, weight: torch.Tensor) -> Matrix:
        self._adapters.append(Matrix(weight, fixed=False))
        return self._adapters[-1]

    def _free(self) -> list[int]:
        used = {page for pages in self._places.values() for page in pages}
        return [page for page in range(self.pages) if page not in used]

    def _place(self, adapter: Adapter) -> None:
        pages = tuple(self._free()[: len(adapter.pages)])
        self._places[adapter] = pages
        self._change()
        for page, at in zip(adapter.pages, pages, strict=True):
            self._write(page, at * PAGE)

    def _change(self) -> None:
        self.version += 1
        self._unchanged = 0
        for matrix in self._adapters:
            matrix.unpack()

    def _write(self, page: Page, at: int) -> None:
        for group, modules in GROUPS.items():
            first = self._weights.above[group]
            rows = self._weights.folded[group][:, first : first + len(modules) * self.ranks]
            rows.unflatten(1, (len(modules), self.ranks))[:, :, at : at + PAGE] = page.shrink[group]
        for module, rows in self.expanded.items():
            rows[:, at : at + PAGE] = page.expand[module]


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()
