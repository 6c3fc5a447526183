"""The arithmetic of the trained router, in float64 numpy: the same numbers in every process, and no torch to serve."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from policies import checks
from policies.checks import Array

EPSILON = 1e-5


@dataclass(frozen=True, eq=False)
class Projection:
    """h [D] = text ‖ vision ‖ has_image to x = [1 ; a/‖a‖ ; components·(u − center)] and g = softmax((W₂a + b₂)/τ).

    u = LayerNorm(h), a = tanh(W₁u + b₁). W1 [H,D], b1 [H], W2 [K,H], b2 [K]; center [D] and components [m,D] are a
    PCA of u, whitened and divided by √m: so d = 1 + H + m, and both parts of x have a length near 1.
    apart [L,K,H+1] is what the heads of the L decoder blocks add to [W₂ b₂]; L = 0: they are all the same.
    """

    W1: Array
    b1: Array
    W2: Array
    b2: Array
    center: Array
    components: Array
    temperature: float = 1.0
    apart: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))

    def __post_init__(self) -> None:
        hidden, width, arms, m = len(self.b1), len(self.center), len(self.b2), len(self.components)
        checks.array("W1", self.W1, (hidden, width))
        checks.array("b1", self.b1, (hidden,))
        checks.array("W2", self.W2, (arms, hidden))
        checks.array("b2", self.b2, (arms,))
        checks.array("center", self.center, (width,))
        checks.array("components", self.components, (m, width))
        if self.apart.size:
            checks.array("apart", self.apart, (None, arms, hidden + 1))
        checks.number("temperature", self.temperature, np.finfo(np.float64).tiny)

    @property
    def input_dimension(self) -> int:
        """D, the length of h."""
        return len(self.center)

    @property
    def dimension(self) -> int:
        """d, the length of x."""
        return 1 + len(self.b1) + len(self.components)

    def apply(self, H: npt.ArrayLike) -> tuple[Array, Array]:
        """X [n,d] and G [n,K] of features H [n,D]. ValueError: another D, a number that is not finite."""
        u, hidden = self._hidden(H)
        length = np.maximum(np.linalg.norm(hidden, axis=1, keepdims=True), EPSILON)
        whitened = (u - self.center) @ self.components.T
        X = np.hstack([np.ones((len(u), 1)), hidden / length, whitened])
        return X, _softmax((hidden @ self.W2.T + self.b2) / self.temperature)

    def layer_gates(self, H: npt.ArrayLike) -> Array:
        """G [n,L,K] of features H [n,D], those of each decoder block. ValueError: as in `apply`."""
        _, hidden = self._hidden(H)
        shared = hidden @ self.W2.T + self.b2
        own = np.einsum("lkj,nj->nlk", self.apart, np.hstack([hidden, np.ones((len(hidden), 1))]))
        return _softmax((shared[:, np.newaxis] + own) / self.temperature)

    def _hidden(self, H: npt.ArrayLike) -> tuple[Array, Array]:
        """u [n,D] and a [n,H]."""
        u = normalise(checks.array("h", H, (None, self.input_dimension)))
        return u, np.tanh(u @ self.W1.T + self.b1)


def normalise(H: Array) -> Array:
    """u [n,D]: LayerNorm without affine over text ‖ vision, the image flag as it is."""
    body, flag = H[:, :-1], H[:, -1:]
    body = body - body.mean(axis=1, keepdims=True)
    return np.hstack([body / np.sqrt(np.mean(body**2, axis=1, keepdims=True) + EPSILON), flag])


def _softmax(z: Array) -> Array:
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    gates: Array = powers / powers.sum(axis=-1, keepdims=True)
    return gates
