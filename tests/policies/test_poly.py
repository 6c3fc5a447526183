"""Poly's table of tasks is PEFT's, and training finds which arm each task needs."""

import numpy as np
import pytest
import torch
from peft import PolyConfig
from peft.tuners.poly.router import PolyRouter as PeftPolyRouter

from policies.poly import task_weights
from policies.training.poly import PolyRouter, train_poly

TASKS, ARMS, SPLITS = 3, 4, 2


def twins() -> tuple[PolyRouter, PeftPolyRouter]:
    """Ours and PEFT's with the same logits."""
    ours = PolyRouter(TASKS, ARMS, SPLITS)
    theirs = PeftPolyRouter(PolyConfig(n_tasks=TASKS, n_skills=ARMS, n_splits=SPLITS))
    with torch.no_grad():
        ours.logits.normal_()
        theirs.module_logits.copy_(ours.logits)
    return ours, theirs


def test_inference_is_that_of_peft() -> None:
    ours, theirs = twins()
    tasks = torch.tensor([2, 0, 1])
    with torch.inference_mode():
        expected = theirs.eval()(tasks, tasks)
        found = ours.eval()(tasks)
    assert torch.equal(found, expected)
    logits = ours.logits.detach().double().view(TASKS, SPLITS, ARMS).numpy()
    assert task_weights(logits)[[2, 0, 1]] == pytest.approx(expected.double().numpy(), abs=1e-6)
    assert task_weights(logits).sum(axis=2) == pytest.approx(np.ones((TASKS, SPLITS)))


def test_training_draws_the_coins_of_peft() -> None:
    ours, theirs = twins()
    tasks = torch.tensor([0, 1, 2, 1])
    torch.manual_seed(7)
    drawn = ours.train()(tasks)
    torch.manual_seed(7)
    expected = theirs.train()(tasks, tasks)
    assert torch.allclose(drawn, expected)
    assert not torch.equal(drawn, ours(tasks))


@pytest.mark.parametrize("splits", [1, 3])
def test_each_task_finds_its_arm(splits: int) -> None:
    tasks, labels = ["sort", "plan", "sort", "both", "both"] * 4, ["a", "b", "a", "a", "c"] * 4
    names, arms, logits = train_poly(tasks, labels, splits=splits)
    assert (names, arms, logits.shape) == (("both", "plan", "sort"), ("a", "b", "c"), (3, splits, 3))
    weights = task_weights(logits).mean(axis=1)
    assert weights[1].argmax() == 1
    assert weights[2].argmax() == 0
    assert weights[1, 1] > 0.8
    assert weights[0, 1] < 0.2 < min(weights[0, 0], weights[0, 2])


def test_training_repeats_itself_and_needs_examples() -> None:
    first, again, other = (train_poly(["t", "u"], ["a", "b"], steps=5, seed=seed)[2] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(ValueError, match="1 tasks and 2 labels"):
        train_poly(["t"], ["a", "b"])
    with pytest.raises(ValueError, match="0 tasks and 0 labels"):
        train_poly([], [])
