"""The soft mixture: as PEFT computes it, with gradients of the gates, and nothing changes that is frozen."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.training.end_to_end import EndToEnd, EndToEndConfig
from policies.training.network import RouterMLP
from services.adapters.registry import Registry
from services.engine.base import Gate, Prompt
from services.engine.routed import RoutedEngine
from services.training.examples import InvalidData
from services.training.mixture import SoftMixture
from tests.services.engine.oracle import ADAPTERS, random_oracle
from tests.services.engine.prompts import PROMPTS, chat
from tests.services.training.data import example
from tests.services.training.mixtures import Case

ARMS = ["base", *ADAPTERS]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    oracle = random_oracle("wide groups", tmp_path_factory.mktemp("mixture"))
    return Case(oracle)


def test_each_row_of_a_batch_has_its_own_mixture_and_its_loss_is_pefts(case: Case) -> None:
    ways: list[dict[str, float]] = [{}, {"all": 1.0}, {"patterned": 1.0}, {"all": 0.3, "late": 0.7}, {"wide": 1.0}]
    gates = torch.tensor([case.row(**way) for way in ways])
    losses = case.mixture().losses(range(5), gates).tolist()
    expected = [case.expected(row, way) for row, way in enumerate(ways)]
    assert losses == pytest.approx(expected, abs=2e-4)


def test_every_block_of_a_row_may_have_gates_of_its_own(case: Case) -> None:
    """The engine serves such gates (tests/services/engine/test_exactness.py); both are PEFT's."""
    ways: list[dict[str, Gate]] = [{"all": (0.2, 0.9, 0.0), "wide": (0.8, 0.1, 1.0)}, {"patterned": (1.0, 0.0, 0.5)}]
    columns = [[way.get(arm, (0.0,) * 3) for arm in ARMS] for way in ways]
    gates = torch.tensor(columns).transpose(1, 2)
    losses = case.mixture().losses([0, 1], gates).tolist()
    assert losses == pytest.approx([case.expected(row, way) for row, way in enumerate(ways)], abs=2e-4)


def test_the_base_adds_nothing(case: Case) -> None:
    losses = case.mixture().losses([0, 1], torch.tensor([case.row(base=1.0), case.row()]))
    assert losses.tolist() == pytest.approx([case.expected(0, {}), case.expected(1, {})], abs=2e-4)


def test_the_gradient_of_a_gate_is_what_the_loss_does_when_it_moves(case: Case) -> None:
    mixture = case.mixture()
    gates = torch.tensor([case.row(all=0.4, patterned=0.2, wide=0.4)], requires_grad=True)
    torch.autograd.backward(mixture.losses([0], gates).sum())
    assert gates.grad is not None
    for name in ("all", "patterned", "late"):
        column, step = ARMS.index(name), 0.02
        moved = [gates.detach().clone() for _ in range(2)]
        moved[0][0, column] += step
        moved[1][0, column] -= step
        up, down = (float(mixture.losses([0], at).sum()) for at in moved)
        assert float(gates.grad[0, column]) == pytest.approx((up - down) / (2 * step), rel=0.05, abs=1e-3)


def hashes(weights: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(w.detach().numpy().tobytes()).hexdigest() for name, w in weights.items()}


def stage(mixture: SoftMixture, *, joint: bool) -> EndToEnd:
    torch.manual_seed(1)
    mlp = RouterMLP(9, 4, ARMS)
    H = np.random.default_rng(0).normal(size=(5, 9))
    config = EndToEndConfig(rounds=1, steps=3, batch_size=2)
    aside = np.array([False, False, False, True, True])
    return EndToEnd(mlp, mixture, H, [""] * 5, [""] * 5, aside, config, joint=joint)


@pytest.mark.parametrize("joint", [False, True])
def test_only_the_router_changes_unless_the_stage_is_joint(case: Case, joint: bool) -> None:
    mixture = case.mixture()
    base, adapters = hashes(mixture.others), hashes(mixture.experts)
    made = stage(mixture, joint=joint)
    router = hashes(dict(made.mlp.named_parameters()))
    assert len(base) > 20
    assert len(adapters) > 20
    while not made.finished:
        made.advance()
    assert set(hashes(dict(made.mlp.named_parameters())).values()).isdisjoint(router.values())
    assert hashes(mixture.others) == base
    assert (hashes(mixture.experts) != adapters) == joint


def test_trained_adapters_are_written_as_the_engine_reads_them(case: Case, tmp_path: Path) -> None:
    mixture = case.mixture()
    made = stage(mixture, joint=True)
    while not made.finished:
        made.advance()
    made.keep_best()
    mixture.save(tmp_path / "out")
    registry = Registry(tmp_path / "out")
    assert set(registry.paths) == set(ADAPTERS)
    RoutedEngine(case.oracle.checkpoint, registry.paths).close()  # it refuses what it would not serve exactly
    adapters = {name: tmp_path / "out" / name for name in ADAPTERS}
    again = SoftMixture(case.oracle.checkpoint, adapters, ARMS, case.examples)
    gates = torch.tensor([case.row(patterned=0.5, all=0.5)] * 5)
    assert again.losses(range(5), gates).tolist() == pytest.approx(mixture.losses(range(5), gates).tolist(), abs=1e-4)


def test_a_prompt_that_the_engine_would_refuse_names_its_row(case: Case) -> None:
    control = Prompt(chat(*PROMPTS["text only"].messages[0].parts).messages * 3000)
    with pytest.raises(InvalidData, match=r"row 7: messages: \d+ tokens"):
        SoftMixture(case.oracle.checkpoint, case.oracle.adapters, ARMS, [example(control, "a", row=7)])
