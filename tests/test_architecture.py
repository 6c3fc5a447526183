"""Imports point one way, and what runs on a bare GPU machine needs nothing else."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"services", "policies", "cluster", "examples", "benchmarks", "tests"}
ALLOWED = {
    "policies": {"policies"},
    "cluster": {"cluster"},
    "services": {"services", "policies", "cluster"},
    "examples": {"examples", "services", "policies", "cluster", "benchmarks/reporting"},
    "services/engine": {"services/engine", "services/adapters"},
    "services/adapters": {"services/adapters", "policies/caching"},
}
LAYERS = ["adapters", "engine", "model", "catalogue", "learning", "routing", "caching", "insight", "edge", "dashboard"]
LAYERS += ["routes", "training", "gateway", "assembly", "deployments", "app", "launch", "cli"]


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_one_way(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for file in files:
        for module in imports(file):
            if module.split(".")[0] in ROOMS:
                place = module.replace(".", "/")
                allowed = any(f"{place}/".startswith(f"{target}/") for target in ALLOWED[room])
                assert allowed, f"{file.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("layer", LAYERS)
def test_services_import_no_layer_above_their_own(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    place = ROOT / "services" / layer
    files = list(place.rglob("*.py")) or [place.with_suffix(".py")]
    for file in files:
        for module in imports(file):
            _, _, found = module.partition("services.")
            assert found.split(".")[0] not in above, f"{file.relative_to(ROOT)} imports {module}"


def loaded_by(room: str) -> set[str]:
    """Top-level packages in memory after every module of a room was imported in a fresh interpreter.

    What is for a GPU alone is left out where there is no Triton.
    """
    files = sorted((ROOT / room).rglob("*.py"))
    if not find_spec("triton"):
        files = [file for file in files if file.name not in ("kernels.py", "graphs.py")]
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    code = f"import sys, {', '.join(modules)}\nprint(sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("room", "unwanted"),
    [
        ("policies", {"ray", "redis", "fastapi"}),
        ("services/engine", {"ray", "redis", "fastapi"}),
        ("services/adapters", {"ray", "redis", "fastapi", "torch"}),
        ("cluster", {"ray", "torch"}),
    ],
)
def test_a_room_runs_without_what_it_does_not_need(room: str, unwanted: set[str]) -> None:
    assert loaded_by(room) & unwanted == set()
