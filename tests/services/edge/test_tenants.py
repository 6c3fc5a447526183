"""Keys of tenants: each sees and rewards its own decisions, served by the arms that its key allows."""

import time
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from cluster.events import Decision, Feedback
from cluster.settings import AuthSettings
from tests.services.auth_keys import bearer, keys
from tests.services.conftest import MakeWorld
from tests.services.world import BASE, World, chat

KEYS = [
    *keys("acme", tenant="acme", arms=["base", "inbox"]),
    *keys("beta", tenant="beta"),
    *keys("operator"),
]
CHAT = "/v1/chat/completions"


@pytest.fixture
async def shared(make_world: MakeWorld) -> World:
    made: World = await make_world(auth={"keys": KEYS})
    return made


async def call(world: World, key: str, method: str, path: str, body: Any = None) -> httpx.Response:
    return await world.http.request(method, path, json=body, headers={"Authorization": bearer(key)})


async def ask(world: World, key: str, **body: Any) -> Any:
    response = await call(world, key, "POST", CHAT, chat(**body))
    assert response.status_code == 200, response.text
    return response.json()


async def say(world: World, key: str, **item: Any) -> str:
    response = await call(world, key, "POST", "/v1/feedback", {"reward": 1, **item})
    status: str = response.json()["results"][0]["status"]
    return status


async def refused(response: httpx.Response, param: str, code: str, *said: str) -> None:
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (403, "permission_error")
    assert (error["param"], error["code"]) == (param, code)
    assert all(words in error["message"] for words in said), error["message"]


class TestArms:
    async def test_only_a_keys_arms_are_eligible(self, shared: World) -> None:
        assert (await ask(shared, "acme", text="open the calendar"))["routing"]["arm"] in ("base", "inbox")
        assert (await ask(shared, "beta", text="open the calendar"))["routing"]["arm"] == "calendar"
        narrowed = await ask(shared, "acme", text="open the inbox", routing={"arms": ["inbox", "claims"]})
        assert narrowed["routing"]["arm"] == "inbox"
        eligible = [event.eligible for event in await shared.events() if isinstance(event, Decision)]
        assert eligible == [["base", "inbox"], ["base", "calendar", "claims", "inbox"], ["inbox"]]

    @pytest.mark.parametrize("body", [{"model": "claims"}, {"routing": {"arms": ["claims", "calendar"]}}])
    async def test_no_other_arm_can_be_asked_for(self, shared: World, body: dict[str, Any]) -> None:
        for path in (CHAT, "/v1/route"):
            response = await call(shared, "acme", "POST", path, chat(**body))
            await refused(response, "model", "arm_not_allowed", "'acme'", "claims", "base, inbox")
        assert await shared.kinds() == []

    async def test_a_key_follows_its_arms_names(self, shared: World) -> None:
        await call(shared, "operator", "POST", "/v1/bandit/arms/inbox/rename", {"to": "mail"})
        await shared.fold()
        assert (await ask(shared, "acme", text="open the inbox"))["routing"]["arm"] == "mail"
        listed = (await call(shared, "acme", "GET", "/v1/models")).json()["data"]
        assert "mail" in [card["id"] for card in listed]

    async def test_only_what_may_be_asked_for_is_listed(self, shared: World) -> None:
        listed = (await call(shared, "acme", "GET", "/v1/models")).json()["data"]
        assert sorted(card["id"] for card in listed) == sorted(["auto", BASE, "inbox", f"{BASE}:inbox"])


class TestTenants:
    async def test_the_keys_tenant_is_logged(self, shared: World) -> None:
        await ask(shared, "acme")
        await ask(shared, "acme", metadata={"tenant": "acme"})
        await ask(shared, "operator", metadata={"tenant": "gamma"})
        await ask(shared, "operator")
        logged = [event.tenant for event in await shared.events() if isinstance(event, Decision)]
        assert logged == ["acme", "acme", "gamma", None]

    async def test_nobody_speaks_for_another_tenant(self, shared: World) -> None:
        response = await call(shared, "acme", "POST", CHAT, chat(metadata={"tenant": "beta"}))
        await refused(response, "metadata.tenant", "other_tenant", "'beta'", "'acme'")
        assert await shared.kinds() == []

    async def test_a_decision_of_another_tenant_is_unknown(self, shared: World) -> None:
        own, others = (await ask(shared, "acme"))["id"], (await ask(shared, "beta"))["id"]
        nobodys = (await ask(shared, "operator"))["id"]
        await shared.settle()
        assert [await say(shared, "acme", decision_id=id_) for id_ in (own, others, nobodys)] == [
            "recorded", "unknown", "unknown",
        ]  # fmt: skip
        assert [await say(shared, "operator", decision_id=id_) for id_ in (others, nobodys)] == ["recorded"] * 2
        events = [event for event in await shared.events() if isinstance(event, Feedback)]
        assert [(event.decision_id, event.tenant) for event in events] == [
            (own, "acme"), (others, None), (nobodys, None),
        ]  # fmt: skip

    async def test_episodes_of_the_same_name_are_two(self, shared: World) -> None:
        for key in ("acme", "beta"):
            await ask(shared, key, metadata={"episode_id": "run-1"})
        await shared.settle()
        assert await say(shared, "acme", episode_id="run-1") == "recorded"
        assert await say(shared, "beta", episode_id="run-1", reward=0) == "recorded"
        assert await say(shared, "operator", episode_id="run-1") == "unknown"
        assert await say(shared, "operator", episode_id="acme:run-1") == "recorded"
        assert await say(shared, "beta", episode_id="acme:run-1") == "unknown"
        (view,) = (await call(shared, "acme", "GET", "/v1/episodes/run-1")).json()
        assert (view["decision"]["tenant"], view["decision"]["step"]["number"]) == ("acme", 1)
        assert view["observations"] == {"acme": [1.0, False], "operator": [1.0, False]}
        assert (await call(shared, "operator", "GET", "/v1/episodes/acme:run-1")).json() == [view]

    async def test_what_is_listed_is_ones_own(self, shared: World) -> None:
        ids = [(await ask(shared, key))["id"] for key in ("acme", "beta", "operator", "acme")]

        async def listed(key: str, query: str = "") -> list[str]:
            views = (await call(shared, key, "GET", f"/v1/decisions?limit=2{query}")).json()
            return [view["decision"]["id"] for view in views]

        assert await listed("acme") == [ids[3], ids[0]]
        assert await listed("acme", f"&before={ids[3]}") == [ids[0]]
        assert await listed("acme", "&tenant=beta") == []
        assert await listed("operator") == [ids[3], ids[2]]
        assert await listed("operator", "&tenant=beta") == [ids[1]]
        for path in (f"/v1/decisions/{ids[1]}", f"/v1/decisions?before={ids[1]}"):
            assert (await call(shared, "acme", "GET", path)).status_code == 404
        assert (await call(shared, "operator", "GET", f"/v1/decisions/{ids[1]}")).status_code == 200


async def test_an_arm_of_a_key_that_there_is_not_is_said_at_start(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    named = [*keys("acme", arms=["inbox", "inbx"]), *keys("beta", arms=["base"]), *keys("gamma", arms=["nobody"])]
    world = await make_world(auth={"keys": named})
    expected = "auth.keys: 'acme' names inbx; 'gamma' names nobody, expected arms that there are"
    assert expected in caplog.messages
    await world.store.heartbeat(time.time())
    assert (await world.get("/readyz"))["alarms"] == {"keys": expected}
    body = {"to": "inbx"}
    assert (await call(world, "gamma", "POST", "/v1/bandit/arms/inbox/rename", body)).status_code == 200
    await world.fold()
    assert "inbx" not in (await world.get("/readyz"))["alarms"]["keys"]


@pytest.mark.parametrize("tenant", ["", "two words", "a:b", "t" * 65])
def test_a_tenant_has_a_plain_name(tenant: str) -> None:
    with pytest.raises(ValidationError, match="tenant"):
        AuthSettings.model_validate({"keys": keys("k", tenant=tenant)})
