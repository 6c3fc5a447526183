"""The routed engine computes what transformers and PEFT compute, whatever else is in the batch."""

import itertools

import pytest
import torch

from services.engine.base import Gate
from services.engine.routed.early import Early, EarlyStates
from services.engine.routed.layout import Adapter
from services.engine.routed.runner import Runner
from services.engine.tokens import Tokens
from tests.services.engine.batch import Batch, all_are_exact, close, make_runner, said
from tests.services.engine.oracle import SHAPES, Oracle, random_oracle
from tests.services.engine.prompts import PROMPTS

GATES: list[dict[str, float]] = [
    {},
    {"all": 1.0},
    {"wide": 1.0},
    {"patterned": 1.0},
    {"late": 1.0},
    {"single": -0.7},
    {"all": 0.5, "wide": 0.3, "patterned": 0.2},
    {"late": 0.25, "single": 1.5},
    {"wide": 0.5, "late": 0.5},
]


@pytest.fixture(scope="module", params=SHAPES)
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return random_oracle(request.param, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def runner(oracle: Oracle) -> Runner:
    return make_runner(oracle)


@pytest.mark.parametrize("chunk", [23, 512])
def test_logits_of_every_prompt_under_every_kind_of_gates(oracle: Oracle, runner: Runner, chunk: int) -> None:
    """With chunks that cut prompts anywhere or take several."""
    all_are_exact(oracle, runner, PROMPTS, GATES, chunk)


def by_block(layers: int) -> list[dict[str, Gate]]:
    """Gates that differ from block to block, some zero, some negative, one mixture with an even one."""
    falling = tuple(1.0 - block / layers for block in range(layers))
    late = tuple(float(block == layers - 1) for block in range(layers))
    turning = tuple((-1.0) ** block * 0.6 for block in range(layers))
    return [{"all": falling}, {"patterned": late, "wide": turning}, {"all": turning, "late": 0.5, "single": falling}]


@pytest.mark.parametrize("chunk", [23, 512])
def test_logits_where_every_block_has_gates_of_its_own(oracle: Oracle, runner: Runner, chunk: int) -> None:
    """Beside rows with even gates, before which and after which the batch is computed as always."""
    layers = runner.layers
    kinds: list[dict[str, Gate]] = [*by_block(layers), {}, {"all": 0.5, "wide": 0.3}]
    rows = list(itertools.product([PROMPTS["one screen"], PROMPTS["text only"]], kinds))
    batch = Batch(oracle, runner, chunk=chunk)
    sequences = [batch.add(prompt, gates, said(seed)) for seed, (prompt, gates) in enumerate(rows)]
    batch.run()
    for seed, (sequence, (prompt, gates)) in enumerate(zip(sequences, rows, strict=True)):
        close(batch.logits[sequence], oracle.logits(prompt, gates, said(seed)))
    even, same = ({"wide": gate} for gate in (0.7, (0.7,) * layers))
    torch.testing.assert_close(
        oracle.logits(PROMPTS["text only"], even, said(1)), oracle.logits(PROMPTS["text only"], same, said(1))
    )


def test_rows_that_lost_their_place_go_on_where_they_were(oracle: Oracle) -> None:
    """As the rows grow, there is room for fewer: some are preempted, and answer the same."""
    runner = make_runner(oracle, max_batch=8, kv_tokens=512)
    batch = Batch(oracle, runner)
    long = [torch.randint(0, 500, (240,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in range(2)]
    prompt = PROMPTS["text only"]
    sequences = [batch.add(prompt, gates, ids) for ids, gates in zip(long, GATES[1:3], strict=True)]
    batch.run()
    assert batch.scheduler.preemptions > 0
    for sequence, gates, ids in zip(sequences, GATES[1:3], long, strict=True):
        assert len(batch.logits[sequence]) == len(ids) + 1
        close(batch.logits[sequence], oracle.logits(prompt, gates, ids))


def test_an_adapter_that_takes_the_place_of_another(oracle: Oracle) -> None:
    """On the same pages, after those have settled."""
    runner = make_runner(oracle, max_batch=32, lora_pages=2)
    batch, prompt = Batch(oracle, runner), PROMPTS["text only"]
    for name in ("wide", "patterned"):
        sequences = [batch.add(prompt, {name: 1.0}, said(seed)) for seed in range(32)]
        batch.run()
        for seed, sequence in enumerate(sequences):
            close(batch.logits[sequence], oracle.logits(prompt, {name: 1.0}, said(seed)))


@pytest.mark.parametrize("chunk", [23, 512])
@pytest.mark.parametrize("kept", [0, 4])
def test_what_encoding_leaves_is_gone_on_from_where_the_adapters_allow(
    oracle: Oracle, chunk: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside prompts that must be computed from the first block on, in the same pass."""
    runner = make_runner(oracle, state_cache=kept)
    batch = Batch(oracle, runner, chunk=chunk)
    gates: list[dict[str, float]] = [{}, {"late": 1.0}, {"all": 1.0}]
    prompts = [PROMPTS["one screen"], PROMPTS["text only"], PROMPTS["a conversation"]]
    for prompt in prompts:
        runner.encode(*runner.read_routed(prompt))
    found: dict[str, list[bool]] = {}
    find = EarlyStates.find

    def spied(own: EarlyStates, tokens: Tokens, adapters: list[Adapter]) -> Early | None:
        early = find(own, tokens, adapters)
        found.setdefault(",".join(adapter.name for adapter in adapters), []).append(early is not None)
        return early

    monkeypatch.setattr(EarlyStates, "find", spied)
    rows = list(itertools.product(prompts, gates))
    sequences = [batch.add(prompt, kind, said(seed)) for seed, (prompt, kind) in enumerate(rows)]
    batch.run()
    for seed, (sequence, (prompt, kind)) in enumerate(zip(sequences, rows, strict=True)):
        close(batch.logits[sequence], oracle.logits(prompt, kind, said(seed)))
    begun = [bool(kept), bool(kept), False]  # the conversation begins unlike what the router looks at
    assert found == {"": begun, "late": begun, "all": [False] * 3}


def test_a_base_row_is_the_same_to_the_bit_beside_any_neighbours(oracle: Oracle, runner: Runner) -> None:
    def base_beside(*others: dict[str, float]) -> torch.Tensor:
        batch = Batch(oracle, runner)
        sequence = batch.add(PROMPTS["one screen"], {}, said(1))
        for gates in others:
            batch.add(PROMPTS["one screen"], gates, said(2))
        batch.run()
        return torch.stack(batch.logits[sequence])

    beside_base = base_beside({}, {}, {})
    for neighbours in (GATES[1:4], GATES[4:7], [GATES[7]] * 3):
        assert torch.equal(base_beside(*neighbours), beside_base)


@pytest.mark.parametrize("gate", [1e20, -1e30])
def test_a_row_without_finite_logits_leaves_no_trace(oracle: Oracle, runner: Runner, gate: float) -> None:
    prompt = PROMPTS["one screen"]
    batch = Batch(oracle, runner)
    bad = batch.add(prompt, {"all": gate, "wide": gate}, said(3))
    good = [batch.add(prompt, gates, said(4)) for gates in GATES[:3]]
    batch.run()
    later = [batch.add(prompt, gates, said(4)) for gates in GATES[:3]]
    batch.run()
    assert not all(logits.isfinite().all() for logits in batch.logits[bad])
    for sequence, gates in zip((*good, *later), GATES[:3] * 2, strict=True):
        close(batch.logits[sequence], oracle.logits(prompt, gates, said(4)))
