"""The demo's client tells a service that it can visit from one that it cannot."""

import asyncio

import pytest

from examples.miniwob.visit import Visit, checks
from services.cli.client import ServiceError
from tests.services.world import World, listening


async def test_a_service_of_other_adapters_is_refused(world: World) -> None:
    async with listening(world.app) as url:
        with pytest.raises(ValueError, match=r"has no arm '.*', expected a service of the embedded model's adapters"):
            await asyncio.to_thread(Visit, url)


def test_a_service_that_is_not_there_is_named() -> None:
    with pytest.raises(ServiceError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        Visit("http://127.0.0.1:9")


def test_a_lost_reward_fails_the_visit() -> None:
    figures = {
        "n": 100,
        "feedback": {"posted": 100, "recorded": 100},
        "matured": 100,
        "verified": True,
        "routed": {"success": 0.8},
        "best_single": {"success": 0.3},
    }
    assert all(check.ok for check in checks(figures))
    assert not all(check.ok for check in checks({**figures, "matured": 99}))
    assert not all(check.ok for check in checks({**figures, "verified": False}))
