"""Adapters on the vision tower: exact alone and in mixtures, and never seen by anybody else."""

import gc
import weakref
from pathlib import Path

import pytest
import torch

from services.adapters import files
from services.engine import vision
from services.engine.routed.layout import HostAdapter
from services.engine.routed.runner import Runner
from services.engine.vision import Screen
from tests.services.engine.batch import Batch, all_are_exact, close, make_runner, said
from tests.services.engine.oracle import ADAPTERS, TOWER, Oracle, embedded_oracle, random_oracle, write
from tests.services.engine.prompts import PROMPTS

KINDS = TOWER | {"wide": ADAPTERS["wide"]}
GATES: list[dict[str, float]] = [
    {},
    {"seeing": 1.0},
    {"both": 1.0},
    {"wide": 1.0},
    {"seeing": -0.6},
    {"both": 0.5, "seeing": 0.3, "wide": 0.2},
    {"wide": 0.5, "seeing": 0.5},
]
SCREEN = PROMPTS["one screen"]


@pytest.fixture(scope="module", params=["embedded", "wide groups"])
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    folder = tmp_path_factory.mktemp("adapters")
    return (
        embedded_oracle(folder, KINDS) if request.param == "embedded" else random_oracle(request.param, folder, KINDS)
    )


@pytest.fixture
def runner(oracle: Oracle) -> Runner:
    return make_runner(oracle, image_cache=16, state_cache=4, device_rows=16)


@pytest.mark.parametrize("chunk", [23, 512])
def test_logits_are_pefts_under_every_kind_of_gates(oracle: Oracle, runner: Runner, chunk: int) -> None:
    """After the router has looked at the same screens."""
    for prompt in PROMPTS.values():
        runner.encode(*runner.read_routed(prompt))
    all_are_exact(oracle, runner, PROMPTS, GATES, chunk)


def test_layers_that_are_not_packed_are_changed_alike(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the patches go through a convolution."""
    monkeypatch.setattr(vision, "packs", lambda *_: False)
    runner = make_runner(oracle, max_batch=4, kv_tokens=2048, lora_pages=4, image_cache=4)
    batch = Batch(oracle, runner)
    sequences = [batch.add(SCREEN, gates, said(4)) for gates in GATES[:3]]
    batch.run()
    for sequence, gates in zip(sequences, GATES[:3], strict=True):
        close(batch.logits[sequence], oracle.logits(SCREEN, gates, said(4)))


def test_what_an_adapter_sees_is_not_what_others_see(oracle: Oracle, runner: Runner) -> None:
    routed = runner.encode(*runner.read_routed(SCREEN))
    batch = Batch(oracle, runner)
    kinds: list[dict[str, float]] = [{"seeing": 1.0}, {}, {"seeing": 0.5}, {"wide": 1.0}]
    first = [batch.add(SCREEN, gates, said(1)) for gates in kinds]
    batch.run()
    again = [batch.add(SCREEN, gates, said(1)) for gates in kinds]
    for sequence in again:
        assert all(isinstance(image, Screen) for image in sequence.prompt.images)  # kept, each under its own key
    batch.run()
    for sequences in (first, again):
        for sequence, gates in zip(sequences, kinds, strict=True):
            close(batch.logits[sequence], oracle.logits(SCREEN, gates, said(1)))
    seeing, base = (oracle.logits(SCREEN, gates, said(1)) for gates in kinds[:2])
    assert (seeing - base).abs().max() > 1e-2
    assert runner.encode(*runner.read_routed(SCREEN)) == routed


def test_one_tower_in_two_adapters_counts_twice(oracle: Oracle, runner: Runner) -> None:
    """Both members have the same weights there; the single adapter has been looked through before."""
    batch = Batch(oracle, runner)
    one, other = (runner.adapter(oracle.adapters["seeing"]) for _ in range(2))
    for members, whole in (({one: 0.5}, 0.5), ({one: 0.5, other: 0.5}, 1.0)):
        sequence = batch.add_with(SCREEN, members, said(2))
        batch.run()
        close(batch.logits[sequence], oracle.logits(SCREEN, {"seeing": whole}, said(2)))


def test_pages_that_another_adapter_takes_over_bring_its_tower_along(oracle: Oracle, runner: Runner) -> None:
    """Even under the same key. Its memory goes with the pages, though the engine still knows the adapter."""
    batch, device = Batch(oracle, runner), runner.device_pages
    for name in ("seeing", "both", "seeing"):
        host = read(runner, oracle.adapters[name])
        device.page_in("key", host, [0, 1][: host.pages])
        adapter = device["key"]
        sequence = batch.add_with(SCREEN, {adapter: 1.0}, said(3))
        batch.run()
        close(batch.logits[sequence], oracle.logits(SCREEN, {name: 1.0}, said(3)))
        held = [weakref.ref(side) for pair in adapter.tower.pairs.values() for side in pair]
        assert held
        device.page_out("key")
        del host, sequence
        batch.logits.clear()
        gc.collect()
        assert not any(side() is not None for side in held)


def test_host_memory_counts_the_tower(oracle: Oracle, runner: Runner) -> None:
    host = read(runner, oracle.adapters["seeing"])
    tensors = files.inspect(oracle.adapters["seeing"]).tensors.values()
    assert host.nbytes == host.data.nbytes + 4 * sum(torch.Size(tensor.shape).numel() for tensor in tensors)


def test_the_rank_on_the_tower_takes_pages_too(oracle: Oracle, runner: Runner, tmp_path: Path) -> None:
    """So that what the device holds of towers is bounded by its pages."""
    path = write(oracle.checkpoint.model, {"r": 12, "lora_alpha": 1, "target_modules": r".*\.qkv"}, tmp_path / "mine")
    assert read(runner, path).pages == 2


def read(runner: Runner, path: Path) -> HostAdapter:
    described, data, _ = files.read(path)
    return runner.device_pages.read(path.name, described, data)
