"""Every policy serves by its name in the settings, and its decisions can be evaluated."""

from typing import get_args

import pytest

from cluster.settings import PolicyName
from tests.services.cli.test_cli import Terminal, plain
from tests.services.conftest import MakeWorld
from tests.services.world import chat, listening


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


async def test_the_error_of_an_estimated_propensity_is_stated(make_world: MakeWorld) -> None:
    """Thompson sampling's is a share of draws; it is in the log, in the explanation, and in what people read."""
    world = await make_world(router={"policy": "lints", "alpha": 3.0, "samples": 100})
    explained = (await world.post("/v1/route", chat("open the window"))).json()
    p = explained["propensity"]
    assert 0 < p < 1
    assert explained["propensity_error"] == pytest.approx((p * (1 - p) / 100) ** 0.5)
    answer = await world.ask("open the window")
    view = await world.get(f"/v1/decisions/{answer['id']}/explain")
    logged = view["stored"]["decision"]
    p = logged["propensity"]
    assert logged["propensity_error"] == pytest.approx((p * (1 - p) / 100) ** 0.5)
    assert view["now"]["propensity_error"] >= 0
    async with listening(world.app) as url:
        said = plain(await Terminal(url)("explain", answer["id"]))
    assert f"propensity {p:.3f} ± {logged['propensity_error']:.3f}" in said
    exact = await make_world(router={"epsilon_uniform": 0.5, "alpha": 3.0})
    assert (await exact.post("/v1/route", chat())).json()["propensity_error"] == 0.0
