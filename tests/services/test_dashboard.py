"""What the dashboard's page is served with, and the stream of what it shows."""

import asyncio
import io
import json
import re
import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import services.dashboard
from services.adapters.cache_view import CacheView
from services.dashboard import live
from services.routing import screens
from services.routing.screens import smaller
from tests.services.auth_keys import bearer, keys
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES
from tests.services.images import encoded, image_message
from tests.services.world import World, chat, eventually, listening

STATIC = Path(services.dashboard.__file__).parent / "static"


async def first(world: World, query: str = "", **headers: str) -> dict[str, Any]:
    """What a stream begins with: everything."""
    async with listening(world.app) as url, httpx.AsyncClient(base_url=url, headers=headers) as http:
        async for event in stream(http, query):
            return event
    raise AssertionError("the stream ended")


async def stream(http: httpx.AsyncClient, query: str = "") -> AsyncGenerator[dict[str, Any], None]:
    async with http.stream("GET", f"/v1/live{query}", timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


class TestPage:
    async def test_the_page_may_load_what_lies_beside_it_and_nothing_else(self, world: World) -> None:
        response = await world.http.get("/")
        assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))
        assert policy == {
            "default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self' blob:",
            "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'",
        }  # fmt: skip

    async def test_what_it_names_is_there_and_nothing_is_elsewhere(self, world: World) -> None:
        """Every file that the page and its scripts name is served; none is on another host, no script is inline."""
        page = (await world.http.get("/")).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|\bstyle=|\bon\w+=", page)
        named = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert any(name.endswith(".js") for name in named)
        for path in [*named, *(f"/dashboard/{file.relative_to(STATIC)}" for file in STATIC.rglob("*.*"))]:
            response = await world.http.get(path)
            assert response.status_code == 200, path
        for file in STATIC.rglob("*.js"):
            for module in re.findall(r'^(?:import|export) .*?from "([^"]+)"', file.read_text(), re.M):
                assert (file.parent / module).is_file(), (file, module)

    @pytest.mark.parametrize("path", ["/dashboard/../live.py", "/dashboard/%2e%2e/live.py", "/dashboard/nothing.js"])
    async def test_nothing_else_is_served(self, world: World, path: str) -> None:
        assert (await world.http.get(path)).status_code == 404

    @pytest.mark.parametrize("path", ["/", "/v1/bandit", "/v1/decisions/nobody", "/metrics", "/dashboard/main.js"])
    async def test_no_browser_guesses_or_embeds(self, world: World, path: str) -> None:
        headers = (await world.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


class TestLive:
    async def test_it_begins_with_everything(self, world: World) -> None:
        answer = await world.ask("open the inbox", metadata={"task": "mail"})
        await world.say({"decision_id": answer["id"], "reward": 1.0})
        await world.fold()
        found = await first(world, "?seconds=43200")
        assert found["about"] == {"model": "qwen", "seconds": 43200, "keeps_screens": 0, "arms": 4}
        assert (found["state"]["mode"], found["state"]["policy"], found["state"]["alarms"]) == ("online", "linucb", {})
        assert found["arms"][0]["arm"] == "inbox"
        (line,) = found["decisions"]
        assert (line["id"], line["task"], line["arm"], line["reward"]) == (answer["id"], "mail", "inbox", 1.0)
        assert (line["status"], line["screen"]) == ("matured", False)
        (cache,) = found["caches"]
        assert sorted(entry["name"] for entry in cache["device"]) == list(FAMILIES)
        assert (cache["page_ins"], cache["waiting"]) == (len(FAMILIES), 0)
        (bucket,) = [part for name, part in found.items() if name.startswith("bucket ")]
        assert (bucket["requests"], bucket["success"]) == (1, 1.0)

    async def test_then_it_says_what_has_changed(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(live, "_EVERY_S", 0.05)
        async with listening(world.app) as url, httpx.AsyncClient(base_url=url) as http:
            events = stream(http)
            assert {"about", "arms", "state", "decisions"} <= (await anext(events)).keys()
            assert (await anext(events)).keys() == {"state"}
            answer = await world.ask("open the inbox")
            while "decisions" not in (event := await anext(events)):
                assert "about" not in event
            assert [line["id"] for line in event["decisions"]] == [answer["id"]]
            await events.aclose()

    async def test_a_stream_ends_and_gives_its_seat_back(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(live, "_MOST_VIEWERS", 1)
        async with listening(world.app) as url, httpx.AsyncClient(base_url=url) as http:
            watching = stream(http)
            await anext(watching)
            refused = await http.get("/v1/live")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_viewers")
            assert refused.headers["retry-after"] == "5"
            await watching.aclose()
            monkeypatch.setattr(live, "_EVERY_S", 0.01)
            monkeypatch.setattr(live, "_LASTS_S", 0.1)

            async def free() -> bool:
                return (await http.get("/v1/live")).status_code == 200

            await eventually(free)

    async def test_those_who_watch_share_a_look(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        looks = 0
        look = live.Live._look

        async def counted(self: live.Live, *args: Any) -> live.Parts:
            nonlocal looks
            looks += 1
            return await look(self, *args)

        monkeypatch.setattr(live.Live, "_look", counted)
        shown = live.Live(world.router)
        parts = await asyncio.gather(*(shown.parts(60, None) for _ in range(5)))
        assert looks == 1
        assert all(part is parts[0] for part in parts)

    async def test_it_says_when_the_store_is_away(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def away(*_: Any) -> live.Parts:
            raise ConnectionRefusedError

        monkeypatch.setattr(live.Live, "_look", away)
        response = await world.http.get("/v1/live")
        assert response.text == 'event: away\ndata: "the store is away"\n\n'

    async def test_a_replica_that_does_not_answer_hides_nothing_else(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def silent() -> list[CacheView]:
            await asyncio.sleep(60)
            raise AssertionError

        monkeypatch.setattr(live, "_PATIENCE_S", 0.05)
        monkeypatch.setattr(world.router.model, "caches", silent)
        found = await first(world)
        assert found["caches"] is None
        assert found["state"]["mode"] == "online"

    async def test_a_tenants_key_sees_its_own(self, make_world: MakeWorld) -> None:
        world = await make_world(auth={"keys": [*keys("acme", tenant="acme"), *keys("zeta", tenant="zeta")]})
        for name in ("acme", "zeta"):
            body = chat("open the inbox", metadata={"task": f"of-{name}"})
            response = await world.post("/v1/chat/completions", body, authorization=bearer(name))
            assert response.status_code == 200, response.text
        await world.fold()
        found = await first(world, "?seconds=43200", authorization=bearer("acme"))
        assert [line["task"] for line in found["decisions"]] == ["of-acme"]
        (bucket,) = [part for name, part in found.items() if name.startswith("bucket ")]
        assert [(cell["task"], cell["requests"]) for cell in bucket["cells"]] == [("", 2)]


class TestScreens:
    async def test_none_is_kept_unless_a_setting_says_so(self, world: World) -> None:
        message, _ = image_message("open the inbox")
        answer = await world.ask(messages=[message])
        await world.settle()
        assert (await world.http.get(f"/v1/decisions/{answer['id']}/screen")).status_code == 204
        unknown = await world.http.get("/v1/decisions/nobody/screen")
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "decision_id")

    async def test_the_latest_are_kept(self, make_world: MakeWorld) -> None:
        world = await make_world(store={"keep_screens": 2})
        answers = []
        for color in ("red", "lime", "blue"):
            message, _ = image_message("open the inbox", color=color)
            answers.append(await world.ask(messages=[message]))
            await world.settle()
        text = await world.ask("without a screen")
        await world.settle()
        found = [await world.http.get(f"/v1/decisions/{answer['id']}/screen") for answer in answers]
        assert [response.status_code for response in found] == [204, 200, 200]
        assert found[2].headers["content-type"] == "image/webp"
        picture = Image.open(io.BytesIO(found[2].content)).convert("RGB")
        red, green, blue = picture.getpixel((2, 2))  # type: ignore[misc]
        assert (red < 40, green < 40, blue > 200) == (True, True, True)
        shown = {line["id"]: line["screen"] for line in (await first(world))["decisions"]}
        assert shown == {text["id"]: False, answers[2]["id"]: True, answers[1]["id"]: True, answers[0]["id"]: False}

    async def test_another_tenants_is_unknown(self, make_world: MakeWorld) -> None:
        tenants = [*keys("acme", tenant="acme"), *keys("zeta", tenant="zeta")]
        world = await make_world(store={"keep_screens": 2}, auth={"keys": tenants})
        message, _ = image_message("open the inbox")
        asked = await world.post("/v1/chat/completions", chat(messages=[message]), authorization=bearer("acme"))
        await world.settle()
        path = f"/v1/decisions/{asked.json()['id']}/screen"
        for name, status in (("acme", 200), ("zeta", 404)):
            assert (await world.http.get(path, headers={"authorization": bearer(name)})).status_code == status

    async def test_one_that_comes_while_others_are_made_smaller_is_passed_over(
        self, make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No request waits for screens, and no queue of them grows."""
        slow = threading.Event()
        monkeypatch.setattr(screens, "smaller", lambda image: slow.wait(60) and image)
        world = await make_world(store={"keep_screens": 10})
        message, image = image_message("open the inbox")
        ids = [(await world.ask(messages=[message]))["id"] for _ in range(4)]
        slow.set()
        await world.settle()
        assert [await world.store.screen(id_) for id_ in ids] == [image, image, None, None]

    def test_a_large_one_is_made_smaller(self) -> None:
        with Image.open(io.BytesIO(smaller(encoded(3000, 1500)))) as picture:
            assert (picture.format, picture.size) == ("WEBP", (1024, 512))
