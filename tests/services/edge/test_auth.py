"""Keys and scopes: off without configured keys, and nothing without the right one with them."""

from typing import Any

import httpx
import pytest

from cluster.events import Decision, Feedback
from cluster.settings import AuthSettings
from services.edge.auth import ANONYMOUS, Gatekeeper, key_hash
from services.edge.errors import ApiError
from tests.services.auth_keys import bearer, keys
from tests.services.conftest import MakeWorld
from tests.services.world import World, chat

KEYS = [
    *keys("agents", scopes=("infer",)),
    *keys("judge", scopes=("feedback",)),
    *keys("viewer", scopes=("inspect",)),
    *keys("operator"),
]
SCOPES: dict[str, list[tuple[str, str, Any]]] = {
    "infer": [
        ("POST", "/v1/chat/completions", chat()),
        ("POST", "/v1/route", chat()),
        ("GET", "/v1/models", None),
    ],
    "feedback": [("POST", "/v1/feedback", {"decision_id": "d", "reward": 1})],
    "admin": [
        ("POST", "/v1/bandit/arms/inbox/unfreeze", {}),
        ("POST", "/v1/mode", {"mode": "online"}),
        ("POST", "/v1/guard/reset", None),
    ],
    "inspect": [
        ("GET", "/v1/bandit", None),
        ("GET", "/v1/bandit/arms/inbox", None),
        ("GET", "/v1/arms", None),
        ("GET", "/v1/mode", None),
        ("GET", "/v1/timeline", None),
        ("GET", "/v1/decisions/d/screen", None),
        ("GET", "/v1/decisions", None),
        ("GET", "/v1/decisions/d", None),
        ("GET", "/v1/decisions/d/explain", None),
        ("GET", "/v1/episodes/e", None),
        ("GET", "/v1/adapters", None),
    ],
}
CALLS = [(scope, *call) for scope, calls in SCOPES.items() for call in calls]


@pytest.fixture
async def locked(make_world: MakeWorld) -> World:
    made: World = await make_world(auth={"keys": KEYS})
    return made


async def call(world: World, method: str, path: str, body: Any, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"Authorization": authorization}
    return await world.http.request(method, path, json=body, headers=headers)


@pytest.mark.parametrize(("scope", "method", "path", "body"), CALLS)
async def test_a_key_opens_what_its_scopes_say(locked: World, scope: str, method: str, path: str, body: Any) -> None:
    everything = {"infer", "feedback", "inspect", "admin"}
    for name, scopes in (
        ("agents", {"infer"}), ("judge", {"feedback"}), ("viewer", {"inspect"}), ("operator", everything),
    ):  # fmt: skip
        response = await call(locked, method, path, body, bearer(name))
        if scope in scopes:
            assert response.status_code in (200, 404)
            continue
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["code"]) == (403, "permission_error", "missing_scope")
        assert repr(name) in error["message"]
        assert repr(scope) in error["message"]


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "missing_key"),
        ("", "missing_key"),
        ("Bearer", "missing_key"),
        ("Basic cG06cG0=", "missing_key"),
        ("pm-agents", "missing_key"),
        ("Bearer pm-other", "invalid_key"),
        (f"Bearer {key_hash('pm-agents')}", "invalid_key"),
        ("Bearer pm-agents x", "invalid_key"),
    ],
)
async def test_no_key_or_a_wrong_one_gets_nothing(locked: World, authorization: str | None, code: str) -> None:
    before = await locked.events()
    for _, method, path, body in CALLS:
        response = await call(locked, method, path, body, authorization)
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["code"]) == (401, "authentication_error", code)
        assert "pm-" not in error["message"]
    assert await locked.events() == before


async def test_who_calls_is_asked_before_the_body_is_read(locked: World) -> None:
    for path in ("/v1/chat/completions", "/v1/route", "/v1/feedback"):
        for content, kind in ((b"{", "application/json"), (b"x=1", "application/x-www-form-urlencoded")):
            response = await locked.http.post(path, content=content, headers={"content-type": kind})
            assert (response.status_code, response.json()["error"]["code"]) == (401, "missing_key")


async def test_operations_need_no_key(locked: World) -> None:
    for path in ("/healthz", "/metrics", "/readyz"):
        assert (await locked.http.get(path)).status_code in (200, 503)


async def test_the_scheme_may_be_spelled_in_any_case(locked: World) -> None:
    assert (await call(locked, "GET", "/v1/models", None, "bearer  pm-agents")).status_code == 200


async def test_the_name_of_the_key_is_logged_and_is_the_default_source(locked: World) -> None:
    answer = (await call(locked, "POST", "/v1/chat/completions", chat(), "Bearer pm-agents")).json()
    item = {"decision_id": answer["id"], "reward": 1}
    await call(locked, "POST", "/v1/feedback", item, "Bearer pm-judge")
    await call(locked, "POST", "/v1/feedback", {**item, "source": "users"}, "Bearer pm-judge")
    events = await locked.events()
    assert [event.key for event in events if isinstance(event, Decision)] == ["agents"]
    given = [(event.key, event.source) for event in events if isinstance(event, Feedback)]
    assert given == [("judge", "judge"), ("judge", "users")]


def test_without_keys_everybody_may_do_everything() -> None:
    keeper = Gatekeeper(AuthSettings())
    for scope in ("infer", "feedback", "admin"):
        assert keeper.caller(None, scope) == keeper.caller("Bearer whatever", scope) == ANONYMOUS


def test_a_key_is_looked_up_by_its_hash() -> None:
    keeper = Gatekeeper(AuthSettings.model_validate({"keys": KEYS}))
    assert keeper.caller("Bearer pm-judge", "feedback").name == "judge"
    with pytest.raises(ApiError, match="unknown key"):
        keeper.caller(f"Bearer {KEYS[1]['sha256']}", "feedback")
