"""The figures of the load benchmark come from what was seen."""

import numpy as np
import pytest

from benchmarks.edge import http, pressure, rewards, soak
from benchmarks.edge.http import Row
from benchmarks.edge.pressure import Pressure, most_at_once
from benchmarks.edge.rewards import Rewards
from benchmarks.edge.traffic import Burst, Reply, chat, screen
from benchmarks.reporting import Check
from cluster.settings import Settings
from services.edge.chat import ChatReader
from services.schemas import ChatRequest


def reply(seconds: float) -> Reply:
    return Reply(200, seconds, {}, b"")


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.ok]


def test_a_leak_has_a_slope_and_noise_has_none() -> None:
    chance = np.random.default_rng(0)
    hour = np.arange(0, 3600, 5.0)
    noise = chance.normal(0, 1, len(hour))
    leak = soak.slope("Router", list(zip(hour, 100 + 60 * hour / 3600 + noise, strict=True)))
    calm = soak.slope("Router", list(zip(hour, 100 + noise, strict=True)))
    assert leak.low < 60 < leak.high
    assert leak.low > 50
    assert calm.low < 0 < calm.high
    assert calm.mib == pytest.approx(100, abs=1)


def test_quantiles_and_rates_are_of_the_replies() -> None:
    burst = Burst(2, 10.0, [reply(0.001 * n) for n in range(101)])
    assert burst.rate == pytest.approx(10.1)
    assert burst.ms(0.5) == pytest.approx(50)
    assert burst.ms(0.99) == pytest.approx(99)


def test_requests_that_are_open_together_are_counted() -> None:
    assert most_at_once([(0.0, reply(1.0)), (0.5, reply(1.0)), (1.2, reply(1.0)), (5.0, reply(1.0))]) == 2
    assert most_at_once([]) == 0


def test_what_is_promised_can_fail() -> None:
    rows = [Row(name, n, 10, p50, 1, 1, 0) for n in http.WORKERS for name, p50 in ((http.OURS, 16.0), ("noop", 10.0))]
    assert failed(http.checks(rows)) == ["p50 / noop, 1 client", "p50 / noop, 8 clients"]
    assert failed(rewards.checks(Rewards(4000, 1.0, 1, 2))) == [
        "rewards/s, durable",
        "acknowledged rewards lost",
        "acknowledged rewards doubled",
    ]
    without_end = Pressure(96, 32, 900, 0, 1, 0, 96, 0.0, 0.0, 9000.0)
    assert failed(pressure.checks(without_end)) == [
        "refused under overload",
        "otherwise failed",
        "most in flight or waiting",
    ]


async def test_the_screen_is_one_that_the_edge_takes() -> None:
    request = ChatRequest.model_validate_json(chat("Click.", screen(1)))
    prompt = await ChatReader(Settings().limits).read(request)
    assert 100_000 < len(prompt.images[0]) < 1_000_000
