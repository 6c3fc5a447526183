"""Adapters on the vision tower under a soft mixture: each screen is seen as its own example's gates say."""

from pathlib import Path

import pytest
import torch

from services.adapters.registry import Registry
from services.engine.loading import Checkpoint
from services.engine.routed import RoutedEngine
from services.training.mixture import SoftMixture
from tests.services.engine.oracle import ADAPTERS, TOWER, embedded_oracle, random_oracle
from tests.services.training.mixtures import Case

KINDS = TOWER | {"wide": ADAPTERS["wide"]}


@pytest.fixture(scope="module", params=["embedded", "wide groups", "one key for all heads"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    make, folder = request.param, tmp_path_factory.mktemp("tower")
    return Case(embedded_oracle(folder, KINDS) if make == "embedded" else random_oracle(make, folder, KINDS))


def test_each_row_of_a_batch_sees_its_screens_by_its_own_gates(case: Case) -> None:
    ways = [{}, {"seeing": 1.0}, {"both": 0.5, "seeing": 0.3, "wide": 0.2}, {"wide": 1.0}, {"both": 1.0}]
    losses = case.mixture().losses(range(5), torch.tensor([case.row(**way) for way in ways])).tolist()
    assert losses == pytest.approx([case.expected(row, way) for row, way in enumerate(ways)], abs=2e-4)
    assert losses[1] != pytest.approx(case.expected(1, {}), abs=1e-3)


def test_with_gates_for_every_block_the_tower_goes_by_their_mean(case: Case) -> None:
    mixture = case.mixture()
    even, rising = torch.full((mixture.layers,), 0.5), torch.linspace(0, 1, mixture.layers)
    gates = torch.zeros(1, mixture.layers, len(case.arms))
    losses = []
    for seeing in (even, rising):  # this adapter is on the tower alone
        gates[0, :, case.arms.index("seeing")] = seeing
        losses.append(float(mixture.losses([0], gates)))
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[0] == pytest.approx(case.expected(0, {"seeing": 0.5}), abs=2e-4)


def test_the_gradient_of_a_gate_goes_through_the_tower(case: Case) -> None:
    mixture, column, step = case.mixture(), case.arms.index("seeing"), 0.02
    gates = torch.tensor([case.row(seeing=0.4, wide=0.6)], requires_grad=True)
    torch.autograd.backward(mixture.losses([0], gates).sum())
    moved = [gates.detach().clone() for _ in range(2)]
    moved[0][0, column] += step
    moved[1][0, column] -= step
    up, down = (float(mixture.losses([0], at).sum()) for at in moved)
    assert gates.grad is not None
    assert float(gates.grad[0, column]) == pytest.approx((up - down) / (2 * step), rel=0.05, abs=1e-3)


def test_trained_towers_are_written_as_the_engine_reads_them(case: Case, tmp_path: Path) -> None:
    mixture = case.mixture()
    gates = torch.tensor([case.row(seeing=0.5, both=0.5)] * 5)
    before = mixture.losses(range(5), gates)
    for weight in mixture.experts.values():
        weight.data *= 1.1
    after = mixture.losses(range(5), gates)
    assert (after - before).abs().max() > 1e-3
    mixture.save(tmp_path / "out")
    RoutedEngine(case.oracle.checkpoint, Registry(tmp_path / "out").paths).close()
    adapters = {name: tmp_path / "out" / name for name in KINDS}
    again = SoftMixture(case.oracle.checkpoint, adapters, case.arms, case.examples)
    assert again.losses(range(5), gates).tolist() == pytest.approx(after.tolist(), abs=1e-4)


def test_a_model_in_bfloat16_is_trained_with_gates_and_adapters_in_float32(case: Case) -> None:
    model, tokenizer, images = case.oracle.checkpoint
    half = Checkpoint(model.to(torch.bfloat16), tokenizer, images)
    mixture = SoftMixture(half, case.oracle.adapters, case.arms, case.examples)
    gates = torch.tensor([case.row(both=0.5, wide=0.5)] * 5, requires_grad=True)
    losses = mixture.losses(range(5), gates)
    torch.autograd.backward(losses.sum())
    assert losses.tolist() == pytest.approx(case.mixture().losses(range(5), gates.detach()).tolist(), rel=0.1)
    assert gates.grad is not None
    assert gates.grad.abs().sum() > 0
    assert {weight.dtype for weight in mixture.experts.values()} == {torch.float32}
