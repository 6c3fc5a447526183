"""Explaining a stored decision: the reason in words, the beliefs then and now, what it is like, what became of it."""

import json
from typing import Any

import pytest

from cluster.events import ArmScore, Decision, EpisodeStep
from services.insight.explanation import reason
from tests.services.cli.test_cli import Terminal, plain
from tests.services.conftest import MakeWorld
from tests.services.learning.test_fold import decision
from tests.services.learning.test_sealing import COLD, sealer
from tests.services.world import World, listening


async def explain(world: World, id_: str) -> Any:
    return await world.get(f"/v1/decisions/{id_}/explain")


async def test_what_was_known_then_and_what_would_be_done_now(world: World) -> None:
    first = (await world.ask("open the inbox"))["id"]
    explained = await explain(world, first)
    assert explained["reason"].startswith("served inbox because its score was best: ")
    assert explained["outcome"] == "not folded yet"
    assert {label for label, _ in explained["nearest"]} == {"inbox"}
    assert [distance for _, distance in explained["nearest"]] == sorted(
        distance for _, distance in explained["nearest"]
    )
    then = explained["stored"]["decision"]["scored"]
    assert [arm["arm"] for arm in explained["now"]["arms"]] == [arm["arm"] for arm in then]
    for _ in range(30):
        await world.say({"decision_id": (await world.ask("open the inbox", model="inbox"))["id"], "reward": 0})
    await world.say({"decision_id": first, "reward": 0, "source": "judge"})
    await world.fold()
    explained = await explain(world, first)
    assert explained["stored"]["decision"]["scored"] == then
    assert explained["outcome"].startswith("matured: ")
    assert explained["outcome"].endswith("judge says 0.0")
    now = {arm["arm"]: arm["mean"] for arm in explained["now"]["arms"]}
    assert now["inbox"] < {arm["arm"]: arm["mean"] for arm in then}["inbox"] - 0.2
    assert explained["now"]["policy_version"] > explained["stored"]["decision"]["policy_version"]


async def test_it_follows_the_names_of_arms(world: World) -> None:
    id_ = (await world.ask("open the inbox"))["id"]
    await world.post("/v1/bandit/arms/inbox/rename", {"to": "mail"})
    await world.post("/v1/bandit/arms/claims/remove", {})
    await world.post("/v1/bandit/arms/base/freeze", {})
    await world.fold()
    explained = await explain(world, id_)
    now = explained["now"]
    assert explained["names"] == {"inbox": "mail"}
    assert now["arm"] == now["supervised"] == "mail"
    assert {arm["arm"] for arm in now["arms"]} == {"calendar", "mail"}


async def test_a_decision_of_another_trained_router_keeps_its_reason(world: World) -> None:
    made = decision("old", "inbox", features=b"\x00\x00", eligible=["inbox", "claims"], scored=[score("inbox", 0.5)])
    await world.store.decide(made)
    explained = await explain(world, "old")
    assert (explained["nearest"], explained["now"]) == ([], None)
    assert explained["reason"].startswith("served inbox because its score was best")


async def test_a_decision_that_has_left_redis_is_explained_as_before(world: World) -> None:
    id_ = (await world.ask("open the inbox"))["id"]
    await world.say({"decision_id": id_, "reward": 1})
    await world.fold()
    before = await explain(world, id_)
    await sealer(world, segment=1).step(COLD)
    assert await world.store.event_range() == []
    assert await explain(world, id_) == before


async def test_what_nobody_decided(world: World) -> None:
    response = await world.http.get("/v1/decisions/nobody/explain")
    assert (response.status_code, response.json()["error"]["param"]) == (404, "decision_id")


def score(arm: str, value: float) -> ArmScore:
    return ArmScore(arm=arm, mean=value, width=0.0, cost_ms=0.0, score=value)


STEP = EpisodeStep(number=2, kept="inbox", branch="best", masses={"best": 1.0}, coordinates="relative-1000")
SCORED = [score("claims", 0.9), score("inbox", 0.875)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"eligible": ["inbox"], "scored": [score("inbox", 0.5)]}, "it was the only arm that might serve"),
        ({"arm": "claims"}, "its score was best: 0.900 (mean 0.900, width 0.000, cost 0 ms), 0.025 above inbox"),
        ({"explored": True, "propensity": 0.015}, "chance led away from claims (propensity 0.015)"),
        ({"explored": True, "supervised": "inbox"}, "chance led away from claims, as the supervised router would"),
        ({"step": STEP}, "its episode goes by means and changes for a gain above 0.05: that of claims was +0.025"),
        ({"policy": "fixed"}, "the policy fixed always does"),
    ],
)
def test_reasons(changes: dict[str, Any], expected: str) -> None:
    made: Decision = decision(
        "d", "inbox", eligible=["inbox", "claims"], scored=SCORED, supervised="claims", explored=False
    )
    assert reason(made.model_copy(update=changes), 0.05).partition(" because ")[2].startswith(expected)


async def test_the_command_shows_it(make_world: MakeWorld) -> None:
    world = await make_world()
    id_ = (await world.ask("open the inbox"))["id"]
    await world.settle()
    async with listening(world.app) as url:
        terminal = Terminal(url)
        said = plain(await terminal("explain", id_))
        assert "served inbox because its score was best" in said
        assert "outcome: not folded yet" in said
        assert "now: v1 would serve inbox" in said
        await world.post("/v1/bandit/arms/inbox/rename", {"to": "mail"})
        await world.fold()
        assert "inbox (now mail)" in plain(await terminal("explain", id_))
        assert json.loads(await terminal("explain", id_, "--json"))["stored"]["decision"]["id"] == id_
