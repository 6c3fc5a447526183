"""The benchmark of the placement sees what it is there to see."""

from collections import Counter

import pytest

from benchmarks.placing.comparing import Block, Comparison, Pair
from benchmarks.placing.load import play, trace
from tests.services.conftest import adapters, contexts, engine, make_settings, make_world, world
from tests.services.world import World

__all__ = ["adapters", "contexts", "engine", "make_settings", "make_world", "world"]


def test_few_adapters_get_most_requests() -> None:
    counts = Counter(trace([f"a{number}" for number in range(20)], 4000, seed=1))
    assert counts["a0"] / 4000 == pytest.approx(1 / sum(1 / rank for rank in range(1, 21)), abs=0.02)
    assert counts["a0"] > 3 * counts["a4"] > 6 * counts["a19"]


def block(hits: int) -> Block:
    return Block(hits, 100 - hits, 0, [1.0], 0)


def test_a_gain_that_may_be_chance_is_not_above_zero() -> None:
    sure = Comparison([Pair(block(60 + n), block(40 - n)) for n in range(6)]).gain
    chance = Comparison([Pair(block(50 + n), block(50 - n)) for n in (-9, 8, -5, 6, -1, 2)]).gain
    assert sure.low > 0.19
    assert chance.low < 0 < chance.high


async def test_failures_are_told_with_their_words(world: World) -> None:
    asked = await play(world.http, ["inbox", "claims"] * 2, clients=2, seed=0)
    assert (len(asked.first_ms), asked.failures) == (4, [])
    world.engine.fails_after = 1
    asked = await play(world.http, ["inbox", "nobody"], clients=1, seed=0)
    assert [failure.status for failure in asked.failures] == [200, 404]
    assert "generation_failed" in asked.failures[0].said
    assert asked.first_ms == []
