"""Stages 2 and 3 on a task whose losses are known: what the gates should be can be computed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from policies.training.collapse import alarms
from policies.training.end_to_end import EndToEnd, EndToEndConfig
from policies.training.network import RouterMLP
from policies.training.recommendation import Way, recommend

ARMS = ("a", "b", "c", "d")
N = 240


class Costs:
    """Each example has an adapter that is right: the loss falls with its gate, and with its one weight."""

    def __init__(self, right: Sequence[int]) -> None:
        self.right = torch.tensor(right)
        self.skill = nn.Parameter(torch.zeros(len(ARMS)), requires_grad=False)

    @property
    def experts(self) -> Mapping[str, nn.Parameter]:
        return {"skill": self.skill}

    def losses(self, rows: Sequence[int], gates: Tensor) -> Tensor:
        right = self.right[list(rows)]
        return 1 - gates[torch.arange(len(right)), right] * (0.8 + self.skill[right])


def world(counts: Sequence[int] = (60, 60, 60, 60)) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Features [n,17] around a centre a family, the right adapter, and what is held out: a quarter of each family."""
    rng = np.random.default_rng(0)
    right = np.repeat(range(len(counts)), counts)
    centres = np.random.default_rng(1).normal(size=(len(counts), 16))
    H = np.hstack([centres[right] + 0.6 * rng.normal(size=(len(right), 16)), np.ones((len(right), 1))])
    return H, right.tolist(), np.arange(len(right)) % 4 == 0


def make(
    config: EndToEndConfig,
    *,
    counts: Sequence[int] = (60, 60, 60, 60),
    labelled: bool = False,
    grouped: bool = False,
    joint: bool = False,
    costs: Costs | None = None,
) -> tuple[EndToEnd, Costs]:
    H, right, aside = world(counts)
    torch.manual_seed(3)
    mlp, task = RouterMLP(17, 8, ARMS), costs or Costs(right)
    names = [ARMS[k] for k in right]
    labels = names if labelled else [""] * len(right)
    groups = names if grouped else [""] * len(right)
    return EndToEnd(mlp, task, H, labels, groups, aside, config, joint=joint), task


def run(stage: EndToEnd) -> EndToEnd:
    while not stage.finished:
        stage.advance()
    stage.keep_best()
    return stage


def found(stage: EndToEnd, counts: Sequence[int] = (60, 60, 60, 60)) -> dict[str, float]:
    """Share of each family's examples whose largest gate is the right adapter's."""
    H, right, _ = world(counts)
    with torch.no_grad():
        top = stage.mlp(torch.tensor(H, dtype=torch.float32)).argmax(dim=1).numpy()
    return {arm: float(np.mean(top[np.array(right) == k] == k)) for k, arm in enumerate(ARMS)}


CONFIG = EndToEndConfig(rounds=6, steps=20, batch_size=32, learning_rate=1e-2, kl=0.0)


@pytest.mark.parametrize("gates", ["soft", "gumbel", "straight_through"])
def test_without_labels_the_task_alone_tells_which_adapter_is_right(gates: Any) -> None:
    stage, _ = make(EndToEndConfig(**{**vars(CONFIG), "gates": gates}))
    run(stage)
    assert min(found(stage).values()) > 0.95
    assert stage.history[-1].held_out_loss < 0.25 < stage.history[0].held_out_loss


def test_the_best_round_is_kept_and_what_the_stage_started_from_is_among_them() -> None:
    spoilt = EndToEndConfig(**{**vars(CONFIG), "learning_rate": 3.0, "rounds": 2})
    good = run(make(CONFIG)[0])
    stage, _ = make(spoilt)
    stage.mlp.load_state_dict(good.mlp.state_dict())
    while not stage.finished:
        stage.advance()
    assert min(one.held_out_loss for one in stage.history[1:]) > stage.history[0].held_out_loss
    assert stage.keep_best().number == 0
    assert found(stage) == found(good)


def test_labels_pull_the_gates_where_the_task_says_nothing() -> None:
    class Silent(Costs):
        def losses(self, rows: Sequence[int], gates: Tensor) -> Tensor:
            return super().losses(rows, gates) * 0

    silent = Silent(world()[1])
    pulled, _ = make(EndToEndConfig(**{**vars(CONFIG), "kl": 1.0}), labelled=True, costs=silent)
    left, _ = make(CONFIG, labelled=True, costs=silent)
    for stage in (pulled, left):
        while not stage.finished:
            stage.advance()
    assert pulled.history[-1].health.mean_recall == pytest.approx(1.0, abs=0.05)
    assert (left.history[-1].health.mean_recall or 0) < 0.6


def test_entropy_and_balance_shape_the_gates() -> None:
    silent = {**vars(CONFIG), "learning_rate": 3e-2, "entropy": 0.0, "balance": 0.0}
    brief = {**silent, "rounds": 1, "steps": 8, "temperature_end": 1.0}
    peaky, flat = (make(EndToEndConfig(**{**brief, "entropy": weight}))[0] for weight in (1.0, 0.0))
    for stage in (peaky, flat):
        while not stage.finished:
            stage.advance()
    assert peaky.history[-1].health.entropy < flat.history[-1].health.entropy - 0.05
    nothing = Costs([0] * N)  # one adapter is right for everything: only balance speaks for the others
    taken = make(EndToEndConfig(**silent), costs=nothing)[0]
    shared = make(EndToEndConfig(**{**silent, "balance": 2.0}), costs=nothing)[0]
    for stage in (taken, shared):
        while not stage.finished:
            stage.advance()
    assert taken.history[-1].health.use["a"] > 0.95
    assert shared.history[-1].health.use["a"] < 0.7
    assert "a takes over" in alarms(taken.history[-1].health)[0]


def test_a_family_that_is_twenty_times_as_frequent_takes_over_unless_batches_are_balanced() -> None:
    counts = (400, 20, 20, 20)
    short = {**vars(CONFIG), "rounds": 2, "steps": 12, "balance": 0.0, "batch_size": 16}
    balanced = make(EndToEndConfig(**short), counts=counts, grouped=True)[0]
    unbalanced = make(EndToEndConfig(**{**short, "balanced": False}), counts=counts, grouped=True)[0]
    for stage in (balanced, unbalanced):
        while not stage.finished:
            stage.advance()
    rare = [np.mean([found(stage, counts)[arm] for arm in "bcd"]) for stage in (balanced, unbalanced)]
    assert rare[0] > 0.9
    assert rare[1] < 0.6


class Blocks(Costs):
    """Two blocks: in the first one adapter is right for everything, in the second each example's own."""

    def losses(self, rows: Sequence[int], gates: Tensor) -> Tensor:
        by_block = gates if gates.dim() == 3 else gates[:, None]
        return 0.5 * (1 - by_block[:, 0, 0]) + 0.5 * super().losses(rows, by_block[:, -1])


def test_every_block_finds_gates_of_its_own() -> None:
    H, right, aside = world()
    torch.manual_seed(3)
    config = EndToEndConfig(**{**vars(CONFIG), "balance": 0.0})
    mlp = RouterMLP(17, 8, ARMS).with_heads(2)
    stage = run(EndToEnd(mlp, Blocks(right), H, [""] * N, [""] * N, aside, config))
    with torch.no_grad():
        first, second = stage.mlp.by_layer(torch.tensor(H, dtype=torch.float32)).argmax(dim=-1).T.tolist()
    assert np.mean(np.array(first) == 0) > 0.95
    assert np.mean(np.array(second) == np.array(right)) > 0.9


def test_a_random_start_begins_with_what_each_adapter_alone_explains() -> None:
    """As sure as labels would make it, before any step through the mixture."""
    probed, random = (make(EndToEndConfig(**{**vars(CONFIG), "probes": n}))[0] for n in (90, 0))
    first, blind = probed.advance(), random.advance()
    assert min(found(probed).values()) > 0.95
    assert first.held_out_loss < 0.25 < blind.held_out_loss
    again = make(EndToEndConfig(**{**vars(CONFIG), "probes": 90}))[0]
    assert again.advance() == first


def test_a_stage_that_was_left_ends_as_one_that_was_not() -> None:
    whole = run(make(CONFIG)[0])
    first, _ = make(CONFIG)
    for _ in range(3):
        first.advance()
    state = first.state()
    second, _ = make(CONFIG)
    second.restore(state)
    assert len(second.history) == 3
    run(second)
    assert second.history == whole.history
    for one, other in zip(second.mlp.parameters(), whole.mlp.parameters(), strict=True):
        assert torch.equal(one, other)


def test_joint_training_moves_the_adapters_at_their_own_rate_and_can_be_taken_back() -> None:
    stage, task = make(CONFIG, joint=True)
    run(stage)
    assert stage.name == "stage 3"
    assert float(task.skill.detach().min()) > 0.01
    slower, still = make(EndToEndConfig(**{**vars(CONFIG), "expert_rate": 0.01}), joint=True)
    run(slower)
    assert 0 < float(still.skill.detach().max()) < float(task.skill.detach().min())
    frozen, untouched = make(CONFIG)
    run(frozen)
    assert not untouched.skill.any()
    stage.close()
    assert not task.skill.requires_grad


def test_the_cheapest_way_that_is_not_worse_is_recommended() -> None:
    rng = np.random.default_rng(0)
    soft = (rng.random(400) < 0.9).astype(float)
    same, worse = soft.copy(), soft * (rng.random(400) < 0.8)
    ways = [Way("hard", 1, worse, 1.0), Way("top2", 2, same, 1.7), Way("soft", 4, soft, 1.6)]
    assert recommend(ways).way == "top2"
    assert "hard 0.7" in recommend(ways).reason
    assert recommend([Way("hard", 1, same, 3.0), *ways[1:]]).way == "hard"
