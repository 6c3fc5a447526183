"""Rewards over HTTP, and what the posterior makes of them."""

import time
from typing import Any

import httpx
import pytest

from policies.evidence import ArmStatistics
from tests.services.auth_keys import bearer, keys
from tests.services.conftest import MakeWorld
from tests.services.world import Json, World, chat, listening


async def outcome(world: World, arm: str = "calendar") -> tuple[int, int, int, float | None]:
    """Pulls, pending, matured and mean reward of an arm, when everything is folded."""
    view = await world.arm(arm)
    return view["pulls"], view["pending"], view["matured"], view["reward_mean"]


async def test_one_item_alone_is_answered_like_a_list(world: World) -> None:
    answer = await world.ask()
    response = await world.post("/v1/feedback", {"decision_id": answer["id"], "reward": 0.25, "comment": "half way"})
    assert response.json() == {
        "results": [{"decision_id": answer["id"], "episode_id": None, "status": "recorded"}],
        "counts": {"recorded": 1},
    }


async def test_a_decision_is_pending_until_its_reward_matures_it(world: World) -> None:
    answer = await world.ask()
    assert await outcome(world) == (1, 1, 0, None)
    assert await world.say({"decision_id": answer["id"], "reward": 0.25}) == ["recorded"]
    assert await outcome(world) == (1, 0, 1, 0.25)
    assert await outcome(world, "inbox") == (0, 0, 0, None)


async def test_success_is_a_reward_of_one_or_zero(world: World) -> None:
    answers = [await world.ask() for _ in range(4)]
    await world.say(*({"decision_id": a["id"], "success": i == 0} for i, a in enumerate(answers)))
    assert await outcome(world) == (4, 0, 4, 0.25)
    low, high = (await world.arm("calendar"))["reward_interval"]
    assert 0 < low < 0.25 < high < 1


async def test_rewards_move_the_posterior_of_the_arm_that_served(world: World) -> None:
    answers = [await world.ask() for _ in range(5)]
    before = {view["arm"]: view for view in (await world.get("/v1/bandit"))["arms"]}
    await world.say(*({"decision_id": answer["id"], "reward": 0} for answer in answers))
    await world.fold()
    after = {view["arm"]: view for view in (await world.get("/v1/bandit"))["arms"]}
    assert after["calendar"]["posterior_mean"] < before["calendar"]["posterior_mean"] - 0.01
    assert after["inbox"]["posterior_mean"] == before["inbox"]["posterior_mean"]


async def test_bad_outcomes_turn_the_router_away(world: World) -> None:
    for _ in range(200):
        answer = await world.ask("open the calendar")
        if answer["routing"]["arm"] != "calendar":
            break
        await world.say({"decision_id": answer["id"], "reward": 0})
        await world.fold()
    assert answer["routing"]["arm"] != "calendar"
    assert answer["routing"]["supervised"] == "calendar"


async def test_the_same_value_again_is_a_duplicate_and_another_a_correction(world: World) -> None:
    item = {"decision_id": (await world.ask())["id"], "reward": 1.0}
    assert await world.say(item, item, {**item, "reward": 0.5}, {**item, "reward": 0.5}) == [
        "recorded", "duplicate", "corrected", "duplicate",
    ]  # fmt: skip
    assert await outcome(world) == (1, 0, 1, 0.5)
    assert await world.kinds() == ["decision", "completion", "feedback", "feedback"]


async def test_an_episode_counts_once_over_its_decisions(world: World) -> None:
    answers = [await world.ask(episode="e1") for _ in range(3)]
    assert await world.say({"episode_id": "e1", "reward": 0.5, "terminated": True}) == ["recorded"]
    assert await outcome(world) == (3, 0, 3, 0.5)
    views = await world.get("/v1/episodes/e1")
    assert [view["decision"]["id"] for view in views] == [answer["id"] for answer in answers]
    assert [view["ledger"]["weight"] for view in views] == [pytest.approx(1 / 3)] * 3
    assert views[0]["observations"] == {"anonymous": [0.5, False]}
    assert await world.say({"episode_id": "e1", "reward": 0.5}) == ["duplicate"]
    assert await world.say({"episode_id": "e1", "reward": 0.0}) == ["corrected"]
    assert await outcome(world) == (3, 0, 3, 0.0)


async def test_sources_are_told_apart_and_averaged(world: World) -> None:
    target = {"decision_id": (await world.ask())["id"]}
    said = await world.say({**target, "reward": 1, "source": "judge"}, {**target, "reward": 0, "source": "user"})
    assert said == ["recorded", "recorded"]
    assert await outcome(world) == (1, 0, 1, 0.5)


async def test_sources_of_one_key_have_one_word_beside_another_key(make_world: MakeWorld) -> None:
    world = await make_world(auth={"keys": keys("loud", "quiet")})
    answer = await world.post("/v1/chat/completions", chat(), authorization=bearer("loud"))
    item = {"decision_id": answer.json()["id"]}
    many: list[Json] = [{**item, "reward": 1, "source": f"s{n}"} for n in range(5)]
    for name, said in (("loud", many), ("quiet", [{**item, "reward": 0, "source": "s0"}])):
        response = await world.post("/v1/feedback", said, authorization=bearer(name))
        assert set(response.json()["counts"]) == {"recorded"}
    await world.fold()
    (statistics,) = [
        ArmStatistics.from_bytes(blob) for arm, blob in (await world.store.arm_blobs(["calendar"])).items()
    ]
    assert (statistics.matured, statistics.reward_sum) == (1, 0.5)


async def test_late_feedback_is_learned_where_the_setting_says_so(make_world: MakeWorld) -> None:
    world = await make_world(learner={"reward_window_s": 1e-6, "learn_late": True})
    item = {"decision_id": (await world.ask())["id"]}
    assert await world.say({**item, "reward": 1.0}) == ["late"]
    assert await outcome(world) == (1, 0, 1, 1.0)
    assert await world.say({**item, "reward": 0.5}) == ["late"]
    assert await outcome(world) == (1, 0, 1, 0.5)


async def test_only_an_answer_earns_the_default_of_a_time_out(make_world: MakeWorld) -> None:
    world = await make_world(learner={"reward_window_s": 1e-6, "timeout_reward": 0.25})
    await world.ask()
    world.engine.fails_after = 1
    assert (await world.post("/v1/chat/completions", chat())).status_code == 500
    await world.settle()
    await world.store.post_timeouts(time.time() + 1)
    assert await outcome(world) == (2, 0, 1, 0.25)


async def test_a_key_holds_no_more_evidence_than_it_may(make_world: MakeWorld) -> None:
    world = await make_world(learner={"key_cap": 2.0, "discount": 1.0})
    answers = [await world.ask() for _ in range(4)]
    await world.say(*({"decision_id": answer["id"], "reward": 1} for answer in answers))
    assert await outcome(world) == (4, 0, 2, 1.0)


async def test_a_truncated_episode_teaches_nothing_until_it_has_an_outcome(world: World) -> None:
    target = {"decision_id": (await world.ask())["id"]}
    assert await world.say({**target, "truncated": True}) == ["recorded"]
    assert await outcome(world) == (1, 0, 0, None)
    assert await world.say({**target, "reward": 1.0}) == ["corrected"]
    assert await outcome(world) == (1, 0, 1, 1.0)


async def test_a_late_reward_is_called_late_and_teaches_nothing(make_world: MakeWorld) -> None:
    world = await make_world(learner={"reward_window_s": 1e-6})
    answer = await world.ask()
    assert await world.say({"decision_id": answer["id"], "reward": 1.0}) == ["late"]
    assert await outcome(world) == (1, 0, 0, None)
    view = await world.get(f"/v1/decisions/{answer['id']}")
    assert view["ledger"]["status"] == "timed_out"


async def test_what_nobody_decided_is_unknown_and_leaves_no_trace(world: World) -> None:
    before = await world.events()
    said = await world.say({"decision_id": "nobody", "reward": 1}, {"episode_id": "nobody", "success": True})
    assert said == ["unknown", "unknown"]
    assert await world.events() == before


async def test_a_batch_is_answered_in_its_order(world: World) -> None:
    ids = [(await world.ask())["id"] for _ in range(3)]
    items: list[Json] = [{"decision_id": id_, "reward": 1} for id_ in (ids[0], "nobody", ids[1], ids[0], ids[2])]
    response = (await world.post("/v1/feedback", items)).json()
    assert [r["decision_id"] for r in response["results"]] == [item["decision_id"] for item in items]
    assert [r["status"] for r in response["results"]] == ["recorded", "unknown", "recorded", "duplicate", "recorded"]
    assert response["counts"] == {"recorded": 3, "unknown": 1, "duplicate": 1}
    assert await outcome(world) == (3, 0, 3, 1.0)


async def test_a_reward_may_come_while_the_answer_is_streaming(world: World) -> None:
    world.engine.gate.clear()
    async with listening(world.app) as url, httpx.AsyncClient(base_url=url) as client:
        request: dict[str, Any] = {"json": chat(stream=True)}
        async with client.stream("POST", "/v1/chat/completions", **request) as response:
            decision_id = response.headers["x-pointsman-decision-id"]
            assert await world.say({"decision_id": decision_id, "reward": 1.0}) == ["recorded"]
            assert await outcome(world) == (1, 0, 1, 1.0)
            world.engine.gate.set()
            assert "[DONE]" in (await response.aread()).decode()
    assert await world.kinds() == ["decision", "feedback", "completion"]
    assert await outcome(world) == (1, 0, 1, 1.0)
