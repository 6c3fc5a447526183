"""`pointsman data`, `train` and `router` as commands: what they print, and how they fail."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from policies.context import ContextMap
from services.training import train as training
from tests.services.cli.test_cli import Terminal, fails, invoke, plain, terminal
from tests.services.training.data import fake_engine, row, rows, write
from tests.services.world import World

__all__ = ["terminal"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    options = tmp_path / "options.yaml"
    options.write_text("hidden: 6\ncomponents: 3\nclassifier: {epochs: 12}\n")
    return options


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "engine", lambda *_: fake_engine())


def test_a_good_file_is_counted_and_a_bad_one_ends_with_1(tmp_path: Path) -> None:
    found = invoke("data", "check", str(write(tmp_path / "d.jsonl", rows())))
    assert found.exit_code == 0
    assert "calendar 16 4 33.3%" in plain(found.output)
    bad = invoke("data", "check", str(write(tmp_path / "e.jsonl", [*rows(), {"messages": []}])))
    assert bad.exit_code == 1
    assert "error: row 61: messages" in plain(bad.output)
    assert "1 of 61 rows cannot be used" in plain(bad.output)


def test_training_prints_the_version_and_what_it_found(tmp_path: Path, adapters: Path, small: Path) -> None:
    given = [str(write(tmp_path / "d.jsonl", rows())), "--adapters", str(adapters), "--config", str(small)]
    done = invoke("train", *given, "--out", str(tmp_path / "routers"))
    assert done.exit_code == 0, done.output
    assert re.search(r"v0001: router [0-9a-f]{16}", done.output)
    assert "recall 1.00" in done.output or "1.000" in done.output
    again = invoke("train", *given, "--out", str(tmp_path / "routers"))
    assert "was made by the same run before" in again.output
    other = invoke("train", *given, "--out", str(tmp_path / "routers"), "--seed", "3", "--no-balanced")
    assert "v0002: router" in other.output
    known = json.loads((tmp_path / "routers" / "v0002" / "training.json").read_text())
    assert (known["config"]["seed"], known["config"]["balanced"]) == (3, False)


def test_training_says_what_is_missing(
    tmp_path: Path, adapters: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected a file of examples, or --from-log" in plain(invoke("train").output)
    data = str(write(tmp_path / "d.jsonl", [*rows(), row(1, "tickets")]))
    said = fails(monkeypatch, capsys, "train", data, "--adapters", str(adapters), "--out", str(tmp_path / "out"))
    assert "row 61: adapter 'tickets' is unknown" in said


async def test_a_router_is_pushed_activated_and_rolled_back(
    world: World, terminal: Terminal, other_contexts: ContextMap, tmp_path: Path
) -> None:
    mine, other = world.contexts.fingerprint, other_contexts.fingerprint
    other_contexts.save(tmp_path / "other")
    assert f"{other}: pushed" in await terminal("router", "push", str(tmp_path / "other"))
    assert f"{other}: activated" in await terminal("router", "activate", other[:6])
    assert f"{other}: active already" in await terminal("router", "activate", other)
    assert f"{other} activating" in plain(await terminal("router", "list"))
    assert f"{mine}: activated" in await terminal("router", "rollback")
    states = json.loads(await terminal("router", "list", "--json"))
    assert {view["router"]: view["state"] for view in states} == {mine: "active", other: "pushed"}
    assert await terminal("router", "activate", "xyz", code=1) == ""
    assert await terminal("router", "remove", mine, code=1) == ""
    assert f"{other}: removed" in await terminal("router", "remove", other[:6])
    assert [view["router"] for view in json.loads(await terminal("router", "list", "--json"))] == [mine]


async def test_a_router_that_the_log_found_worse_is_not_activated_by_mistake(
    terminal: Terminal, other_contexts: ContextMap, tmp_path: Path
) -> None:
    def found(better: bool | None) -> dict[str, Any]:
        return {"evaluation": {"better": better}}

    other_contexts.save(tmp_path / "other")
    push = ("router", "push", str(tmp_path / "other"), "--activate")
    for better in (False, None):
        (tmp_path / "other" / "training.json").write_text(json.dumps(found(better)))
        await terminal(*push, code=1)
    assert "pushed" not in await terminal("router", "list", "--json")
    assert "activated" in await terminal(*push, "--force")
    (tmp_path / "other" / "training.json").write_text(json.dumps(found(True)))
    assert "active already" in await terminal(*push)
