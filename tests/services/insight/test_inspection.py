"""What an operator can ask: bandit, arms, decisions, episodes, adapters."""

import pytest

from services.insight.inspection import wilson
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES
from tests.services.world import World


async def test_the_bandit_before_anything_happened(world: World) -> None:
    state = await world.get("/v1/bandit")
    assert (state["policy"], state["policy_version"], state["router"]) == ("linucb", 1, world.contexts.fingerprint)
    assert (state["contexts"], state["learner_age_s"]) == (0, None)
    assert [arm["arm"] for arm in state["arms"]] == ["base", *FAMILIES]
    assert {arm["posterior_mean"] for arm in state["arms"]} == {None}
    hashes = {arm["arm"]: arm["adapter_hash"] for arm in state["arms"]}
    assert hashes == {"base": None} | {family: world.registry[family].fingerprint for family in FAMILIES}


async def test_the_bandit_shows_beliefs_freshness_and_residency(world: World) -> None:
    await world.ask("open the inbox")
    await world.store.heartbeat(1.0)
    assert (await world.get("/v1/bandit"))["contexts"] == 1
    await world.fold()
    world.leave_resident("inbox")
    await world.ask("open the inbox")
    await world.settle()
    state = await world.get("/v1/bandit")
    arms = {arm["arm"]: arm for arm in state["arms"]}
    assert state["contexts"] == 2
    assert state["learner_age_s"] > 0
    assert (state["behind_events"], state["behind_s"] >= 0) == (2, True)  # a decision and its completion
    assert arms["inbox"]["posterior_mean"] > 0.5 > arms["claims"]["posterior_mean"]
    assert 0 < arms["inbox"]["posterior_width"] < 1
    assert arms["inbox"]["served_mean"] == pytest.approx(arms["inbox"]["posterior_mean"])  # it served them all
    assert (arms["claims"]["served_mean"], arms["claims"]["served_width"]) == (None, None)
    assert {name: arm["resident"] for name, arm in arms.items()} == {
        "base": True, "inbox": True, "calendar": False, "claims": False,
    }  # fmt: skip
    assert (arms["inbox"]["prior_trust"], arms["inbox"]["updated"] is None) == (1.0, False)


async def test_drift_is_found_while_a_supervised_policy_serves(make_world: MakeWorld) -> None:
    world = await make_world(router={"policy": "mlp"}, learner={"drift_threshold": 3.0, "drift_trust": 0.5})
    for i in range(12):
        answer = await world.ask(f"{i}: open the inbox")
        assert await world.say({"decision_id": answer["id"], "reward": 0}) == ["recorded"]
    broken = await world.arm("inbox")
    assert broken["drifts"][0]["worse"]
    assert broken["drifts"][0]["kappa"] == 0.5
    assert broken["prior_trust"] == broken["drifts"][-1]["kappa"] < 1.0
    assert (await world.arm("claims"))["drifts"] == []


async def test_one_arm(world: World) -> None:
    await world.ask("open the inbox")
    assert (await world.arm("inbox"))["pulls"] == 1
    assert (await world.arm("base"))["pulls"] == 0


async def test_decisions_come_newest_first_in_pages(world: World) -> None:
    ids = [(await world.ask())["id"] for _ in range(5)]
    newest = await world.get("/v1/decisions?limit=2")
    assert [view["decision"]["id"] for view in newest] == [ids[4], ids[3]]
    rest = await world.get(f"/v1/decisions?before={ids[3]}")
    assert [view["decision"]["id"] for view in rest] == [ids[2], ids[1], ids[0]]
    assert await world.get(f"/v1/decisions?before={ids[0]}") == []


async def test_a_decision_and_what_became_of_it(world: World) -> None:
    answer = await world.ask()
    await world.settle()
    view = await world.get(f"/v1/decisions/{answer['id']}")
    assert view["decision"]["arm"] == "calendar"
    assert "features" not in view["decision"]
    assert view["completion"]["completion_tokens"] == 3
    assert (view["cancellation"], view["observations"], view["ledger"]) == (None, {}, None)
    await world.say({"decision_id": answer["id"], "reward": 0.5, "source": "judge"})
    await world.fold()
    view = await world.get(f"/v1/decisions/{answer['id']}")
    assert view["observations"] == {"anonymous/judge": [0.5, False]}
    assert view["ledger"] == {
        "tick": 1, "arm": "calendar", "status": "matured", "weight": 1.0,
        "rewards": {"anonymous/judge": 0.5}, "voices": {}, "answered": True,
        "counted": {"reward": 0.5, "weights": {"linucb": 1.0, "supervised": 1.0}},
        "watched": {
            "own": 1.0, "reference": 1.0, "same": True, "guarded": True, "policy": "linucb", "others": {},
        },
    }  # fmt: skip


async def test_adapters(world: World) -> None:
    views = await world.get("/v1/adapters")
    assert [view["name"] for view in views] == list(FAMILIES)
    registered = world.registry["inbox"]
    assert views[2] == {
        "name": "inbox",
        "fingerprint": registered.fingerprint,
        "rank": 2,
        "targets": ["q_proj", "v_proj"],
        "bytes": registered.size,
        "source": str(registered.path),
        "description": "",
        "tags": [],
        "coordinates": "relative-1000",
        "pinned": False,
        "suspended": None,
    }


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/bandit/arms/nobody", "arm"),
        ("/v1/decisions/nobody", "decision_id"),
        ("/v1/decisions?before=nobody", "before"),
        ("/v1/episodes/nobody", "episode_id"),
    ],
)
async def test_what_is_unknown_is_named(world: World, path: str, param: str) -> None:
    response = await world.http.get(path)
    error = response.json()["error"]
    assert response.status_code == 404
    assert (error["type"], error["param"], error["code"]) == ("not_found_error", param, "not_found")
    assert "'nobody'" in error["message"]


@pytest.mark.parametrize("limit", ["0", "1001", "many"])
async def test_a_page_has_a_size(world: World, limit: str) -> None:
    response = await world.http.get(f"/v1/decisions?limit={limit}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "limit")
    assert limit in response.json()["error"]["message"]


def test_wilson_intervals() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
