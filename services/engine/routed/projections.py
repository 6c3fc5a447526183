"""y = x Wᵀ + ((x Aᵀ) ⊙ G) B for a group of modules that read the same x, in the three forms that a batch can take."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

from services.engine.base import Gate
from services.engine.routed.layout import Adapter
from services.engine.routed.pages import PageWindow
from services.engine.routed.shape import GROUPS, Shape
from services.engine.routed.weights import Weights


class Projections(ABC):
    """Computes the linear layers of a forward pass."""

    @abstractmethod
    def __call__(self, group: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        """y [T, out] of x [T, in]. The caller may change y, whose rows need not be contiguous."""


class Plain(Projections):
    """The base alone."""

    def __init__(self, weights: Weights) -> None:
        self._plain = weights.plain

    def __call__(self, group: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        return self._plain[group][layer](x)


class Packed(Projections):
    """Every row with its own gates over the active pages: one product for W and all A, then a B for each module."""

    def __init__(self, window: PageWindow, shape: Shape, gates: torch.Tensor) -> None:
        """`gates` [1 or layers, T, ranks] of the window."""
        self._window = window
        times = shape.layers // len(gates)
        self._gates = {group: [*gates.repeat(1, 1, len(modules))] * times for group, modules in GROUPS.items()}
        self._outs = {group: [shape.outputs[module] for module in modules] for group, modules in GROUPS.items()}

    def __call__(self, group: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        y, shrunk = self._window.both[group][layer](x)
        gated = shrunk * self._gates[group][layer]
        modules = GROUPS[group]
        if len(modules) == 1:
            self._window.expand[modules[0]][layer].add(y, gated)
            return y
        outs = y.split_with_sizes(self._outs[group], 1)
        for module, out, rows in zip(modules, outs, gated.chunk(len(modules), 1), strict=True):
            self._window.expand[module][layer].add(out, rows)
        return y


class Own:
    """The adapters of one prompt, the same for all its rows."""

    def __init__(self, shape: Shape, gates: Mapping[Adapter, Gate]) -> None:
        self._outs = {group: [shape.outputs[module] for module in modules] for group, modules in GROUPS.items()}
        pages = [(page, gate) for adapter, gate in gates.items() for page in adapter.pages]
        self._shrink = {group: _joined([page.shrink[group] for page, _ in pages], 2).flatten(1, 2) for group in GROUPS}
        self._expand = {
            module: _joined([_gated(page.expand[module], gate) for page, gate in pages], 1) for module in shape.outputs
        }

    def add(self, group: str, layer: int, y: torch.Tensor, x: torch.Tensor) -> None:
        """Add to y [T, out] what the adapters make of x [T, in]."""
        shrunk = torch.mm(x, self._shrink[group][layer].t())
        modules = GROUPS[group]
        outs = y.split_with_sizes(self._outs[group], 1)
        for module, out, rows in zip(modules, outs, shrunk.chunk(len(modules), 1), strict=True):
            out.addmm_(rows, self._expand[module][layer])


class Prompts(Projections):
    """Prompts one below the other: the base for all of them at once, then for each its own adapters alone."""

    def __init__(self, plain: Plain, parts: Sequence[tuple[slice, Own]]) -> None:
        """`parts`: the rows that have adapters, and theirs."""
        self._plain = plain
        self._parts = parts

    def __call__(self, group: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        y = self._plain(group, layer, x)
        for rows, own in self._parts:
            own.add(group, layer, y[rows], x[rows])
        return y


def _joined(tensors: list[torch.Tensor], axis: int) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, axis)


def _gated(expand: torch.Tensor, gate: Gate) -> torch.Tensor:
    if isinstance(gate, tuple):
        return expand * expand.new_tensor(gate)[:, None, None]
    return expand if gate == 1 else expand * gate
