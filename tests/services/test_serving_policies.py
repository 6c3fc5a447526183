"""Every policy serves by its name in the settings, and its decisions can be evaluated."""

from typing import get_args

import pytest

from cluster.settings import PolicyName
from tests.services.conftest import MakeWorld


@pytest.mark.parametrize("policy", get_args(PolicyName))
async def test_a_policy_serves_by_its_name(make_world: MakeWorld, policy: str) -> None:
    mixing = {"epsilon_supervised": 0.1, "epsilon_uniform": 0.1, "alpha": 2.0, "samples": 50, "neighbours": 3}
    world = await make_world(router=mixing | {"policy": policy, "fixed_arm": "inbox"})
    arms = set()
    for i in range(4):
        answer = await world.ask(f"{i}: open the inbox", metadata={"task": "inbox"})
        routing = answer["routing"]
        assert routing["policy"] == policy
        assert routing["propensity"] < 1
        arms.add(routing["arm"] if not routing["explored"] else "inbox")
    assert arms == {"inbox"}
