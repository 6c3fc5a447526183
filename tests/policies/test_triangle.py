import numpy as np
import pytest

from policies.triangle import Triangle


@pytest.mark.parametrize("d", [1, 2, 7])
def test_a_triangle_is_the_matrix(d: int) -> None:
    rng, triangle = np.random.default_rng(d), Triangle(d)
    root, X = rng.normal(size=(d, d)), rng.normal(size=(5, d))
    A = root @ root.T
    packed = triangle.pack(A)
    assert packed.shape == (triangle.size,) == (d * (d + 1) // 2,)
    assert triangle.unpack(packed) == pytest.approx(A)
    assert packed @ triangle.form(X) == pytest.approx([x @ A @ x for x in X])
    assert packed @ triangle.form(X[0]) == pytest.approx(X[0] @ A @ X[0])
    assert triangle.outer(X[0], 0.3) == pytest.approx(triangle.pack(0.3 * np.outer(X[0], X[0])))
