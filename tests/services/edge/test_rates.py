"""A key that asks too often is told to wait; others are not held up by it."""

from collections import Counter
from typing import Any

from tests.services.auth_keys import bearer, keys
from tests.services.conftest import MakeWorld
from tests.services.world import World

TRIES = 12


async def statuses(world: World, name: str) -> Counter[int]:
    seen: Counter[int] = Counter()
    for _ in range(TRIES):
        response = await world.http.get("/v1/models", headers={"Authorization": bearer(name)})
        seen[response.status_code] += 1
    return seen


async def limited(make_world: MakeWorld, **limits: Any) -> World:
    swift = [{**entry, "per_minute": 0} for entry in keys("swift")]
    slow = [{**entry, "per_minute": 3} for entry in keys("slow")]
    world: World = await make_world(auth={"keys": [*keys("plain"), *swift, *slow]}, limits=limits)
    return world


def held_to(rate: int, seen: Counter[int]) -> bool:
    """One more where the minute turns between two requests."""
    return rate <= seen[200] <= rate + 1 and seen[200] + seen[429] == TRIES


async def test_each_key_has_its_own_rate_or_the_common_one(make_world: MakeWorld) -> None:
    world = await limited(make_world, per_minute=6)
    assert held_to(3, await statuses(world, "slow"))
    assert held_to(6, await statuses(world, "plain"))
    assert await statuses(world, "swift") == {200: TRIES}


async def test_without_a_common_rate_only_the_keys_own_counts(make_world: MakeWorld) -> None:
    world = await limited(make_world)
    assert await statuses(world, "plain") == {200: TRIES}
    assert held_to(3, await statuses(world, "slow"))


async def test_the_refusal_says_how_long_to_wait_and_comes_before_the_body_is_read(make_world: MakeWorld) -> None:
    world = await limited(make_world)
    await statuses(world, "slow")
    body, headers = b"{no JSON", {"Authorization": bearer("slow"), "Content-Type": "application/json"}
    response = await world.http.post("/v1/feedback", content=body, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert error["message"] == "key 'slow' asked more than 3 times a minute"
    assert 1 <= int(response.headers["retry-after"]) <= 120


async def test_health_is_never_refused(make_world: MakeWorld) -> None:
    world = await limited(make_world, per_minute=1)
    assert {(await world.http.get("/healthz")).status_code for _ in range(TRIES)} == {200}
