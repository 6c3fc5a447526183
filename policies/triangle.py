"""Symmetric matrices as triangles: a quadratic form becomes one dot product over half of the memory."""

import numpy as np

from policies.checks import Array, Rows


class Triangle:
    """Packs symmetric A [d,d] into its upper triangle [t], t = d(d+1)/2, with doubled off-diagonal entries.

    So xᵀAx = pack(A)·form(x), for all arms at once a product of two matrices.
    """

    def __init__(self, d: int) -> None:
        self._rows, self._columns = np.triu_indices(d)
        self._twice = np.where(self._rows == self._columns, 1.0, 2.0)
        self._places, self._halves = _full(d, self._rows, self._columns)

    @property
    def size(self) -> int:
        """t."""
        return len(self._rows)

    def pack(self, A: Array) -> Array:
        """The triangle [t] of A [d,d]."""
        packed: Array = A[self._rows, self._columns] * self._twice
        return packed

    def unpack(self, packed: Array) -> Array:
        """The matrix [d,d] of a triangle [t]."""
        full: Array = packed.take(self._places)
        full *= self._halves
        return full

    def form(self, X: Array) -> Array:
        """x_i x_j [t] of x [d], or [t,B] of a batch [B,d]."""
        columns = np.ascontiguousarray(X.T)
        products = columns.take(self._rows, axis=0)
        products *= columns.take(self._columns, axis=0)
        return products

    def outer(self, x: Array, scale: float) -> Array:
        """The triangle [t] of scale·xxᵀ for x [d]."""
        packed: Array = (scale * x).take(self._rows)
        packed *= x.take(self._columns)
        packed *= self._twice
        return packed


def _full(d: int, rows: Rows, columns: Rows) -> tuple[Rows, Array]:
    """Where each entry [d,d] stands in the triangle, and what it is multiplied by."""
    places = np.zeros((d, d), dtype=np.intp)
    places[rows, columns] = places[columns, rows] = np.arange(len(rows))
    return places, np.where(np.eye(d, dtype=np.bool_), 1.0, 0.5)
