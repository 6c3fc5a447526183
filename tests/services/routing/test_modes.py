"""Modes: who serves, what is frozen, what the guard does about it; all Routers follow."""

import time
from typing import Any

import pytest

from cluster.events import GuardReset, ModeChanged
from services.learning.states import WATCH
from services.learning.watch import guard_view
from tests.services.conftest import MakeWorld
from tests.services.learning.test_watch import bad_policy
from tests.services.world import World, chat, eventually


async def decided(world: World, text: str = "open the inbox") -> dict[str, Any]:
    """The logged decision of a chat."""
    view = await world.get(f"/v1/decisions/{(await world.ask(text))['id']}")
    decision: dict[str, Any] = view["decision"]
    return decision


async def set_mode(world: World, mode: str) -> dict[str, Any]:
    response = await world.post("/v1/mode", {"mode": mode})
    assert response.status_code == 200, response.text
    view: dict[str, Any] = response.json()
    return view


async def test_online_is_where_it_begins(world: World) -> None:
    assert await world.get("/v1/mode") == {"chosen": "online", "mode": "online", "policy": "linucb", "guard": None}
    taken = await decided(world)
    assert (taken["mode"], taken["policy"], taken["best"]) == ("online", "linucb", "inbox")


async def test_every_arm_that_was_eligible_has_its_cost_in_the_log(make_world: MakeWorld) -> None:
    world = await make_world(router={"top_arms": 1, "page_in_ms": 40})
    world.leave_resident("inbox")
    taken = await decided(world)
    assert dict(zip(taken["eligible"], taken["costs"], strict=True)) == {
        "base": 0.0, "calendar": 40.0, "claims": 40.0, "inbox": 0.0,
    }  # fmt: skip


async def test_in_shadow_the_supervised_policy_serves_and_the_other_learns(world: World) -> None:
    assert (await set_mode(world, "shadow"))["policy"] == "mlp"
    answer = await world.ask("open the inbox")
    await world.say({"decision_id": answer["id"], "reward": 1})
    assert (await world.arm("inbox"))["matured"] == 1
    state = await world.get("/v1/bandit")
    assert (state["mode"], state["policy"]) == ("shadow", "mlp")
    assert {policy["policy"]: policy["units"] for policy in state["policies"]} == {
        "linucb": 1, "mlp": 1, "supervised": 1,
    }  # fmt: skip
    assert (await decided(world))["mode"] == "shadow"


async def test_in_shadow_the_supervised_policy_explores_too(make_world: MakeWorld) -> None:
    world = await make_world(router={"mode": "shadow", "epsilon_uniform": 0.5, "burn_in": 5, "alpha": 5.0})
    propensities = [(await decided(world))["propensity"] for _ in range(12)]
    assert max(propensities) < 1


async def test_frozen_beliefs_do_not_move_and_nothing_is_lost(world: World) -> None:
    await world.ask("open the inbox")
    await world.fold()
    await set_mode(world, "frozen")
    await world.fold()
    posterior, x = (
        world.router.decider.snapshots.posterior,
        world.contexts.map([0.5] * world.contexts.input_dimension).x,
    )
    means, widths = posterior.means(x).tolist(), posterior.widths(x).tolist()
    answer = await world.ask("open the inbox")
    await world.say({"decision_id": answer["id"], "reward": 0})
    await world.fold()
    assert (posterior.means(x).tolist(), posterior.widths(x).tolist()) == (means, widths)
    assert posterior.statistics("inbox").pulls == 1
    assert (await decided(world))["mode"] == "frozen"
    await set_mode(world, "online")
    await world.fold()
    known = posterior.statistics("inbox")
    assert (known.pulls, known.matured) == (3, 1)
    assert posterior.means(x).tolist() != means


async def test_frozen_begins_with_beliefs_that_are_and_is_logged_so(world: World) -> None:
    """Until the Learner has frozen them the policy goes on as it did; thawed it decides on live ones at once."""
    await world.ask("open the inbox")
    await world.fold()
    assert (await set_mode(world, "frozen"))["chosen"] == "frozen"
    taken = await decided(world)
    assert (taken["mode"], taken["basis"]["frozen"]) == ("online", False)
    await world.fold()
    taken = await decided(world)
    assert (taken["mode"], taken["basis"]["frozen"]) == ("frozen", True)
    assert (await set_mode(world, "shadow"))["mode"] == "shadow"
    assert (await decided(world))["basis"]["frozen"] is False
    assert (await set_mode(world, "frozen"))["mode"] == "frozen"  # on those of the last freezing: it is not thawed yet
    await world.fold()
    assert (await decided(world))["mode"] == "frozen"


async def test_a_deployment_that_begins_frozen_decides_on_the_supervised_data(make_world: MakeWorld) -> None:
    world = await make_world(router={"mode": "frozen"})
    await world.say({"decision_id": (await world.ask("open the inbox"))["id"], "reward": 0})
    await world.fold()
    taken = await decided(world)
    assert (taken["mode"], taken["basis"]["frozen"]) == ("frozen", True)
    assert world.router.decider.snapshots.posterior.statistics("inbox").pulls == 0


async def test_a_frozen_arm_keeps_its_beliefs_under_another_name(world: World) -> None:
    await world.say({"decision_id": (await world.ask("open the inbox"))["id"], "reward": 0})
    await set_mode(world, "frozen")
    await world.ask("open the inbox")
    await world.fold()
    before = (await world.post("/v1/route", chat("open the inbox"))).json()
    await world.post("/v1/bandit/arms/inbox/rename", {"to": "mail"})
    await world.fold()
    after = (await world.post("/v1/route", chat("open the inbox"))).json()
    names = {"inbox": "mail"}
    known = {names.get(arm["arm"], arm["arm"]): arm for arm in before["arms"]}
    assert (after["arm"], after["supervised"]) == ("mail", "mail")
    for arm in after["arms"]:
        assert (arm["mean"], arm["width"], arm["gate"]) == pytest.approx(
            tuple(known[arm["arm"]][number] for number in ("mean", "width", "gate"))
        )


async def test_a_router_that_starts_while_it_is_frozen_has_the_frozen_beliefs(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.ask("open the inbox")
    await set_mode(world, "frozen")
    await world.ask("open the inbox")
    await world.fold()
    newer = await make_world()
    assert newer.router.decider.snapshots.posterior.statistics("inbox").pulls == 1
    assert (await newer.get("/v1/mode"))["mode"] == "frozen"


async def test_every_router_follows_and_the_change_is_in_the_log(make_world: MakeWorld) -> None:
    one, other = await make_world(), await make_world()
    await set_mode(one, "shadow")

    async def followed() -> bool:
        return bool((await other.get("/v1/mode"))["mode"] == "shadow")

    await eventually(followed)
    changes = [event for event in await one.events() if isinstance(event, ModeChanged)]
    assert [(change.mode, change.by) for change in changes] == [("shadow", "anonymous")]


async def test_the_mode_outlives_the_service_and_the_setting_is_for_a_new_one(make_world: MakeWorld) -> None:
    first = await make_world(router={"mode": "shadow"})
    assert (await first.get("/v1/mode"))["mode"] == "shadow"
    await set_mode(first, "online")
    again = await make_world(router={"mode": "shadow"})
    assert (await again.get("/v1/mode"))["mode"] == "online"


@pytest.mark.parametrize("mode", ["", "offline", None])
async def test_a_mode_that_is_none_is_refused(world: World, mode: object) -> None:
    response = await world.post("/v1/mode", {"mode": mode})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "mode")
    assert await world.store.mode() is None


async def alarm(world: World) -> None:
    """The log of a policy that is worse than the supervised one, folded."""
    for event in bad_policy():
        if event.type == "decision":
            await world.store.decide(event.model_copy(update={"router": world.contexts.fingerprint}))
        elif event.type == "feedback":
            await world.store.feedback([event])
    await world.fold()
    stored = (await world.store.changes()).blobs[WATCH]
    found = guard_view(stored)
    assert found
    assert found.alarm


@pytest.mark.parametrize("fallback", [True, False])
async def test_at_the_guards_alarm_the_supervised_policy_serves_if_so_configured(
    make_world: MakeWorld, fallback: bool
) -> None:
    world = await make_world(guard={"delta": 0.05, "fallback": fallback}, router={"epsilon_supervised": 0.05})
    await alarm(world)
    in_force = "fallback" if fallback else "online"
    assert (await decided(world))["mode"] == in_force
    view = await world.get("/v1/mode")
    assert (view["chosen"], view["mode"], view["policy"]) == ("online", in_force, "mlp" if fallback else "linucb")
    await world.store.heartbeat(time.time())
    assert "found worse" in (await world.get("/readyz"))["alarms"]["guard"]
    assert "pointsman_guard_alarm 1.0" in (await world.http.get("/metrics")).text
    assert (await world.post("/v1/guard/reset", {})).status_code == 200
    await world.fold()
    assert (await decided(world))["mode"] == "online"
    assert [event.by for event in await world.events() if isinstance(event, GuardReset)] == ["anonymous"]
    assert (await world.get("/readyz"))["alarms"] == {}


async def test_policies_beside_are_scored_and_shown(make_world: MakeWorld) -> None:
    world = await make_world(router={"shadow_policies": ["greedy", "fixed"], "fixed_arm": "claims"})
    answer = await world.ask("open the inbox")
    await world.say({"decision_id": answer["id"], "reward": 1})
    await world.fold()
    policies = {one["policy"]: one for one in (await world.get("/v1/bandit"))["policies"]}
    assert policies.keys() == {"linucb", "greedy", "fixed", "supervised"}
    assert (policies["greedy"]["value"], policies["greedy"]["effective"]) == (1.0, 1.0)
    assert policies["fixed"]["value"] is None
