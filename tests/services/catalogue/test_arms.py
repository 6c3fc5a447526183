"""Arms while the service runs: added, removed, frozen, renamed, and every Router follows."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.events import ArmRenamed, Decision
from policies.context import ContextMap
from policies.evidence import ArmStatistics
from services.adapters.registry import Registry
from services.catalogue.arms import register
from services.configuration import learning_config
from services.engine.base import Message, Part, Prompt, Sampling
from services.learning.learner import Learner
from services.learning.verification import verify
from services.routing.call import Call
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES
from tests.services.insight.test_replay import replayed
from tests.services.learning.test_sealing import COLD, folding, sealer
from tests.services.world import BASE, World, chat, eventually, write_adapters

ALL = ["base", *FAMILIES]


async def change(world: World, arm: str, verb: str, **body: Any) -> Any:
    """Change an arm, and wait until its Router follows."""
    response = await world.post(f"/v1/bandit/arms/{arm}/{verb}", body)
    assert response.status_code == 200, response.text
    await world.fold()
    return response.json()


async def names(world: World) -> list[str]:
    return [arm["arm"] for arm in (await world.get("/v1/bandit"))["arms"]]


async def eligible(world: World) -> list[str]:
    """What a request would choose among."""
    explained = (await world.post("/v1/route", chat("open the inbox"))).json()
    return sorted(arm["arm"] for arm in explained["arms"])


async def test_a_frozen_arm_is_routed_to_no_more(world: World) -> None:
    first = await world.ask("open the inbox")
    done = await change(world, "inbox", "freeze")
    assert (done["arm"], done["changed"], done["record"]["state"]) == ("inbox", True, "frozen")
    assert (await world.ask("open the inbox"))["routing"]["arm"] != "inbox"
    assert await eligible(world) == ["base", "calendar", "claims"]
    assert (await world.ask("open the calendar", model="inbox"))["routing"]["arm"] == "inbox"
    await world.say({"decision_id": first["id"], "reward": 1})
    arm = await world.arm("inbox")
    assert (arm["state"], arm["matured"], arm["pulls"]) == ("frozen", 1, 2)
    assert not (await change(world, "inbox", "freeze"))["changed"]
    await change(world, "inbox", "unfreeze")
    assert (await world.ask("open the inbox"))["routing"]["arm"] == "inbox"


async def test_when_nothing_may_serve(world: World) -> None:
    for arm in ALL:
        await change(world, arm, "freeze")
    bodies: list[dict[str, Any]] = [{}, {"routing": {"arms": ["inbox"]}}]
    for body in bodies:
        response = await world.post("/v1/chat/completions", chat(**body))
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (409, "no_arm")
        assert "frozen" in error["message"]


async def test_a_removed_arm_serves_nobody_and_comes_back_with_what_it_knew(world: World) -> None:
    await world.say({"decision_id": (await world.ask("open the inbox"))["id"], "reward": 0})
    before = await world.arm("inbox")
    assert (await change(world, "inbox", "remove"))["record"]["state"] == "removed"
    assert await names(world) == ["base", "calendar", "claims"]
    assert (await world.post("/v1/chat/completions", chat(model="inbox"))).status_code == 404
    listed = [card["id"] for card in (await world.get("/v1/models"))["data"]]
    assert not any("inbox" in name for name in listed)
    await register(world.store, world.registry)  # a restart does not bring it back
    assert (await world.get("/v1/arms"))["inbox"]["state"] == "removed"
    await change(world, "inbox", "add")
    back = await world.arm("inbox")
    for known in ("pulls", "matured", "posterior_mean", "posterior_width"):
        assert back[known] == pytest.approx(before[known])


async def test_what_is_under_way_ends_at_a_removed_arm(world: World) -> None:
    answer = await world.ask("open the inbox")
    await change(world, "inbox", "remove")
    assert await world.say({"decision_id": answer["id"], "reward": 1}) == ["recorded"]
    await world.fold()
    await change(world, "inbox", "add")
    assert ((await world.arm("inbox"))["matured"], (await world.arm("inbox"))["pending"]) == (1, 0)


class TestRename:
    async def test_prior_gate_evidence_and_pending_go_along(self, world: World) -> None:
        rewarded, waiting = [(await world.ask("open the inbox"))["id"] for _ in range(2)]
        await world.say({"decision_id": rewarded, "reward": 0.25})
        before = await world.arm("inbox")
        explained = (await world.post("/v1/route", chat("open the inbox"))).json()
        done = await change(world, "inbox", "rename", to="mail")
        assert (done["arm"], done["record"]["serves"], done["record"]["former"]) == ("mail", "inbox", ["inbox"])
        assert await names(world) == ["base", "calendar", "claims", "mail"]
        after = await world.arm("mail")
        assert {**after, "arm": "inbox"} == {**before, "updated": after["updated"]}
        again = (await world.post("/v1/route", chat("open the inbox"))).json()
        assert (again["arm"], again["supervised"]) == ("mail", "mail")
        renamed = {"inbox": "mail"}
        scores = {renamed.get(arm["arm"], arm["arm"]): arm["gate"] for arm in explained["arms"]}
        assert {arm["arm"]: arm["gate"] for arm in again["arms"]} == pytest.approx(scores)
        await world.say({"decision_id": waiting, "reward": 1.0})
        ended = await world.arm("mail")
        assert (ended["pulls"], ended["pending"], ended["matured"], ended["reward_mean"]) == (2, 0, 2, 0.625)

    async def test_it_serves_under_its_new_name_alone(self, world: World) -> None:
        await change(world, "inbox", "rename", to="mail")
        answer = await world.ask("open the inbox")
        assert (answer["routing"]["arm"], answer["routing"]["gates"]) == ("mail", {"inbox": 1.0})
        assert (await world.ask(model=f"{BASE}:mail"))["routing"]["arm"] == "mail"
        assert (await world.post("/v1/chat/completions", chat(model="inbox"))).status_code == 404
        *_, decision = [event for event in await world.events() if isinstance(event, Decision)]
        assert (decision.arm, decision.adapters) == ("mail", {"inbox": world.registry["inbox"].fingerprint})
        assert [event.to for event in await world.events() if isinstance(event, ArmRenamed)] == ["mail"]

    async def test_an_episode_goes_on_through_it(self, world: World) -> None:
        await world.ask("open the inbox", episode="e")
        await change(world, "inbox", "rename", to="mail")
        await world.ask("open the inbox", episode="e")
        first, second = await world.get("/v1/episodes/e")
        assert (first["decision"]["arm"], second["decision"]["arm"]) == ("inbox", "mail")
        assert second["decision"]["propensity"] == 1.0

    async def test_a_request_that_was_read_before_it_goes_on(self, world: World) -> None:
        asked = Call(Prompt((Message("user", (Part(text="open the inbox"),)),)), world.router.arms.routed, Sampling(8))
        await change(world, "inbox", "rename", to="mail")
        assert (await world.router.route(asked)).decision.arm == "mail"

    async def test_back_and_forth(self, world: World) -> None:
        ids = []
        for old, new in (("inbox", "mail"), ("mail", "inbox"), ("inbox", "post")):
            ids.append((await world.ask("open the inbox"))["id"])
            await change(world, old, "rename", to=new)
        await world.say(*({"decision_id": id_, "reward": 1} for id_ in ids))
        arm = await world.arm("post")
        assert (arm["pulls"], arm["pending"], arm["matured"]) == (3, 0, 3)
        assert (await world.post("/v1/route", chat("open the inbox"))).json()["supervised"] == "post"

    async def test_a_restart_finds_it_renamed(self, make_world: MakeWorld, world: World) -> None:
        await world.say({"decision_id": (await world.ask("open the inbox"))["id"], "reward": 1})
        await change(world, "inbox", "rename", to="mail")
        waiting = (await world.ask("open the inbox"))["id"]
        other = await make_world()
        assert await names(other) == ["base", "calendar", "claims", "mail"]
        await other.say({"decision_id": waiting, "reward": 1})
        arm = await other.arm("mail")
        assert (arm["pulls"], arm["matured"]) == (2, 2)
        assert (await other.get("/v1/arms")).keys() == {"base", "calendar", "claims", "mail"}

    async def test_it_comes_in_the_middle_of_traffic(self, make_world: MakeWorld, world: World) -> None:
        """Two Routers, one of which does not know yet: nothing fails, nothing is lost or counted twice."""
        other = await make_world()
        asked = [asyncio.create_task((world, other)[i % 2].ask("open the inbox")) for i in range(20)]
        await asyncio.gather(*asked)
        await world.settle()
        await change(other, "inbox", "rename", to="mail")
        await other.store.decide(await self.decision(other))

        async def follows() -> bool:
            return "mail" in await names(world)

        await eventually(follows)
        ids = [task.result()["id"] for task in asked] + ["late"]
        await world.say(*({"decision_id": id_, "reward": 1} for id_ in ids))
        arm = await other.arm("mail")
        assert (arm["pulls"], arm["pending"], arm["matured"]) == (21, 0, 21)

    async def decision(self, world: World) -> Decision:
        """What a Router that has not heard of it would still decide: the old name."""
        *_, last = [event for event in await world.events() if isinstance(event, Decision)]
        return last.model_copy(update={"id": "late", "arm": "inbox"})


class TestTheLog:
    """What happened to arms is in it, so that it comes to the same whenever it is folded or replayed."""

    async def test_it_comes_to_what_is_in_use(self, world: World) -> None:
        old = [(await world.ask(f"open the inbox {i}"))["id"] for i in range(4)]
        await world.fold()
        await change(world, "inbox", "rename", to="mail")
        await change(world, "claims", "remove")
        await world.ask("open the inbox again")
        await world.say(*({"decision_id": id_, "reward": i / 3} for i, id_ in enumerate(old)))
        await world.fold()
        assert (await verify(world.store, folding(world))).ok
        assert await sealer(world, segment=1).step(COLD) > 0
        await world.ask("open the inbox once more")
        await world.fold()
        for whole in (False, True):
            verified = await verify(world.store, folding(world), whole=whole)
            assert verified.ok, verified
        assert {arm.arm for arm in verified.arms} == {"base", "calendar", "claims", "mail"}

    async def test_another_fold_starts_from_it(self, world: World, contexts: ContextMap) -> None:
        """After a setting has changed everything is folded again, the old name first."""
        id_ = (await world.ask("open the inbox"))["id"]
        await change(world, "inbox", "rename", to="mail")
        await world.say({"decision_id": id_, "reward": 1})
        await world.fold()
        changed = Learner(world.store, contexts, replace(learning_config(world.settings), ridge=2.0))
        await changed.start(world.registry)
        while await changed.step():
            pass
        arms = {arm: ArmStatistics.from_bytes(blob) for arm, (_, blob) in (await world.store.arms()).items()}
        assert arms.keys() == {"base", "calendar", "claims", "mail"}
        assert (arms["mail"].matured, arms["mail"].former) == (1, ["inbox"])

    async def test_decisions_before_and_after_are_taken_again(self, make_world: MakeWorld) -> None:
        exploring = {"epsilon_supervised": 0.2, "epsilon_uniform": 0.3, "refresh_s": 0.05}
        world: World = await make_world(router=exploring, learner={"discount": 0.9})

        async def ask(number: int) -> None:
            chats = [
                world.ask(f"open the {FAMILIES[i % 3]} {number}.{i}", episode="e" if i < 2 else "") for i in range(8)
            ]
            ids = [answer["id"] for answer in await asyncio.gather(*chats)]
            await world.say(*({"decision_id": id_, "reward": i % 2} for i, id_ in enumerate(ids[:5])))

        await ask(0)
        await world.learner.step()
        await world.post("/v1/bandit/arms/inbox/rename", {"to": "mail"})
        await ask(1)  # the Router may follow at any time from now on
        await world.fold()
        for number in (2, 3):
            await ask(number)
            await world.learner.step()
        await world.settle()
        again = replayed(await world.store.event_range(), world, world.contexts)
        assert len(again) == 32
        assert {one.decision.arm for one in again} >= {"inbox", "mail"}
        assert [one.decision.id for one in again if not one.same] == []


@pytest.mark.parametrize(
    ("arm", "verb", "body", "status", "param", "said"),
    [
        ("nobody", "freeze", {}, 404, "arm", "'nobody' is unknown"),
        ("nobody", "add", {}, 404, "serves", "expected one of base, calendar"),
        ("inbox", "add", {"like": ["claims", "nobody"]}, 404, "like", "'nobody' is unknown to the trained router"),
        ("base", "remove", {}, 409, "arm", "'base' cannot be removed"),
        ("base", "rename", {"to": "mail"}, 409, "arm", "'base' cannot be renamed"),
        ("inbox", "rename", {"to": "claims"}, 409, "to", "'claims' is another arm"),
        ("inbox", "rename", {"to": "two words"}, 400, "to", "'two words', expected letters"),
        ("inbox", "rename", {"to": "auto"}, 400, "to", "'auto'"),
        ("inbox", "rename", {}, 400, "to", "None"),
        ("two words", "add", {"serves": "inbox"}, 400, "arm", "'two words'"),
        ("inbox", "melt", {}, 400, "verb", "'melt'"),
        ("inbox", "freeze", {"hard": 1}, 400, "hard", "Extra"),
    ],
)
async def test_what_cannot_be(
    world: World, arm: str, verb: str, body: dict[str, Any], status: int, param: str, said: str
) -> None:
    before = await world.events()
    response = await world.post(f"/v1/bandit/arms/{arm}/{verb}", body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert said in error["message"]
    assert await world.events() == before


async def test_a_new_arm_may_be_expected_to_earn_as_one_that_is_known(world: World) -> None:
    await change(world, "stranger", "add", serves="inbox")
    await change(world, "second", "add", serves="inbox", like=["claims"])
    await world.ask("open the claims")
    seen = {arm: await world.arm(arm) for arm in ("claims", "second", "stranger")}
    assert seen["second"]["posterior_mean"] == pytest.approx(seen["claims"]["posterior_mean"], abs=0.05)
    assert abs(seen["second"]["posterior_mean"] - seen["stranger"]["posterior_mean"]) > 0.1
    await register(world.store, world.registry)  # a restart forgets nothing of it
    assert (await world.store.roster())["second"].like == ["claims"]


async def test_a_second_arm_may_serve_the_same_adapter(world: World) -> None:
    await change(world, "inbox-2", "add", serves="inbox")
    answer = await world.ask(model="inbox-2")
    assert answer["routing"]["gates"] == {"inbox": 1.0}
    assert sorted(await names(world)) == sorted([*ALL, "inbox-2"])


async def test_an_adapter_that_is_gone_takes_its_arm_along_until_it_is_back(world: World, tmp_path: Path) -> None:
    await change(world, "inbox", "rename", to="mail")
    fewer = Registry(write_adapters(tmp_path / "fewer", ("calendar", "claims")))
    assert await register(world.store, fewer) == []
    assert (await world.store.roster())["mail"].state == "absent"
    assert await register(world.store, world.registry) == []
    assert (await world.store.roster())["mail"].state == "active"
    assert "inbox" not in await world.store.roster()
    other = Registry(write_adapters(tmp_path / "other", (*FAMILIES, "mail")))
    (problem,) = await register(world.store, other)
    assert "mail" in problem
