"""Products with weights that stay: on a CPU packed once into the layout of its own kernels (oneDNN)."""

from typing import Any, Final

import torch

_WORTH: Final = 800_000
"""Multiplications from which a packed product makes up for the dearer call (measured; a call costs some 10 µs)."""

_LARGE: Final = 1 << 20
"""Numbers from which a weight is kept in its packed form alone: memory matters, and small products of it do not."""


class Matrix:
    """Multiplies with the transpose of a weight [out, in]."""

    def __init__(self, weight: torch.Tensor, *, fixed: bool = True) -> None:
        """A `fixed` weight is packed at once. One that is not must be unpacked before it changes."""
        self._size = weight.numel()
        self._worth = -(-_WORTH // max(self._size, 1))  # rows from which a packed product pays
        self._packs = packs(weight.device, weight.dtype)
        self._plain: torch.Tensor | None = weight.t()
        self._packed: Any = None
        if fixed:
            self.pack()
            if self._packed is not None and self._size >= _LARGE:
                self._plain = None

    def pack(self, rows: int = 512) -> None:
        """Prepare for inputs of up to `rows` rows; a weight that is not worth packing for so few stays as it is."""
        if self._packs and rows >= self._worth and self._plain is not None:
            self._packed = _pack(self._plain.t())

    def unpack(self) -> None:
        """Go back to the plain weight, which is about to change."""
        self._packed = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x Wᵀ [rows, out] of x [rows, in]."""
        if self._plain is None or self._pays(x):
            return _packed_product(x, self._packed)
        return torch.mm(x, self._plain)

    def add(self, y: torch.Tensor, x: torch.Tensor) -> None:
        """y += x Wᵀ."""
        if self._plain is None or self._pays(x):
            y += _packed_product(x, self._packed)
        else:
            y.addmm_(x, self._plain)

    def _pays(self, x: torch.Tensor) -> bool:
        return self._packed is not None and x.shape[0] >= self._worth


class Folded:
    """One product with weights and, below them, the shrink of the active adapters."""

    def __init__(self, weights: torch.Tensor, out: int) -> None:
        self._weights = weights.t()
        self._sizes = (out, len(weights) - out)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x Wᵀ and x Aᵀ."""
        y, shrunk = torch.mm(x, self._weights).split_with_sizes(self._sizes, 1)
        return y, shrunk


class Apart:
    """Two products, where the weights are packed and the adapters come and go."""

    def __init__(self, weights: Matrix, shrink: Matrix) -> None:
        self._weights = weights
        self._shrink = shrink

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x Wᵀ and x Aᵀ."""
        return self._weights(x), self._shrink(x)


class PackedLinear(torch.nn.Module):
    """A linear layer over rows, or a convolution whose windows do not overlap."""

    def __init__(self, layer: torch.nn.Linear | torch.nn.Conv3d) -> None:
        super().__init__()
        self._matrix = Matrix(layer.weight.detach().flatten(1))
        self._bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, out] of [rows, in]."""
        y = self._matrix(x)
        return y if self._bias is None else y.add_(self._bias)


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether weights are packed there. In other formats torch calls the same kernels by itself."""
    return device.type == "cpu" and dtype == torch.float32 and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


@torch.no_grad()
def _pack(weight: torch.Tensor) -> Any:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)


def _packed_product(x: torch.Tensor, packed: Any) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, None, "none", [], "")
    return product
