"""The `pointsman` command against a real server on a loopback port."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from cluster.settings import ApiKey
from services import launch
from services.cli.client import Client, ServiceError, user_message
from services.cli.main import app, main
from services.edge.auth import key_hash
from tests.services.auth_keys import keys
from tests.services.conftest import MakeWorld
from tests.services.fakes import FAMILIES
from tests.services.images import encoded
from tests.services.world import World, listening

COMMANDS = ["serve", "route", "feedback", "bandit", "decisions", "explain", "adapters", "arms", "settings", "key"]
COMMANDS += ["cache", "mode", "guard", "evaluate", "export", "forget", "data", "train", "router"]


def plain(text: str) -> str:
    """The words, whatever the width of the terminal made of them."""
    return " ".join(re.sub(r"[│┃╭╮╰╯─━┏┓┗┛┡┩├┤┬┴┼└┘┌┐]", " ", text).split())


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says when it fails: one line."""
    monkeypatch.setattr(sys, "argv", ["pointsman", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1, said.err
    return said.err


class Terminal:
    """Runs commands beside the server's event loop."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        result = await asyncio.to_thread(invoke, *arguments, "--url", self.url)
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    async def refused(self, *arguments: str) -> str:
        """What the error says of a command that fails."""
        result = await asyncio.to_thread(invoke, *arguments, "--url", self.url)
        assert (result.exit_code, result.output) == (1, "")
        assert isinstance(result.exception, (ValueError, ServiceError)), result.exception
        return str(result.exception)


@pytest.fixture
async def terminal(world: World) -> AsyncIterator[Terminal]:
    async with listening(world.app) as url:
        yield Terminal(url)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Usage: root {command}" in plain(result.output)
    assert command in invoke("--help").output


def test_no_command_is_a_call_for_help() -> None:
    assert "Usage:" in invoke().output


def test_serving_ends_in_order_at_a_signal_whatever_handlers_came_with_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted, before = list[int](), {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    @contextlib.contextmanager
    def started(*_: object, **__: object) -> Iterator[str]:
        signal.signal(signal.SIGTERM, lambda number, _: aborted.append(number))
        later = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        at_last = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
        later.start()
        at_last.start()
        yield "http://127.0.0.1:8000"
        at_last.cancel()

    monkeypatch.setattr(launch, "running", started)
    try:
        assert "Stopping" in invoke("serve").output
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not aborted


class TestWithoutAService:
    def test_a_key_and_its_line_for_the_configuration(self) -> None:
        result = invoke("key", "agents", "--scope", "infer", "--scope", "feedback")
        secret = re.search(r"pm-[\w-]{43}", result.output)
        assert secret
        entry = json.loads(result.output.partition("- ")[2])
        assert entry == {"name": "agents", "sha256": key_hash(secret[0]), "scopes": ["infer", "feedback"]}
        assert invoke("key", "agents", "--scope", "infer").output != result.output

    def test_a_key_of_a_tenant_for_some_arms(self) -> None:
        result = invoke("key", "agents", "--scope", "infer", "--tenant", "acme", "--arm", "base", "--arm", "inbox")
        entry = json.loads(result.output.split("For auth.keys:    - ")[1])
        assert (entry["tenant"], entry["arms"]) == ("acme", ["base", "inbox"])
        assert ApiKey.model_validate(entry).tenant == "acme"
        refused = invoke("key", "agents", "--scope", "infer", "--tenant", "two words")
        assert refused.exit_code == 2
        assert "tenant 'two words'" in plain(refused.output)

    def test_a_key_with_a_scope_that_does_not_exist(self) -> None:
        result = invoke("key", "agents", "--scope", "root")
        assert result.exit_code == 2
        assert "'root', expected some of infer, feedback, inspect, admin" in plain(result.output)

    def test_settings_in_force(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("POINTSMAN_SERVER__PORT", "9123")
        monkeypatch.setenv("POINTSMAN_ROUTER__ALPHA", "0.875")
        said = plain(invoke("settings").output)
        assert "server.port 9123 TCP port to listen on." in said
        assert "router.alpha 0.875 Weight of" in said

    @pytest.mark.parametrize("command", ["bandit", "decisions", "adapters"])
    def test_a_dead_service(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        said = fails(monkeypatch, capsys, command, "--url", "http://127.0.0.1:1")
        assert "http://127.0.0.1:1 cannot be reached" in said
        assert "is `pointsman serve` running?" in said

    @pytest.mark.parametrize("url", ["http://[", "localhost:8000", "nowhere"])
    def test_an_address_that_is_none(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
    ) -> None:
        assert url in fails(monkeypatch, capsys, "bandit", "--url", url)

    def test_settings_that_are_wrong(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setenv("POINTSMAN_CONFIG", str(tmp_path / "[missing].yaml"))
        assert "[missing].yaml" in fails(monkeypatch, capsys, "settings")


class TestAgainstAService:
    async def test_route(self, world: World, terminal: Terminal, tmp_path: Path) -> None:
        before = await world.events()
        said = plain(await terminal("route", "open the inbox"))
        assert "inbox (best score, propensity 1.000; supervised: inbox)" in said
        assert all(arm in said for arm in ("base", *FAMILIES))
        (tmp_path / "screen.jpg").write_bytes(encoded(kind="JPEG"))
        arguments = ("--image", str(tmp_path / "screen.jpg"), "--arm", "claims", "--json")
        explained = json.loads(await terminal("route", "open the inbox", *arguments))
        assert (explained["arm"], [arm["arm"] for arm in explained["arms"]]) == ("claims", ["claims"])
        assert world.engine.encoded[-1].images == [encoded(kind="JPEG")]
        assert await world.events() == before

    async def test_feedback(self, world: World, terminal: Terminal) -> None:
        id_ = (await world.ask(episode="e1"))["id"]
        assert await terminal("feedback", id_, "--reward", "0.5", "--comment", "fair") == f"{id_}: recorded\n"
        assert await terminal("feedback", id_, "--failure") == f"{id_}: corrected\n"
        assert await terminal("feedback", "e1", "--episode", "--success", "--source", "judge") == "e1: recorded\n"
        assert await terminal("feedback", "e1", "--episode", "--truncated") == "e1: recorded\n"
        assert await terminal("feedback", "nobody", "--success", code=1) == "nobody: unknown\n"
        view = await world.get(f"/v1/decisions/{id_}")
        assert view["observations"] == {"anonymous": [0.0, False], "anonymous/judge": [1.0, False]}

    async def test_feedback_needs_a_reward_in_range(self, terminal: Terminal) -> None:
        assert "less than or equal to 1" in await terminal("feedback", "d", "--reward", "2", code=2)

    async def test_bandit(self, world: World, terminal: Terminal) -> None:
        id_ = (await world.ask("open the inbox"))["id"]
        await world.say({"decision_id": id_, "reward": 1})
        await world.fold()
        said = plain(await terminal("bandit"))
        assert "linucb v" in said
        assert re.search(
            r"inbox 1 0 1 1\.00 \(0\.21–1\.00\) \d\.\d\d ± \d\.\d\d 100% in \S+ s, \S+ s \d+ s ago yes", said
        )
        assert [arm["arm"] for arm in json.loads(await terminal("bandit", "--json"))["arms"]] == ["base", *FAMILIES]

    async def test_mode_and_guard(self, world: World, terminal: Terminal) -> None:
        assert "online online linucb nothing seen yet" in plain(await terminal("mode"))
        assert "shadow shadow mlp" in plain(await terminal("mode", "shadow"))
        assert await world.store.mode() == "shadow"
        id_ = (await world.ask("open the inbox"))["id"]
        await world.say({"decision_id": id_, "reward": 1})
        await world.fold()
        assert re.search(r"linucb 1\.00 \(0\.\d\d–1\.00\) 1 1", plain(await terminal("bandit")))
        assert json.loads(await terminal("guard", "--reset", "--json"))["chosen"] == "shadow"
        assert (await world.events())[-1].type == "guard_reset"
        assert "0 units, 0 of them differ, evidence 0" in plain(await terminal("guard"))
        assert "'offline'" in await terminal("mode", "offline", code=2)

    async def test_export_and_evaluate(self, world: World, terminal: Terminal, tmp_path: Path) -> None:
        id_ = (await world.ask("open the inbox"))["id"]
        await world.say({"decision_id": id_, "reward": 1})
        await world.fold()
        file = tmp_path / "log.parquet"
        assert "KiB" in await terminal("export", "--to", str(file))
        away = tmp_path / "none" / "log.parquet"
        assert f"no such directory {away.parent}" in await terminal.refused("export", "--to", str(away))
        assert pq.read_table(file).column("id").to_pylist() == [id_]
        said = plain(await terminal("evaluate", "--policy", "mlp", code=1))
        assert "the effective sample size is 1.0 of 1" in said
        offline = json.loads(await terminal("evaluate", "--from", str(file), "--json", code=1))
        assert [one["policy"] for one in offline] == ["linucb", "mlp"]

    async def test_decisions(self, world: World, terminal: Terminal) -> None:
        ids = [(await world.ask(metadata={"task": f"[/red]{i}"}))["id"] for i in range(3)]
        await world.fold()
        await world.say({"decision_id": ids[2], "reward": 0.5, "source": "[/judge]"})
        said = plain(await terminal("decisions", "--limit", "2"))
        assert ids[0] not in said
        assert re.search(rf"{ids[2]} \d+ s ago \[/red\]2 calendar 1.000 pending \(anonymous/\[/judge\]: 0.5\)", said)
        views = json.loads(await terminal("decisions", "--json"))
        assert [view["decision"]["id"] for view in views] == ids[::-1]

    async def test_adapters(self, world: World, terminal: Terminal) -> None:
        said = plain(await terminal("adapters"))
        for adapter in world.registry:
            assert f"{adapter.name} {adapter.fingerprint} 2" in said

    async def test_a_refusal_is_said_in_the_services_words(
        self, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with listening(world.app) as url:
            arguments = ("route", "hello", "--arm", "nobody", "--url", url)
            said = await asyncio.to_thread(fails, monkeypatch, capsys, *arguments)
        assert "400: routing.arms: 'nobody' is unknown, expected some of base, calendar" in said

    async def test_a_key_opens_a_locked_service(self, make_world: MakeWorld) -> None:
        world = await make_world(auth={"keys": keys("operator")})
        async with listening(world.app) as url:
            terminal = Terminal(url)
            assert "inbox" in await terminal("adapters", "--key", "pm-operator")
            with Client(url) as client, pytest.raises(ServiceError, match="401: missing key"):
                await asyncio.to_thread(client.get, "/v1/adapters")

    async def test_something_else_that_listens(self, world: World) -> None:
        async with listening(world.app) as url:
            with Client(url) as client, pytest.raises(ServiceError, match="does not speak JSON"):
                await asyncio.to_thread(client.get, "/docs")


@pytest.mark.parametrize(("name", "kind"), [("a.png", "png"), ("a.JPG", "jpeg"), ("a.webp", "webp"), ("a", "png")])
def test_an_image_file_becomes_a_data_url(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"pixels")
    parts = user_message("look", tmp_path / name)["content"]
    assert parts[0]["image_url"]["url"] == f"data:image/{kind};base64,cGl4ZWxz"
    assert parts[1] == {"type": "text", "text": "look"}
    assert user_message("look")["content"] == "look"
