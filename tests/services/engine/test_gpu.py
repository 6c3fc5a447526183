"""The engine's graphs and kernels, where there is a GPU."""

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_logits_are_pefts_in_float32_and_as_near_as_pefts_in_bfloat16() -> None:
    from benchmarks.engines.precision import precision
    from benchmarks.engines.shapes import SMALL

    for errors in precision(SMALL, "cuda"):
        assert errors.float32 <= 1e-4, errors
        assert errors.ours <= 1.25 * errors.peft, errors
