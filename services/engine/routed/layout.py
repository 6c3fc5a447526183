"""How an adapter lies in memory: whole pages of rank rows, each page one contiguous run of numbers.

A page holds 8 rank rows of every module in every layer, A and B. So an adapter goes from host to device as one copy of
its pages, wherever there are free ones, and never takes more room than its rank needs:

    page: | qkv: A [layers, modules, 8, in] | o: A | gate_up: A | down: A | q_proj: B [layers, 8, out] | … |
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from services.adapters.tiers import PAGE
from services.engine.routed.shape import GROUPS, Shape
from services.engine.tower import TowerLora


@dataclass(frozen=True, eq=False)
class Page:
    """Views of one page. The scale α/r (rsLoRA: α/√r) is in `expand`; rows that the rank does not fill are zero."""

    shrink: Mapping[str, torch.Tensor]  # group: [layers, modules, 8, in]
    expand: Mapping[str, torch.Tensor]  # module: [layers, 8, out]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA on the device, ready to be multiplied with."""

    name: str
    rank: int
    pages: tuple[Page, ...]
    tower: TowerLora = field(default_factory=lambda: TowerLora({}))


@dataclass(frozen=True, eq=False)
class HostAdapter:
    """A LoRA in host memory, in the engine's own layout."""

    name: str
    rank: int
    data: torch.Tensor  # [pages, numbers of a page]
    tower: TowerLora = field(default_factory=lambda: TowerLora({}))

    @property
    def pages(self) -> int:
        """Pages that it takes."""
        return len(self.data)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.data.nbytes + self.tower.nbytes


class PageLayout:
    """Where the parts of a page begin, for one model."""

    def __init__(self, shape: Shape) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {
            **{group: (shape.layers, len(ms), PAGE, shape.inputs[group]) for group, ms in GROUPS.items()},
            **{module: (shape.layers, PAGE, out) for module, out in shape.outputs.items()},
        }
        self.size = sum(map(math.prod, self._shapes.values()))

    def page(self, numbers: torch.Tensor) -> Page:
        """The views of a page's numbers [size]."""
        parts = torch.split(numbers, [math.prod(shape) for shape in self._shapes.values()])
        views = {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
        return Page(
            {name: view for name, view in views.items() if name in GROUPS},
            {name: view for name, view in views.items() if name not in GROUPS},
        )

    def adapter(self, host: HostAdapter, device: torch.device) -> Adapter:
        """The adapter with memory of its own on a device."""
        return Adapter(host.name, host.rank, tuple(map(self.page, host.data.to(device))), host.tower.to(device))
