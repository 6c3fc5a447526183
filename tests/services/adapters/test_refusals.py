"""Bad adapters, each posted over HTTP to a whole service with the real engine: refused by name, harming nobody."""

import asyncio
import json
import os
import pickle
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.settings import EMBEDDED_WORLD, Settings
from policies.context import ContextMap
from services.deployments import routed_engine
from services.engine.loading import load
from services.engine.routed import RoutedEngine
from tests.services.conftest import MakeSettings
from tests.services.world import World, listening, running

WORLD = Settings()
GOOD = EMBEDDED_WORLD / "adapters" / "click-color"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
Tensors = dict[str, torch.Tensor]
Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def engine() -> Iterator[RoutedEngine]:
    engine = RoutedEngine(
        load(WORLD.model.path), kv_tokens=4096, device_rows=128, lora_pages=16, bases={Path(WORLD.model.path).name}
    )
    yield engine
    engine.close()


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


@pytest.fixture
async def world(make_settings: MakeSettings, engine: RoutedEngine, incoming: Path) -> AsyncIterator[World]:
    settings = make_settings(
        model={"adapters": WORLD.model.adapters, "name": "qwen"},
        cache={"roots": [incoming], "device_rows": 128, "hub_owners": ["friends"]},
    )
    made: Any = World(settings, ContextMap.load(WORLD.router.path), engine)  # type: ignore[arg-type]
    async with running(made):
        yield made


def config(**changes: Any) -> Spoil:
    def spoil(path: Path) -> None:
        (path / CONFIG).write_text(json.dumps(json.loads((path / CONFIG).read_text()) | changes))

    return spoil


def tensors(change: Callable[[Tensors], object]) -> Spoil:
    def spoil(path: Path) -> None:
        found = load_file(path / WEIGHTS)
        change(found)
        save_file(found, path / WEIGHTS)

    return spoil


def header(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """A file whose header says something else than what follows."""

    def spoil(path: Path) -> None:
        data = (path / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        document = json.loads(data[8 : 8 + length])
        change(document)
        said = json.dumps(document).encode()
        (path / WEIGHTS).write_bytes(len(said).to_bytes(8, "little") + said + data[8 + length :])

    return spoil


def cut(path: Path) -> None:
    data = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(data[: len(data) // 2])


def as_pickle(path: Path) -> None:
    torch.save(load_file(path / WEIGHTS), path / "adapter_model.bin")
    (path / WEIGHTS).unlink()


def pickle_in_disguise(path: Path) -> None:
    (path / WEIGHTS).write_bytes(pickle.dumps({"lora_A": [1.0] * 100}))


def pipe(path: Path) -> None:
    (path / WEIGHTS).unlink()
    os.mkfifo(path / WEIGHTS)


def directory(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).mkdir()


def outside_of(path: Path) -> Path:
    """A directory that is no root."""
    return next(parent for parent in path.parents if parent.name == "incoming").parent


def link_out(path: Path) -> None:
    outside = outside_of(path) / "outside.safetensors"
    shutil.move(path / WEIGHTS, outside)
    (path / WEIGHTS).symlink_to(outside)


def link_to_itself(path: Path) -> None:
    (path / WEIGHTS).unlink()
    (path / WEIGHTS).symlink_to(path / WEIGHTS)


def directory_link_out(path: Path) -> None:
    outside = outside_of(path) / "elsewhere"
    shutil.move(path, outside)
    path.symlink_to(outside)


def rename(found: Tensors, old: str, new: str) -> None:
    for name in [name for name in found if old in name]:
        found[name.replace(old, new)] = found.pop(name)


def on_the_tower(found: Tensors, number: float) -> Tensors:
    """A pair for a layer of the tower, of the rank of the others."""
    layer, rank = "base_model.model.model.visual.blocks.0.attn.qkv", len(found[f"{Q}.lora_A.weight"])
    width = tower_width()
    A, B = torch.full((rank, width), number, dtype=torch.float64), torch.zeros(3 * width, rank)
    return {f"{layer}.lora_A.weight": A, f"{layer}.lora_B.weight": B}


def tower_width() -> int:
    width: int = json.loads((Path(WORLD.model.path) / "config.json").read_text())["vision_config"]["hidden_size"]
    return width


def wider(found: Tensors) -> None:
    """Every module with a rank that no page is left for."""
    for name in list(found):
        side = 0 if "lora_A" in name else 1
        found[name] = torch.cat([found[name]] * 20, side)


BAD: dict[str, tuple[Spoil, str]] = {
    "no configuration": (lambda path: (path / CONFIG).unlink(), f"{CONFIG} is missing"),
    "no weights": (lambda path: (path / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "a pickle": (as_pickle, f"adapter_model.bin: a pickle, which may hold code, expected {WEIGHTS}"),
    "a pickle called safetensors": (pickle_in_disguise, f"{WEIGHTS}: not safetensors: a header of"),
    "a pipe": (pipe, f"{WEIGHTS}: not a regular file"),
    "a directory": (directory, f"{WEIGHTS}: not a regular file"),
    "a truncated file": (cut, "(truncated, or more than its header says)"),
    "an empty file": (lambda path: (path / WEIGHTS).write_bytes(b""), "not safetensors: a header of 0 bytes"),
    "a header without an end": (
        lambda path: (path / WEIGHTS).write_bytes(b"\xff" * 64), "not safetensors: a header of 18446744073709551615"
    ),
    "a header that is no JSON": (
        lambda path: (path / WEIGHTS).write_bytes((3).to_bytes(8, "little") + b"{x}"), "its header is no JSON"
    ),
    "a header that is nested for ever": (
        lambda path: (path / WEIGHTS).write_bytes((1 << 20).to_bytes(8, "little") + b"[" * (1 << 20)),
        "its header is no JSON",
    ),
    "a header whose numbers are too long to be told": (
        header(lambda said: said[f"{Q}.lora_A.weight"].update(shape=[10**4000, 10**4000])),
        "expected whole numbers from 0 to 9223372036854775807",
    ),
    "a header with a great many dimensions": (
        header(lambda said: said[f"{Q}.lora_A.weight"].update(shape=[1 << 60] * 1000)),
        "expected at most 8 whole numbers",
    ),
    "a header that talks for ever": (
        header(lambda said: said[f"{Q}.lora_A.weight"].update(note="x" * (1 << 20))), "expected dtype, shape and da"
    ),
    "a header that lies about a shape": (
        header(lambda said: said[f"{Q}.lora_A.weight"].update(shape=[8, 9999])),
        f"header of '{Q}.lora_A.weight': data_offsets",
    ),
    "a header whose tensors overlap": (
        header(lambda said: said[f"{Q}.lora_A.weight"].update(said[f"{Q}.lora_B.weight"])), "of the weights, expected"
    ),
    "a header with negative offsets": (
        header(lambda said: said[f"{Q}.lora_A.weight"].update(data_offsets=[-8, 0])), "expected whole numbers from 0"
    ),
    "a number format of its own": (
        header(lambda said: said[f"{Q}.lora_A.weight"].update(dtype="I32")), "dtype 'I32', expected one of F64"
    ),
    "another base": (
        config(base_model_name_or_path="someone/llama-7b"),
        "base_model_name_or_path: 'someone/llama-7b', expected qwen3-vl-miniwob (cache.bases)",
    ),
    "a configuration that is no JSON": (lambda path: (path / CONFIG).write_text("{"), f"{CONFIG}: not JSON"),
    "a configuration that is nested for ever": (lambda path: (path / CONFIG).write_text("[" * 100_000), "not JSON"),
    "target modules that are no names": (config(target_modules=["q_proj", 1]), "target_modules is ['q_proj', 1]"),
    "another method": (config(peft_type="IA3"), f"{CONFIG}: peft_type is 'IA3', expected 'LORA'"),
    "DoRA": (config(use_dora=True), "use_dora: True is not supported"),
    "biases": (config(bias="all"), "bias: 'all' is not supported"),
    "biases of B": (config(lora_bias=True), "lora_bias: True is not supported"),
    "modules that are saved whole": (config(modules_to_save=["lm_head"]), "modules_to_save: ['lm_head']"),
    "replicated layers": (config(layer_replication=[[0, 1]]), "layer_replication: [[0, 1]]"),
    "an initialisation that changes the base": (config(init_lora_weights="pissa"), "init_lora_weights: 'pissa'"),
    "a method of tomorrow": (config(use_something_new=True), "use_something_new: True is not supported"),
    "a scale that is no number": (config(lora_alpha="much"), "lora_alpha: 'much', expected a finite number"),
    "a scale beyond all bounds": (config(lora_alpha=1e60), "lora_alpha 1e+60 makes weights that are not finite"),
    "a scale that no number format holds": (config(lora_alpha=10**400), "expected a finite number"),
    "a pattern that takes for ever": (config(alpha_pattern={"(a+)+$": 1}), "alpha_pattern: '(a+)+$', expected the end"),
    "a rank that is not configured": (config(r=5), "has rank 8, its configuration says 5"),
    "a rank that is too large": (
        lambda path: (tensors(wider)(path), config(r=160)(path)), "rank 160, expected a rank of at most 128"
    ),
    "NaN": (
        tensors(lambda found: found[f"{Q}.lora_A.weight"][2, 3].fill_(float("nan"))),
        f"'{Q}.lora_A.weight' is nan at [2, 3], expected finite numbers",
    ),
    "infinity": (
        tensors(lambda found: found[f"{Q}.lora_B.weight"][5, 1].fill_(float("-inf"))),
        f"'{Q}.lora_B.weight' is -inf at [5, 1], expected finite numbers",
    ),
    "a number that the model's format lacks": (
        tensors(lambda found: found.update({f"{Q}.lora_A.weight": found[f"{Q}.lora_A.weight"].double() + 1e300})),
        f"'{Q}.lora_A.weight' is 1e+300 at [0, 0], expected finite numbers of torch.float32",
    ),
    "a number that the model's format lacks, on the vision tower": (
        tensors(lambda found: found.update(on_the_tower(found, 1e300))),
        "attn.qkv.lora_A.weight' is 1e+300 at [0, 0], expected finite numbers of torch.float32",
    ),
    "a shape of another model": (
        tensors(lambda found: found.update({f"{Q}.lora_A.weight": torch.ones(8, 7)})),
        f"'{Q}.lora_A.weight' has shape (8, 7), expected (8, ",
    ),
    "half of a pair": (tensors(lambda found: found.pop(f"{Q}.lora_B.weight")), "has lora_A alone, expected lora_A and"),
    "a layer too many": (
        tensors(lambda found: rename(found, "layers.0.", "layers.99.")), "layers.99.",
    ),
    "an unknown module": (
        tensors(lambda found: rename(found, "q_proj", "z_proj")), "z_proj', expected a linear layer of one of the"
    ),
    "a layer that the vision tower lacks": (
        tensors(lambda found: rename(found, "language_model.layers", "visual.blocks")), "or of the vision tower"
    ),
    "other tensors among them": (
        tensors(lambda found: found.update({f"{Q}.lora_magnitude_vector.weight": torch.ones(3)})),
        "lora_magnitude_vector.weight', expected lora_A and lora_B",
    ),
    "no module that matches": (tensors(lambda found: rename(found, "lora_", "adapter_")), "none of them a LoRA's"),
    "no tensors": (tensors(lambda found: found.clear()), "0 tensors and none of them a LoRA's"),
    "a link out": (link_out, f"{WEIGHTS} lies or leads outside of"),
    "a directory's link out": (directory_link_out, "bad lies or leads outside of"),
    "a link to itself": (link_to_itself, "bad cannot be read: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_adapter_is_refused_by_name(world: World, incoming: Path, kind: str) -> None:
    spoil, said = BAD[kind]
    bad = Path(shutil.copytree(GOOD, incoming / "bad"))
    spoil(bad)
    before = await world.get("/v1/adapters")
    await refused(world, str(bad), said, str(bad))
    replaced = await world.http.patch("/v1/adapters/click-tab", json={"source": str(bad)})
    assert (replaced.status_code, said in replaced.json()["error"]["message"]) == (400, True), replaced.text
    assert await world.get("/v1/adapters") == before
    assert "mine" not in await world.get("/v1/arms")
    world.cache.check_integrity()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/etc", "source: /etc lies or leads outside of"),
        ("{incoming}/../outside", "expected a path without '..'"),
        ("{incoming}/nothing", "nothing is not a directory"),
        ("{incoming}/" + "x" * 300, "cannot be read: File name too long"),
        ("bad", "source: 'bad', expected an absolute path or a repository as owner/name[@revision]"),
        (
            "friends/adapter@../../main",
            "source: 'friends/adapter@../../main', expected an absolute path or a repository",
        ),
        ("strangers/adapter", "source: 'strangers/adapter', expected a repository of friends (cache.hub_owners)"),
    ],
)
async def test_a_source_that_is_none(world: World, incoming: Path, source: str, said: str) -> None:
    await refused(world, source.format(incoming=incoming), said)


async def test_a_base_of_another_name_is_taken_where_the_settings_name_it(
    make_settings: MakeSettings, incoming: Path
) -> None:
    settings = make_settings(
        model={"adapters": WORLD.model.adapters, "path": WORLD.model.path, "name": "qwen"},
        cache={"roots": [incoming], "bases": ["Qwen/Qwen3-VL-4B"], "device_rows": 128},
    )
    engine: Any = routed_engine(settings)
    assert engine.device.capacity == 16
    async with running(World(settings, ContextMap.load(WORLD.router.path), engine)) as world:
        for name, base, status in [
            ("theirs", "Qwen/Qwen3-VL-4B", 201),
            ("copied", "/models/Qwen3-VL-4B", 201),
            ("called", "qwen", 201),
            ("other", "Qwen/Qwen3-VL-8B", 400),
        ]:
            path = Path(shutil.copytree(GOOD, incoming / name))
            config(base_model_name_or_path=base)(path)
            response = await world.post("/v1/adapters", {"name": name, "source": str(path)})
            assert response.status_code == status, response.text
    engine.close()


async def test_a_good_one_is_not(world: World, incoming: Path) -> None:
    good = shutil.copytree(GOOD, incoming / "good")
    response = await world.post("/v1/adapters", {"name": "mine", "source": str(good)})
    assert response.status_code == 201, response.text


async def test_requests_in_flight_go_on(world: World, incoming: Path) -> None:
    """Streams under several adapters, while every kind of bad adapter is posted."""
    arms = ("click-tab", "click-color", "base")
    async with listening(world.app) as url, httpx.AsyncClient(base_url=url, timeout=120) as http:

        async def ask(arm: str) -> str:
            body = {"model": "qwen" if arm == "base" else arm, "messages": [{"role": "user", "content": "Click it."}]}
            response = await http.post("/v1/chat/completions", json={**body, "max_tokens": 24})
            assert response.status_code == 200, response.text
            return str(response.json()["choices"][0]["message"]["content"])

        alone = [await ask(arm) for arm in arms]
        posting = asyncio.create_task(post_all(http, incoming))
        while not posting.done():
            assert await asyncio.gather(*map(ask, arms)) == alone
        assert await posting == [400] * len(BAD)
        assert await asyncio.gather(*map(ask, arms)) == alone


async def post_all(http: httpx.AsyncClient, incoming: Path) -> list[int]:
    statuses = []
    for number, (spoil, _) in enumerate(BAD.values()):
        bad = Path(shutil.copytree(GOOD, incoming / str(number) / "bad"))
        spoil(bad)
        response = await http.post("/v1/adapters", json={"name": "mine", "source": str(bad)})
        statuses.append(response.status_code)
    return statuses


async def refused(world: World, source: str, *said: str) -> None:
    response = await world.post("/v1/adapters", {"name": "mine", "source": source})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (400, "invalid_adapter", "invalid_request_error")
    for words in said:
        assert words in error["message"], error["message"]
    assert len(error["message"]) < 1500
