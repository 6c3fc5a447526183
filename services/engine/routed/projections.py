"""y = x Wᵀ + ((x Aᵀ) ⊙ G) B for a group of modules that read the same x, in the three forms that a batch can take."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch

from services.engine.routed.lora import Adapter
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
        return torch.mm(x, self._plain[group][layer])


class Packed(Projections):
    """Every row with its own gates over the active pages: one product for W and all A, then a B for each module."""

    def __init__(self, weights: Weights, window: PageWindow, shape: Shape, gates: torch.Tensor) -> None:
        """`gates` [T, ranks] of the window."""
        self._window = window
        self._gates = {group: gates.repeat(1, len(modules)) for group, modules in GROUPS.items()}
        ranks = gates.shape[1]
        self._splits = {group: (weights.out[group], len(modules) * ranks) for group, modules in GROUPS.items()}
        self._outs = {group: [shape.outputs[module] for module in modules] for group, modules in GROUPS.items()}

    def __call__(self, group: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        both = torch.mm(x, self._window.shrunk[group][layer])
        y, shrunk = both.split_with_sizes(self._splits[group], 1)
        gated = shrunk * self._gates[group]
        modules = GROUPS[group]
        outs = y.split_with_sizes(self._outs[group], 1)
        for module, out, rows in zip(modules, outs, gated.chunk(len(modules), 1), strict=True):
            out.addmm_(rows, self._window.expand[module][layer])
        return y


class Own(Projections):
    """All rows with the same adapters and gates: a prompt. Only these adapters are multiplied with."""

    def __init__(self, weights: Weights, shape: Shape, gates: Mapping[Adapter, float]) -> None:
        self._plain = weights.plain
        self._outs = {group: [shape.outputs[module] for module in modules] for group, modules in GROUPS.items()}
        self._shrink = {
            group: _joined([adapter.shrink[group] for adapter in gates], 2).flatten(1, 2) for group in GROUPS
        }
        self._expand = {
            module: _joined([_gated(adapter.expand[module], gate) for adapter, gate in gates.items()], 1)
            for module in shape.outputs
        }

    def __call__(self, group: str, layer: int, x: torch.Tensor) -> torch.Tensor:
        y = torch.mm(x, self._plain[group][layer])
        shrunk = torch.mm(x, self._shrink[group][layer].t())
        modules = GROUPS[group]
        outs = y.split_with_sizes(self._outs[group], 1)
        for module, out, rows in zip(modules, outs, shrunk.chunk(len(modules), 1), strict=True):
            out.addmm_(rows, self._expand[module][layer])
        return y


def own(weights: Weights, shape: Shape, gates: Mapping[Adapter, float]) -> Projections:
    """The projections of one sequence's prompt."""
    return Own(weights, shape, gates) if gates else Plain(weights)


def _joined(tensors: list[torch.Tensor], axis: int) -> torch.Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, axis)


def _gated(expand: torch.Tensor, gate: float) -> torch.Tensor:
    return expand if gate == 1 else expand * gate
