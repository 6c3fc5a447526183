"""`pointsman data`, `train` and `router` as commands: what they print, and how they fail."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from policies.context import ContextMap
from services.training import train as training
from tests.services.cli.test_cli import Terminal, fails, invoke, plain, terminal
from tests.services.fakes import FakeEngine
from tests.services.training.data import row, rows, write
from tests.services.world import World

__all__ = ["terminal"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    options = tmp_path / "options.yaml"
    options.write_text("hidden: 6\ncomponents: 3\nclassifier: {epochs: 12}\n")
    return options


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "make_engine", lambda *_: FakeEngine())


def test_a_good_file_is_counted_and_a_bad_one_ends_with_1(tmp_path: Path) -> None:
    found = invoke("data", "check", str(write(tmp_path / "d.jsonl", rows())))
    assert found.exit_code == 0
    assert "calendar 16 4 33.3%" in plain(found.output)
    bad = invoke("data", "check", str(write(tmp_path / "e.jsonl", [*rows(), {"messages": []}])))
    assert bad.exit_code == 1
    assert "error: row 61: messages" in plain(bad.output)
    assert "1 of 61 rows cannot be used" in plain(bad.output)


def test_a_file_without_rows_is_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fails(monkeypatch, capsys, "data", "check", str(write(tmp_path / "e.jsonl", [])))
    assert "e.jsonl: no rows, expected at least one example" in said
    assert "rows cannot be used" not in said


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
    assert "--from-log without --router, expected the router to better" in plain(
        invoke("train", "--from-log", str(tmp_path / "log.parquet")).output
    )
    assert "without --from-log" in plain(invoke("train", str(tmp_path / "d.jsonl"), "--router", str(tmp_path)).output)
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
    listed = plain(await terminal("router", "list"))
    assert f"{other} activating" in listed
    assert f"{mine} deciding" in listed
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
    def judged(snips: float | None) -> dict[str, Any]:
        refused = "the effective sample size is 17.4 of 169" if snips is None else None
        return {"refused": refused, "estimates": {"snips": {"value": snips}}}

    def found(before: float | None, after: float | None, better: bool | None) -> str:
        return json.dumps({"evaluation": {"before": judged(before), "after": judged(after), "better": better}})

    folder = tmp_path / "other"
    other_contexts.save(folder)
    push = ("router", "push", str(folder), "--activate")

    (folder / "training.json").write_text(found(0.9, 0.85, False))
    assert "on the log it would have earned 0.850, the one before it 0.900 (SNIPS) (--force" in await terminal.refused(
        *push
    )
    (folder / "training.json").write_text(found(0.9, None, None))
    assert (
        "cannot tell whether it is as good as the one before it: the effective sample size"
        in await terminal.refused(*push)
    )
    for broken in ("{", "[]", '{"evaluation": {"better": null}}'):
        (folder / "training.json").write_text(broken)
        assert "training.json is not readable" in await terminal.refused(*push)
    assert "pushed" not in await terminal("router", "list", "--json")
    assert "activated" in await terminal(*push, "--force")
    (folder / "training.json").write_text(found(0.8, 0.9, True))
    assert "active already" in await terminal(*push)


async def test_what_is_no_router_is_refused_by_the_name_of_its_file(
    terminal: Terminal, other_contexts: ContextMap, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    document, tensors = other_contexts.files()

    async def refused(document: bytes | None, tensors: bytes | None) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, content in (("router.json", document), ("router.safetensors", tensors)):
            if content is not None:
                (folder / name).write_bytes(content)
        said = await terminal.refused("router", "push", str(folder))
        assert str(folder) in said
        return said

    assert "has no router.json and no router.safetensors, expected a trained router" in await refused(None, None)
    assert "has no router.safetensors, expected" in await refused(document, None)
    assert "router.json is not JSON" in await refused(document[:100], tensors)
    assert "router.safetensors of 100 bytes is damaged" in await refused(document, tensors[:100])
    assert "it lacks 'format'" in await refused(b"{}", tensors)
    assert "is not readable" in await refused(b"[1]", tensors)
