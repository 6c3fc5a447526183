"""Mixtures: as arms that the router chooses and learns of, and by gates that the client brings."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cluster.events import Decision
from policies.context import ContextMap
from policies.mixtures import mixture
from services.cli import tables
from services.configuration import feedback_rules, learning_config
from services.learning.folding import Folding
from services.learning.verification import verify
from tests.services.auth_keys import bearer, keys
from tests.services.catalogue.test_arms import change, eligible
from tests.services.conftest import MakeSettings, MakeWorld, fit
from tests.services.fakes import FAMILIES, FakeEngine
from tests.services.insight.test_replay import EXPLORING, replayed
from tests.services.world import Json, World, chat, running, write_adapters

BOTH = {"mixtures": ("top2", "soft")}
ALWAYS_SOFT = {**BOTH, "policy": "fixed", "fixed_arm": "soft"}
EVERY = ["base", *FAMILIES, "top2", "soft"]
CHAT = "/v1/chat/completions"
OWN = {"inbox": 0.75, "claims": -0.5}


async def latest(world: World) -> Decision:
    """The last decision of the log."""
    return [event for event in await world.events() if isinstance(event, Decision)][-1]


async def supervised(world: World) -> dict[str, float]:
    """The supervised gates of the last decision."""
    return world.contexts.map(np.frombuffer((await latest(world)).features, np.float16)).gates


async def refused(world: World, status: int, param: str, *said: str, headers: Any = None, **body: Any) -> None:
    response = await world.http.post(CHAT, json=chat(**body), headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert all(words in error["message"] for words in said), error["message"]


@pytest.fixture
async def mixing(make_world: MakeWorld) -> World:
    made: World = await make_world(router=ALWAYS_SOFT)
    return made


class TestGates:
    @pytest.mark.parametrize(("template", "most"), [("top2", 2), ("soft", 4)])
    async def test_a_model_name_asks_for_a_mixture_by_the_requests_own_gates(
        self, mixing: World, template: str, most: int
    ) -> None:
        for text in ("open the calendar", "open the inbox and the claims"):
            answer = await mixing.ask(text, model=template)
            expected = mixture(await supervised(mixing), most)
            decision = await latest(mixing)
            assert mixing.engine.generated[-1][1] == decision.gates == answer["routing"]["gates"] == expected
            assert sum(expected.values()) == pytest.approx(1.0)
            assert answer["model"] == ":".join(["qwen", *expected])
            assert (answer["routing"]["arm"], answer["routing"]["propensity"]) == (template, 1.0)
            assert decision.adapters == {name: mixing.registry[name].fingerprint for name in expected}
            assert decision.mixture is not None
            assert (sorted(decision.mixture.members), decision.mixture.most) == (sorted(FAMILIES), most)
        assert mixing.engine.generated[-1][1] != mixing.engine.generated[-2][1]

    async def test_no_more_adapters_than_the_engine_mixes(self, make_world: MakeWorld) -> None:
        world = await make_world(model={"max_mixture": 2}, router=ALWAYS_SOFT)
        assert len((await world.ask())["routing"]["gates"]) == 2
        alone = await make_world(model={"max_mixture": 1}, router=BOTH)
        assert "soft" not in alone.router.arms.names

    async def test_no_more_adapters_than_there_are_pages_for(self, make_world: MakeWorld) -> None:
        """What no replica has room for would fail, teach nothing, and be chosen again."""
        two = await make_world(cache={"device_rows": 16}, router=ALWAYS_SOFT)
        answer = await two.ask("open the calendar")
        assert answer["routing"]["gates"] == mixture(await supervised(two), 2)
        await refused(
            two, 400, "routing.gates", "3 pages", "at most 2", routing={"gates": dict.fromkeys(FAMILIES, 0.2)}
        )
        one = await make_world(model={"lora_pages": 1}, router=BOTH)
        await one.ask("open the calendar")
        assert (await latest(one)).eligible == ["base", *FAMILIES]
        await refused(one, 409, "model", "soft would mix fewer than two", model="soft")

    async def test_the_router_chooses_among_mixtures_too(self, mixing: World) -> None:
        answer = await mixing.ask("open the calendar")
        decision = await latest(mixing)
        assert (answer["routing"]["arm"], answer["routing"]["supervised"]) == ("soft", "calendar")
        assert (decision.eligible, decision.propensity) == (EVERY, 1.0)
        listed = [card["id"] for card in (await mixing.get("/v1/models"))["data"]]
        assert {"top2", "soft", "qwen:soft"} <= set(listed)
        explained = (await mixing.post("/v1/route", chat("open the calendar"))).json()
        assert explained["gates"] == answer["routing"]["gates"]

    async def test_a_mixture_costs_what_all_its_adapters_cost(self, mixing: World) -> None:
        mixing.leave_resident("inbox")
        answer = await mixing.ask("open the calendar")
        decision = await latest(mixing)
        waits = dict(zip(decision.eligible, decision.costs, strict=True))
        page = mixing.settings.router.page_in_ms
        missing = sum(name != "inbox" for name in mixture(await supervised(mixing), 2))
        assert waits == {
            "base": 0, "inbox": 0, "calendar": page, "claims": page, "soft": 2 * page, "top2": missing * page
        }  # fmt: skip
        assert answer["routing"]["resident"] is False


class TestLearning:
    async def test_its_rewards_are_its_own(self, mixing: World) -> None:
        ids = [(await mixing.ask(f"open the calendar {number}"))["id"] for number in range(5)]
        before = {arm["arm"]: arm for arm in (await mixing.get("/v1/bandit"))["arms"]}
        await mixing.say(*[{"decision_id": id_, "reward": 1} for id_ in ids])
        arm = await mixing.arm("soft")
        assert (arm["pulls"], arm["matured"], arm["reward_mean"], arm["adapter_hash"]) == (5, 5, 1.0, None)
        assert arm["posterior_mean"] > before["soft"]["posterior_mean"]
        assert (await mixing.arm("calendar"))["pulls"] == 0
        folding = Folding(mixing.contexts, learning_config(mixing.settings), feedback_rules(mixing.settings))
        assert (await verify(mixing.store, folding, whole=True)).ok

    async def test_linucb_learns_when_mixing_helps(self, make_world: MakeWorld) -> None:
        """Where a request names two families and only a mixture succeeds."""
        world: World = await make_world(router=BOTH | {"alpha": 0.5, "epsilon_uniform": 0.2})
        for number in range(60):
            answer = await world.ask(f"open the inbox and the claims {number}")
            await world.say({"decision_id": answer["id"], "success": len(answer["routing"]["gates"]) > 1})
            await world.fold()
        explained = (await world.post("/v1/route", chat("open the inbox and the claims"))).json()
        assert max(explained["arms"], key=lambda arm: arm["mean"])["arm"] in ("top2", "soft")
        decisions = [event for event in await world.events() if isinstance(event, Decision)]
        assert len([decision for decision in decisions[-20:] if decision.mixture]) > 10

    async def test_measured_outcomes_are_its_prior(self, make_settings: MakeSettings, engine: FakeEngine) -> None:
        measured = fit(4.0, soft=0.9)
        async with running(World(make_settings(router=BOTH), measured, engine)) as world:
            explained = (await world.post("/v1/route", chat("open the calendar"))).json()
            means = {arm["arm"]: arm["mean"] for arm in explained["arms"]}
            assert means["soft"] == pytest.approx(0.9, abs=0.1)
            assert means["top2"] == pytest.approx(world.settings.learner.new_arm_mean, abs=0.1)
            posterior = world.router.decider.snapshots.posterior
            new = dict(zip(posterior.arms, posterior.burning_in(20).tolist(), strict=True))
            assert new == {**dict.fromkeys(["base", *FAMILIES, "soft"], False), "top2": True}

    async def test_without_mixtures_it_is_absent_and_comes_back_as_it_was(
        self, mixing: World, make_world: MakeWorld
    ) -> None:
        answer = await mixing.ask()
        await mixing.say({"decision_id": answer["id"], "reward": 1})
        await mixing.fold()
        plain: World = await make_world()
        assert plain.router.arms.names == ("base", *FAMILIES)
        assert (await plain.store.roster())["soft"].state == "absent"
        again: World = await make_world(router=BOTH)
        assert (await again.arm("soft"))["matured"] == 1


class TestWhoMayBeMixed:
    async def test_only_adapters_that_the_request_names(self, mixing: World) -> None:
        answer = await mixing.ask("open the calendar", routing={"arms": ["soft", "inbox", "claims"]})
        assert answer["routing"]["gates"].keys() == {"inbox", "claims"}
        everything = await mixing.ask("open the calendar", routing={"arms": ["soft", "base"]})
        assert everything["routing"]["gates"].keys() == set(FAMILIES)
        await mixing.ask("open the calendar", routing={"arms": ["soft", "inbox"]})
        assert (await latest(mixing)).eligible == ["inbox"]

    async def test_only_adapters_that_the_key_may_use(self, make_world: MakeWorld) -> None:
        some = keys("some", arms=["soft", "inbox", "claims"])
        world: World = await make_world(
            router=ALWAYS_SOFT, auth={"keys": [*some, *keys("one", arms=["soft", "inbox"]), *keys("all")]}
        )
        headers = {"Authorization": bearer("some")}
        for body in ({}, {"model": "soft"}, {"routing": {"arms": ["soft", "calendar", "inbox", "claims"]}}):
            await world.http.post(CHAT, json=chat("open the calendar", **body), headers=headers)
            assert world.engine.generated[-1][1].keys() == {"inbox", "claims"}
        headers = {"Authorization": bearer("one")}
        await refused(world, 409, "model", "soft would mix fewer than two", headers=headers, model="soft")
        assert (await world.http.post(CHAT, json=chat(), headers=headers)).json()["routing"]["arm"] == "inbox"

    async def test_no_frozen_and_no_removed_adapter(self, mixing: World) -> None:
        await change(mixing, "calendar", "freeze")
        assert (await mixing.ask("open the calendar"))["routing"]["gates"].keys() == {"inbox", "claims"}
        await change(mixing, "claims", "remove")
        assert await eligible(mixing) == ["base", "inbox"]
        await refused(mixing, 409, "model", "fewer than two adapters", model="soft")
        await change(mixing, "calendar", "unfreeze")
        assert (await mixing.ask("open the calendar"))["routing"]["gates"].keys() == {"calendar", "inbox"}

    async def test_a_frozen_mixture_serves_who_asks_for_it(self, mixing: World) -> None:
        await change(mixing, "soft", "freeze")
        assert "soft" not in await eligible(mixing)
        assert (await mixing.ask(model="soft"))["routing"]["arm"] == "soft"
        await change(mixing, "soft", "remove")
        await refused(mixing, 404, "model", "'soft' is unknown", model="soft")

    async def test_names_may_change(self, mixing: World) -> None:
        before = await mixing.ask("open the calendar")
        await change(mixing, "soft", "rename", to="blend")
        await change(mixing, "calendar", "rename", to="dates")
        after = await mixing.ask("open the calendar", model="blend")
        assert after["routing"]["arm"] == "blend"
        assert after["routing"]["gates"] == before["routing"]["gates"]
        some = await mixing.ask("open the calendar", model="blend", routing={"arms": ["blend", "dates", "inbox"]})
        assert some["routing"]["gates"].keys() == {"calendar", "inbox"}
        await mixing.say({"decision_id": before["id"], "reward": 1})
        assert (await mixing.arm("blend"))["matured"] == 1

    async def test_an_arm_of_another_name_may_serve_a_mixture(self, mixing: World) -> None:
        await change(mixing, "blend", "add", serves="top2")
        answer = await mixing.ask("open the calendar", model="blend")
        assert answer["routing"]["gates"] == mixture(await supervised(mixing), 2)


class TestCoordinates:
    @pytest.fixture
    def shelf(self, tmp_path: Path) -> Path:
        shelf = write_adapters(tmp_path / "shelf", (*FAMILIES, "tars", "tars2"))
        absolute = {"coordinates": "absolute"}
        (shelf / "adapters.json").write_text(json.dumps({"inbox": absolute, "claims": absolute}))
        return shelf

    async def test_conventions_are_never_mixed(self, make_world: MakeWorld, shelf: Path) -> None:
        world: World = await make_world(model={"adapters": shelf}, router=ALWAYS_SOFT)
        answer = await world.ask("open the claims", episode="e")
        assert answer["routing"]["gates"].keys() == {"inbox", "claims"}
        decision = await latest(world)
        assert decision.step is not None
        assert decision.step.coordinates == "absolute"
        await world.ask("open the calendar", episode="e")
        later = await latest(world)
        assert later.eligible == ["claims", "inbox", "top2", "soft"]
        assert later.gates.keys() == {"inbox", "claims"}
        await world.ask("open the calendar")  # whose convention no other adapter has that the trained router knows
        assert "soft" not in (await latest(world)).eligible
        await world.ask("open the calendar", episode="f", model="qwen")
        await world.ask("open the claims", episode="f")
        assert (await latest(world)).eligible == ["base", "calendar", "tars", "tars2"]


class TestTheLog:
    async def test_every_decision_is_taken_again_with_its_gates(
        self, make_world: MakeWorld, contexts: ContextMap
    ) -> None:
        world: World = await make_world(router=EXPLORING | BOTH, learner={"discount": 0.9})
        for number in range(60):
            family, other = FAMILIES[number % 3], FAMILIES[(number + number % 2) % 3]
            asked = {"episode": f"e{number % 4}"} if number % 5 == 0 else {}
            answer = await world.ask(f"open the {family} and the {other} {number}", **asked)
            await world.say({"decision_id": answer["id"], "reward": (number % 7) / 6})
            if number % 6 == 0:
                await world.fold()
        entries = await world.store.event_range()
        again = replayed(entries, world, contexts)
        assert len(again) == 60
        assert all(one.same for one in again)
        mixed = [one for one in again if one.decision.mixture]
        assert len({one.decision.arm for one in mixed}) == 2
        one = mixed[0]
        wrong = {name: gate * (1 + 1e-6) for name, gate in one.decision.gates.items()}
        assert not one._replace(decision=one.decision.model_copy(update={"gates": wrong})).same

    async def test_why_a_mixture_served_and_what_it_would_be_now(self, mixing: World) -> None:
        answer = await mixing.ask("open the calendar")
        explained = await mixing.get(f"/v1/decisions/{answer['id']}/explain")
        assert "served soft" in explained["reason"]
        assert explained["stored"]["decision"]["gates"] == answer["routing"]["gates"]
        assert explained["now"]["gates"] == answer["routing"]["gates"]
        route = (await mixing.post("/v1/route", chat("open the calendar"))).json()
        spelled = " + ".join(f"{gate:.3f} {name}" for name, gate in answer["routing"]["gates"].items())
        assert f"supervised: calendar) = {spelled}" in str(tables.explanation(route).title)
        said = io.StringIO()
        Console(file=said, width=300).print(tables.decision(explained))
        assert spelled in " ".join(said.getvalue().split())


class TestTheClientsOwnGates:
    async def test_they_serve_as_they_are_and_teach_nothing(self, world: World, contexts: ContextMap) -> None:
        await world.ask("open the calendar")
        await world.fold()
        before = await world.get("/v1/bandit")
        answer = await world.ask("open the calendar", routing={"gates": OWN})
        assert world.engine.generated[-1][1] == answer["routing"]["gates"] == OWN
        assert (answer["routing"]["arm"], answer["routing"]["propensity"]) == ("custom", 1.0)
        assert answer["model"] == "qwen:inbox:claims"
        assert await world.say({"decision_id": answer["id"], "reward": 1}) == ["recorded"]
        last = await world.ask("open the inbox", model="qwen", routing={"gates": {"calendar": 1.0}})
        await world.fold()
        after = await world.get("/v1/bandit")
        for arm, known in zip(after["arms"], before["arms"], strict=True):
            same = ("arm", "pulls", "pending", "matured")
            assert [arm[name] for name in same] == [known[name] for name in same]
        view = await world.get(f"/v1/decisions/{answer['id']}")
        assert (view["ledger"], view["observations"]) == (None, {"anonymous": [1.0, False]})
        assert "custom" not in (await world.store.changes()).names
        decision = await latest(world)
        assert (decision.id, decision.eligible, decision.scored, decision.basis) == (last["id"], ["custom"], [], None)
        assert decision.adapters == {"calendar": world.registry["calendar"].fingerprint}
        explained = await world.get(f"/v1/decisions/{last['id']}/explain")
        assert explained["reason"] == "served the client's own gates: calendar 1"
        await world.ask("open the claims")
        assert all(one.same for one in replayed(await world.store.event_range(), world, contexts))
        route = await world.post("/v1/route", chat(routing={"gates": OWN}))
        assert (route.json()["gates"], route.json()["arms"]) == (OWN, [])

    async def test_in_an_episode_they_are_a_step_of_it(self, world: World, contexts: ContextMap) -> None:
        steps: tuple[Json, ...] = ({}, {"routing": {"gates": OWN}}, {}, {"model": "inbox"})
        for number, body in enumerate(steps):
            await world.ask(f"open the calendar {number}", episode="e", **body)
        await world.ask("open the calendar", episode="f", routing={"gates": OWN})
        await world.ask("open the calendar", episode="f")
        decisions = [event for event in await world.events() if isinstance(event, Decision)]
        assert [decision.step.number for decision in decisions if decision.step] == [1, 2, 3, 4, 1, 2]
        assert [decision.propensity for decision in decisions] == [1.0] * 6
        assert await world.say({"episode_id": "e", "reward": 1, "terminated": True}) == ["recorded"]
        arm = await world.arm("calendar")
        assert (arm["pulls"], arm["matured"]) == (3, 2)
        assert all(one.same for one in replayed(await world.store.event_range(), world, contexts))

    async def test_an_arm_goes_by_its_name_and_may_be_frozen(self, world: World) -> None:
        await change(world, "inbox", "rename", to="mail")
        await change(world, "mail", "freeze")
        answer = await world.ask(routing={"gates": {"mail": 0.5}})
        assert answer["routing"]["gates"] == {"inbox": 0.5}

    @pytest.mark.parametrize(
        ("body", "param", "said"),
        [
            ({"gates": {"nobody": 1.0}}, "routing.gates", ["'nobody' is no adapter", "calendar"]),
            ({"gates": {"base": 1.0}}, "routing.gates", ["'base' is no adapter"]),
            ({"gates": {"soft": 1.0}}, "routing.gates", ["'soft' is no adapter"]),
            ({"gates": {}}, "routing.gates", ["at least 1"]),
            ({"gates": {"inbox": "much"}}, "routing.gates.inbox", ["'much'", "number"]),
            ({"gates": {"inbox": 4.5}}, "routing.gates.inbox", ["4.5", "less than or equal to 4"]),
            ({"gates": {"inbox": 1.0}, "arms": ["inbox"]}, "routing", ["one of them"]),
            ({"gates": dict.fromkeys("abcde", 0.2)}, "routing.gates", ["5 adapters", "at most 4"]),
        ],
    )
    async def test_what_cannot_be_served(
        self, make_world: MakeWorld, body: dict[str, Any], param: str, said: list[str]
    ) -> None:
        world = await make_world(router=BOTH)
        await refused(world, 400, param, *said, routing=body)
        assert await world.kinds() == []

    async def test_numbers_that_are_none(self, world: World) -> None:
        text = json.dumps(chat(routing={"gates": {"inbox": float("nan")}}))
        response = await world.http.post(CHAT, content=text, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "routing.gates.inbox")

    async def test_only_where_no_other_model_is_asked_for(self, world: World) -> None:
        await refused(world, 400, "routing.gates", "model 'inbox'", model="inbox", routing={"gates": {"inbox": 1.0}})

    async def test_only_adapters_that_the_key_may_use(self, make_world: MakeWorld) -> None:
        world = await make_world(auth={"keys": [*keys("some", arms=["inbox"]), *keys("all")]})
        headers = {"Authorization": bearer("some")}
        gates = {"inbox": 0.5, "claims": 0.5}
        await refused(world, 403, "model", "may not use claims", headers=headers, routing={"gates": gates})

    async def test_conventions_are_never_mixed(self, make_world: MakeWorld, tmp_path: Path) -> None:
        shelf = write_adapters(tmp_path / "shelf")
        (shelf / "adapters.json").write_text(json.dumps({"inbox": {"coordinates": "absolute"}}))
        world = await make_world(model={"adapters": shelf})
        await refused(world, 400, "routing.gates", "one convention", routing={"gates": OWN})
        await world.ask("open the calendar", episode="e")
        body = {"routing": {"gates": {"inbox": 1.0}}, "metadata": {"episode_id": "e"}}
        await refused(world, 409, "episode_id", "inbox (absolute)", **body)
        await world.ask(routing={"gates": {"inbox": 1.0}}, episode="f")
        await world.ask("open the calendar", episode="f")
        assert (await latest(world)).eligible == ["inbox"]
