import json
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table
from safetensors.numpy import save_file

from benchmarks import worlds
from benchmarks.reporting import Check, report
from examples.miniwob.episodes import load_all
from examples.miniwob.families import NEWER


def test_the_kept_features_are_of_the_published_model_and_episodes(tmp_path: Path) -> None:
    episodes = load_all()
    H = worlds.features(episodes)
    stale = tmp_path / "stale.safetensors"
    save_file({"H": np.zeros((2, 3), np.float16)}, stale, metadata={"made_of": "something else"})
    again = worlds.features(episodes[:2], kept=stale)
    assert np.allclose(again, H[:2], rtol=1e-2, atol=1e-2)
    assert np.array_equal(worlds.features(episodes[:2], kept=stale), again)


def test_the_world_knows_which_families_are_newer() -> None:
    world = worlds.embedded()
    X, G = world.mapped
    assert len(world.H) == len(world.R) == len(X) == len(world.families)
    assert {family for family, known in zip(world.families, world.known, strict=True) if not known} == set(NEWER)
    named = np.array(world.contexts.arms)[G.argmax(axis=1)]
    assert np.mean(named[world.known] == np.array(world.families)[world.known]) > 0.9


def test_a_report_is_written_before_it_fails(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    checks = [Check("speed", 2.0, "≥ 1", True), Check("size", 3.0, "≤ 1", False)]
    with pytest.raises(SystemExit):
        report("title", Table("a"), checks, file, rows=[1, 2])
    document = json.loads(file.read_text())
    assert document["rows"] == [1, 2]
    assert [check["ok"] for check in document["checks"]] == [True, False]
    report("title", Table("a"), checks[:1])
