"""What the API's own schema allows, generated and sent: nothing that a client can say makes the service fail."""

import asyncio
from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.services.conftest import MakeWorld
from tests.services.world import World, chat, end, listening

EXAMPLES = 20
TIMEOUT_S = 30.0
STREAM = "/v1/live"  # each answer lasts as long as a viewer may stay: tests/services/test_dashboard.py reads it


def operations(url: str) -> list[Any]:
    schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found = [each.ok() for each in schema.get_all_operations()]
    return [each for each in found if each.path != STREAM]


def try_out(operation: Any) -> Counter[int]:
    """Send what its schema generates; how often each status came back."""
    seen: Counter[int] = Counter()

    @seed(7)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def send(case: Any) -> None:
        response = case.call(timeout=TIMEOUT_S)
        seen[response.status_code] += 1
        assert response.status_code < 500, f"{operation.label}: {response.status_code} {response.text[:500]}"

    send()
    return seen


@pytest.mark.timeout(600)
async def test_nothing_that_the_schema_allows_makes_the_service_fail(make_world: MakeWorld) -> None:
    world: World = await make_world(limits={"images": 2})
    answer = await world.ask("open the inbox")
    await world.say({"decision_id": answer["id"], "reward": 1})
    await world.fold()
    running = asyncio.create_task(world.learner.run(world.registry))
    async with listening(world.app) as url:
        tried = await asyncio.to_thread(operations, url)
        assert len(tried) > 25
        statuses = {each.label: await asyncio.to_thread(try_out, each) for each in tried}
    await end(running)
    total = sum(statuses.values(), Counter[int]())
    assert total[200] > EXAMPLES, statuses
    assert sum(total.values()) > 10 * len(tried), statuses
    after = await world.post("/v1/chat/completions", chat("open the inbox"))
    assert after.status_code == 200, after.text
