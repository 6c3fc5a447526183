"""Episodes as a client sees them: one coin, one convention, whichever Router serves the next step."""

import asyncio
import json
from math import prod
from pathlib import Path

import pytest

from cluster.events import Decision
from services.adapters.metadata import InvalidAdapter
from services.adapters.registry import Registry
from tests.services.conftest import MakeWorld
from tests.services.world import World, chat, write_adapters

EXPLORING = {"epsilon_supervised": 0.2, "epsilon_uniform": 0.6, "burn_in": 0, "alpha": 3.0}


async def decisions(world: World) -> list[Decision]:
    return [event for event in await world.events() if isinstance(event, Decision)]


async def test_a_decision_by_itself_has_no_step(world: World) -> None:
    await world.ask()
    assert [decision.step for decision in await decisions(world)] == [None]


async def test_an_episode_explores_one_arm_whichever_router_serves(make_world: MakeWorld) -> None:
    worlds = [await make_world(router=EXPLORING), await make_world(router=EXPLORING)]
    for number in range(20):
        for step in range(4):
            await worlds[step % 2].ask("open the calendar", episode=f"e{number}")
    steps = await decisions(worlds[0])
    explored = 0
    for number in range(20):
        own = [decision for decision in steps if decision.episode == f"e{number}"]
        explored += own[0].explored
        assert len({decision.arm for decision in own}) == 1
        assert [decision.step and decision.step.number for decision in own] == [1, 2, 3, 4]
        assert own[-1].step
        masses = own[-1].step.masses.values()
        assert prod(decision.propensity for decision in own) == pytest.approx(sum(masses), abs=1e-12)
    assert 0 < explored < 20


async def test_a_step_goes_on_with_its_arm_unless_another_is_better(make_world: MakeWorld, prefix: str) -> None:
    for margin, arm in ((0.05, "inbox"), (5.0, "calendar")):
        world = await make_world(router={"episode_margin": margin}, store={"prefix": f"{prefix}{margin}:"})
        await world.ask("open the calendar", episode="e")
        answer = await world.ask("open the inbox", episode="e")
        assert (answer["routing"]["arm"], answer["routing"]["propensity"]) == (arm, 1.0)
        explained = (await world.post("/v1/route", chat("open the inbox", metadata={"episode_id": "e"}))).json()
        assert explained["arm"] == arm


async def test_steps_that_come_at_once_are_taken_one_after_the_other(make_world: MakeWorld) -> None:
    worlds = [await make_world(router=EXPLORING) for _ in range(2)]
    await asyncio.gather(*(worlds[i % 2].ask("open the claims", episode="e") for i in range(8)))
    own = await decisions(worlds[0])
    numbers = [decision.step.number for decision in own if decision.step]
    assert numbers == list(range(1, 9))
    assert prod(decision.propensity for decision in own) == pytest.approx(
        sum(own[-1].step.masses.values() if own[-1].step else ())
    )


class TestCoordinates:
    @pytest.fixture
    def mixed(self, tmp_path: Path) -> Path:
        """Adapters of two conventions."""
        write_adapters(tmp_path)
        (tmp_path / "adapters.json").write_text(json.dumps({"inbox": {"coordinates": "absolute"}}))
        return tmp_path

    async def test_conventions_never_mix_in_one_episode(self, make_world: MakeWorld, mixed: Path) -> None:
        world = await make_world(model={"adapters": mixed}, router={"episode_margin": 0.0})
        await world.ask("open the calendar", episode="relative")
        assert (await world.ask("open the inbox", episode="relative"))["routing"]["arm"] != "inbox"
        await world.ask("open the inbox", episode="absolute")
        assert (await world.ask("open the calendar", episode="absolute"))["routing"]["arm"] == "inbox"
        logged = [
            (decision.step.coordinates, decision.eligible) for decision in await decisions(world) if decision.step
        ]
        everything, relative = ["base", "calendar", "claims", "inbox"], ["base", "calendar", "claims"]
        assert logged == [
            ("relative-1000", everything),
            ("relative-1000", relative),
            ("absolute", everything),
            ("absolute", ["inbox"]),
        ]

    async def test_an_arm_that_would_mix_them_is_refused(self, make_world: MakeWorld, mixed: Path) -> None:
        world = await make_world(model={"adapters": mixed})
        await world.ask("open the calendar", episode="e")
        for path in ("/v1/chat/completions", "/v1/route"):
            response = await world.post(path, chat(model="inbox", metadata={"episode_id": "e"}))
            error = response.json()["error"]
            assert (response.status_code, error["param"], error["code"]) == (409, "episode_id", "other_coordinates")
            assert "'relative-1000'" in error["message"]
            assert "inbox (absolute)" in error["message"]
        assert len(await decisions(world)) == 1

    def test_an_adapter_has_qwens_convention_unless_it_says_otherwise(self, mixed: Path) -> None:
        registry = Registry(mixed)
        assert registry.coordinates("inbox") == "absolute"
        assert {registry.coordinates(arm) for arm in ("base", "calendar")} == {"relative-1000"}

    @pytest.mark.parametrize(
        ("said", "expected"),
        [
            ("{", "not JSON"),
            ("[]", "list, expected an object"),
            ('{"inbox": "absolute"}', "inbox is 'absolute', expected an object"),
            ('{"inbox": {"coordinate": "absolute"}}', "expected an object with the field 'coordinates'"),
            ('{"inbox": {"coordinates": ""}}', "coordinates of inbox is '', expected a name"),
            ('{"nobody": {"coordinates": "absolute"}}', "'nobody' is none of the adapters"),
        ],
    )
    def test_what_cannot_be_read(self, mixed: Path, said: str, expected: str) -> None:
        (mixed / "adapters.json").write_text(said)
        with pytest.raises(InvalidAdapter, match=r"adapters\.json: .*" + expected):
            Registry(mixed)


async def test_credit_goes_where_the_scheme_says(make_world: MakeWorld, prefix: str) -> None:
    for scheme, expected in (("equal", [0.5, 0.5]), ("last", [0.0, 1.0]), ("discounted", [1 / 3, 2 / 3])):
        world = await make_world(
            learner={"credit": scheme, "credit_discount": 0.5}, store={"prefix": f"{prefix}{scheme}:"}
        )
        ids = [(await world.ask(episode="e"))["id"] for _ in range(2)]
        await world.say({"episode_id": "e", "reward": 1, "terminated": True})
        await world.fold()
        weights = [(await world.get(f"/v1/decisions/{id_}"))["ledger"]["weight"] for id_ in ids]
        assert weights == pytest.approx(expected)
