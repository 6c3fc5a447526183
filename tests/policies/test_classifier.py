"""Stage 1 on separable families of features; the cold posterior must rank as the network does."""

from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from policies.base import Array
from policies.context import ContextMap
from policies.prior import LearningConfig
from policies.training.artifact import cold_means, fit_context_map
from policies.training.classifier import ClassifierConfig, held_out_rows, train_classifier
from policies.training.stage import Round

ARMS = [f"arm{k}" for k in range(8)]
HIDDEN_STATE = 32
CONFIG = ClassifierConfig(epochs=20, batch_size=128, learning_rate=5e-3)


def examples(n: int, seed: int, noise: float = 2.0) -> tuple[Array, list[str]]:
    """Features [n,65] around one centre a family; arm0 is eight times as frequent as the others."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(len(ARMS), 2 * HIDDEN_STATE))
    families = rng.choice(len(ARMS), size=n, p=[8 / 15] + [1 / 15] * 7)
    H = np.hstack([centers[families] + noise * rng.normal(size=(n, 2 * HIDDEN_STATE)), np.ones((n, 1))])
    return H, [ARMS[family] for family in families]


class Trained(NamedTuple):
    context_map: ContextMap
    metrics: dict[str, float]
    reports: list[Round]


@cache
def trained() -> Trained:
    reports: list[Round] = []
    H, labels = examples(1_500, seed=0)
    mlp, metrics = train_classifier(H, labels, CONFIG, reports.append)
    return Trained(fit_context_map(mlp, H, labels, CONFIG, metrics=metrics), metrics, reports)


def accuracy(scores: Array, labels: list[str]) -> float:
    return float(np.mean([ARMS[k] == label for k, label in zip(scores.argmax(axis=1), labels, strict=True)]))


def test_the_network_learns_and_every_epoch_is_reported() -> None:
    H, labels = examples(1_500, seed=1)
    _, G = trained().context_map.map_batch(H)
    assert accuracy(G, labels) > 0.93
    assert [report.number for report in trained().reports] == list(range(1, len(trained().reports) + 1))
    assert trained().metrics["loss"] == min(report.held_out_loss for report in trained().reports)


@pytest.mark.parametrize("config", [LearningConfig(), LearningConfig(ridge=1.0), LearningConfig(prior_weight=50.0)])
def test_cold_means_rank_as_the_network(config: LearningConfig) -> None:
    H, labels = examples(3_000, seed=2)
    context_map = trained().context_map
    X, G = context_map.map_batch(H)
    means = cold_means(context_map.statistics, ARMS, X, config)
    assert accuracy(means, labels) > accuracy(G, labels) - 0.01


def test_metrics_hold_both_accuracies_on_held_out_examples() -> None:
    metrics = trained().context_map.metrics
    assert metrics["mlp_accuracy"] == pytest.approx(metrics["accuracy"], abs=0.01)
    assert metrics["cold_accuracy"] > metrics["mlp_accuracy"] - 0.03
    assert trained().context_map.dimension == 1 + 32 + 16


def test_training_repeats_itself_and_leaves_the_global_generator_alone() -> None:
    H, labels = examples(300, seed=3)
    config = ClassifierConfig(hidden=8, epochs=3)
    maps = []
    for _ in range(2):
        mlp, _ = train_classifier(H, labels, config)
        maps.append(fit_context_map(mlp, H, labels, config, pca=4))
    assert maps[0].fingerprint == maps[1].fingerprint
    other, _ = train_classifier(H, labels, ClassifierConfig(hidden=8, epochs=3, seed=1))
    assert fit_context_map(other, H, labels, config, pca=4).fingerprint != maps[0].fingerprint


def test_training_stops_when_the_held_out_loss_no_longer_falls() -> None:
    H = np.random.default_rng(0).normal(size=(120, 9))
    labels = np.random.default_rng(1).choice(["a", "b"], size=120).tolist()
    reports: list[Round] = []
    config = ClassifierConfig(epochs=200, patience=3, learning_rate=0.05)
    _, metrics = train_classifier(H, labels, config, reports.append)
    assert len(reports) == metrics["epochs"] + 3 < 200


def test_every_arm_is_held_out_and_trained_on() -> None:
    labels = ["often"] * 50 + ["rare"] * 2
    aside = held_out_rows(labels, ClassifierConfig())
    assert aside[:50].sum() == 10
    assert aside[50:].sum() == 1
    assert np.array_equal(aside, held_out_rows(labels, ClassifierConfig()))
    assert not np.array_equal(aside, held_out_rows(labels, ClassifierConfig(seed=7)))


def test_base_is_known_by_its_outcomes() -> None:
    H, labels = examples(300, seed=3)
    config = ClassifierConfig(hidden=8, epochs=3)
    mlp, _ = train_classifier(H, labels, config)
    measured = np.column_stack([np.full(300, 0.3), np.where(np.arange(300) < 200, 0.9, np.nan)])
    context_map = fit_context_map(mlp, H, labels, config, pca=4, outcomes=measured, outcome_arms=["base", "arm1"])
    X, _ = context_map.map_batch(H)
    means = cold_means(context_map.statistics, ["base"], X, LearningConfig(ridge=1e-6))
    assert context_map.arms == tuple(ARMS)
    assert context_map.statistics.arms == (*ARMS, "base")
    assert means == pytest.approx(np.full((300, 1), 0.3), abs=1e-3)


def test_a_rare_arm_counts_as_much_as_a_frequent_one() -> None:
    """Two overlapping families, twelve to one: unbalanced training would send nearly everything to the frequent."""
    rng = np.random.default_rng(0)
    labels = ["often"] * 600 + ["rare"] * 50
    H = rng.normal(size=(650, 9))
    H[600:, 0] += 1.5
    mlp, _ = train_classifier(H, labels, ClassifierConfig(hidden=4, epochs=10))
    _, G = fit_context_map(mlp, H, labels, ClassifierConfig(), pca=2).map_batch(H)
    assert np.mean(G[600:, 1] > 0.5) > 0.6
