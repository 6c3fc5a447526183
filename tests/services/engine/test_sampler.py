"""Drawing tokens: greedy at 0, the nucleus above, the same again with a seed, less of what was said already."""

from collections import Counter

import pytest
import torch

from services.engine.base import Sampling
from services.engine.sampler import Sampler

LOGITS = torch.log(torch.tensor([0.1, 0.5, 0.15, 0.25]))


def draws(
    n: int, logits: torch.Tensor = LOGITS, *, temperature: float, top_p: float = 1.0, seed: int | None = None
) -> list[int]:
    sampler = Sampler(Sampling(1, temperature, top_p, seed))
    return [sampler.draw(logits) for _ in range(n)]


def test_temperature_zero_is_greedy() -> None:
    assert draws(5, temperature=0.0, seed=1) == [1] * 5


def test_frequencies_are_the_probabilities() -> None:
    counts = Counter(draws(4000, temperature=1.0, seed=3))
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx([0.1, 0.5, 0.15, 0.25], abs=0.03)


def test_temperature_sharpens_and_flattens() -> None:
    counts = Counter(draws(4000, temperature=0.5, seed=3))
    squares = [0.01, 0.25, 0.0225, 0.0625]
    assert [counts[i] / 4000 for i in range(4)] == pytest.approx([s / sum(squares) for s in squares], abs=0.03)


@pytest.mark.parametrize(
    ("top_p", "kept"), [(0.4, {1}), (0.5, {1}), (0.6, {1, 3}), (0.75, {1, 3}), (0.8, {1, 2, 3}), (1.0, {0, 1, 2, 3})]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: set[int]) -> None:
    assert set(draws(400, temperature=1.0, top_p=top_p, seed=5)) == kept


def test_a_seed_repeats_the_draws() -> None:
    assert draws(50, temperature=1.0, seed=7) == draws(50, temperature=1.0, seed=7)
    assert draws(50, temperature=1.0, seed=7) != draws(50, temperature=1.0, seed=8)
    assert draws(50, temperature=1.0) != draws(50, temperature=1.0)
    draws(2, temperature=1.0, seed=-1)
    draws(2, temperature=1.0, seed=2**70)


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-8, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_no_temperature_breaks_the_batch(temperature: float, dtype: torch.dtype) -> None:
    logits = (1000 * LOGITS).to(dtype)
    assert set(draws(20, logits, temperature=temperature, seed=1)) == {1}


def test_a_frequent_token_gives_way_and_a_present_one_only_once() -> None:
    logits = torch.tensor([1.0, 0.5, -9.0])
    frequent = Sampler(Sampling(1, frequency_penalty=0.3))
    assert [frequent.draw(logits) for _ in range(6)] == [0, 0, 1, 0, 1, 0]
    present = Sampler(Sampling(1, presence_penalty=0.6))
    assert [present.draw(logits) for _ in range(4)] == [0, 1, 0, 0]
    assert logits.tolist() == [1.0, 0.5, -9.0]


def test_penalties_change_the_chances_too() -> None:
    sampler = Sampler(Sampling(1, temperature=1.0, seed=1, presence_penalty=-2.0))
    counts = Counter(sampler.draw(torch.zeros(50)) for _ in range(400))
    assert max(counts.values()) > 10  # 8 each without the bonus for what was said already
    assert not Sampler(Sampling(1, presence_penalty=1.0)).greedy
