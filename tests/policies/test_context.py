import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from policies.context import ContextMap
from policies.supervision import Supervision
from policies.training.artifact import fit_context_map
from policies.training.classifier import ClassifierConfig
from policies.training.network import RouterMLP

HIDDEN_STATE, N = 12, 60
CONFIG = ClassifierConfig(hidden=6)


@pytest.fixture
def features() -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
    H = np.random.default_rng(0).normal(size=(N, 2 * HIDDEN_STATE + 1)).astype(np.float16)
    H[:, -1] = np.arange(N) % 2
    return H


@pytest.fixture
def mlp() -> RouterMLP:
    torch.manual_seed(0)
    return RouterMLP(2 * HIDDEN_STATE + 1, CONFIG.hidden, ("calendar", "inbox"))


@pytest.fixture
def context_map(mlp: RouterMLP, features: np.ndarray[tuple[int, int], np.dtype[np.float16]]) -> ContextMap:
    labels = ["calendar", "inbox"] * (N // 2)
    outcomes = np.full((N, 1), 0.25)
    spec: dict[str, str | int | float | bool] = {"model": "tiny", "blocks": 2}
    return fit_context_map(
        mlp, features, labels, CONFIG, pca=4, temperature=2.0, outcomes=outcomes, outcome_arms=["base"],
        features=spec, metrics={"loss": 0.5}, tasks=["plan", "sort"] * (N // 2),
    )  # fmt: skip


def test_inference_equals_the_torch_module(
    context_map: ContextMap, mlp: RouterMLP, features: np.ndarray[tuple[int, int], np.dtype[np.float16]]
) -> None:
    with torch.no_grad():
        z = mlp.double()(torch.from_numpy(features.astype(np.float64)))
    expected = torch.softmax(z / 2.0, dim=1).numpy()
    _, G = context_map.map_batch(features)
    assert pytest.approx(expected, abs=1e-6) == G


def test_context_is_bias_unit_hidden_and_whitened_components(
    context_map: ContextMap, features: np.ndarray[tuple[int, int], np.dtype[np.float16]]
) -> None:
    X, _ = context_map.map_batch(features)
    assert X.shape == (N, context_map.dimension) == (N, 1 + 6 + 4)
    assert np.all(X[:, 0] == 1)
    assert np.linalg.norm(X[:, 1:7], axis=1) == pytest.approx(np.ones(N))
    assert X[:, 7:].mean(axis=0) == pytest.approx(np.zeros(4), abs=1e-9)
    assert np.cov(X[:, 7:].T, bias=True) == pytest.approx(np.eye(4) / 4, abs=1e-4)


def test_one_request_equals_its_row_in_a_batch(
    context_map: ContextMap, features: np.ndarray[tuple[int, int], np.dtype[np.float16]]
) -> None:
    X, G = context_map.map_batch(features)
    found = context_map.map(features[3])
    assert found.x == pytest.approx(X[3])
    assert list(found.gates) == ["calendar", "inbox"]
    assert list(found.gates.values()) == pytest.approx(G[3])
    assert sum(found.gates.values()) == pytest.approx(1.0)


def test_scale_and_offset_of_the_features_do_not_matter(context_map: ContextMap) -> None:
    h = np.append(np.random.default_rng(1).normal(size=2 * HIDDEN_STATE), 1.0)
    moved = np.append(7.0 * h[:-1] + 3.0, 1.0)
    without_image = np.append(h[:-1], 0.0)
    assert context_map.map(h).x == pytest.approx(context_map.map(moved).x, abs=1e-4)
    assert context_map.map(h).x != pytest.approx(context_map.map(without_image).x, abs=1e-4)


def test_a_constant_feature_set_does_not_blow_up(mlp: RouterMLP) -> None:
    H = np.zeros((20, 2 * HIDDEN_STATE + 1))
    H[:, 0] = np.linspace(0, 1, 20)
    context_map = fit_context_map(mlp, H, ["calendar", "inbox"] * 10, CONFIG, pca=8)
    X, _ = context_map.map_batch(np.random.default_rng(0).normal(size=(20, 2 * HIDDEN_STATE + 1)))
    assert np.abs(X).max() < 1e3


def test_save_and_load_keep_everything(
    context_map: ContextMap, features: np.ndarray[tuple[int, int], np.dtype[np.float16]], tmp_path: Path
) -> None:
    context_map.save(tmp_path / "router")
    again = ContextMap.load(tmp_path / "router")
    assert again.fingerprint == context_map.fingerprint
    assert len(again.fingerprint) == 16
    assert np.array_equal(again.map(features[0]).x, context_map.map(features[0]).x)
    assert (again.arms, again.statistics.arms) == (("calendar", "inbox"), ("calendar", "inbox", "base"))
    assert again.features == {"model": "tiny", "blocks": 2}
    assert again.metrics == context_map.metrics
    assert again.metrics["loss"] == 0.5
    assert np.array_equal(again.statistics.A_pos, context_map.statistics.A_pos)
    kept, known = again.supervision, context_map.supervision
    assert (kept.arms, kept.tasks) == (known.arms, known.tasks) == (("calendar", "inbox"), ("plan", "sort"))
    for name in ("X", "labels", "logits"):
        assert np.array_equal(getattr(kept, name), getattr(known, name))
    assert len(kept.labels) == N


def test_a_router_without_supervision_is_the_router_that_it_was(context_map: ContextMap, tmp_path: Path) -> None:
    bare = replace(context_map, supervision=Supervision())
    bare.save(tmp_path)
    assert not {"tasks", "supervision_arms"} & json.loads((tmp_path / "router.json").read_text()).keys()
    assert ContextMap.load(tmp_path).supervision.tasks == ()
    assert ContextMap.load(tmp_path).fingerprint == bare.fingerprint != context_map.fingerprint


@pytest.mark.parametrize("damage", ["truncate", "edit", "json", "other", "format"])
def test_damaged_files_are_refused(context_map: ContextMap, mlp: RouterMLP, tmp_path: Path, damage: str) -> None:
    context_map.save(tmp_path)
    tensors, document = tmp_path / "router.safetensors", tmp_path / "router.json"
    content = tensors.read_bytes()
    if damage == "truncate":
        tensors.write_bytes(content[: len(content) // 2])
    elif damage == "edit":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "json":
        document.write_text(document.read_text()[:-20])
    elif damage == "other":
        H = np.random.default_rng(5).normal(size=(N, 2 * HIDDEN_STATE + 1))
        fit_context_map(mlp, H, ["calendar", "inbox"] * (N // 2), CONFIG, pca=4).save(tmp_path / "other")
        tensors.write_bytes((tmp_path / "other" / "router.safetensors").read_bytes())
    else:
        document.write_text(json.dumps(json.loads(document.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match=f"router in {tmp_path}"):
        ContextMap.load(tmp_path)


@pytest.fixture
def headed(mlp: RouterMLP) -> RouterMLP:
    """A network with a head for each of three blocks, which differ."""
    made = mlp.with_heads(3)
    assert made.heads is not None
    with torch.no_grad():
        made.heads.normal_()
    return made


def test_heads_of_blocks_differ_around_what_the_policies_see(
    headed: RouterMLP, mlp: RouterMLP, features: np.ndarray[tuple[int, int], np.dtype[np.float16]], tmp_path: Path
) -> None:
    labels = ["calendar", "inbox"] * (N // 2)
    made, plain = (
        fit_context_map(network, features, labels, CONFIG, pca=4, temperature=2.0) for network in (headed, mlp)
    )
    with torch.no_grad():
        H = torch.from_numpy(features.astype(np.float64))
        z = headed.double().by_layer(H)
        torch.testing.assert_close(z.mean(dim=1), mlp.double()(H))
        expected = torch.softmax(z / 2.0, dim=-1).numpy()
    assert made.map_batch(features)[1] == pytest.approx(plain.map_batch(features)[1])
    found = made.layer_gates(features[3])
    assert list(found) == ["calendar", "inbox"]
    assert np.stack(list(found.values()), axis=1) == pytest.approx(expected[3], abs=1e-6)
    made.save(tmp_path)
    again = ContextMap.load(tmp_path)
    assert again.fingerprint == made.fingerprint != plain.fingerprint
    assert again.layer_gates(features[3])["inbox"] == pytest.approx(found["inbox"])
    assert plain.layer_gates(features[3]) == {}


def test_heads_that_have_not_learned_change_nothing(mlp: RouterMLP) -> None:
    h = torch.randn(4, 2 * HIDDEN_STATE + 1)
    same = mlp.with_heads(3).by_layer(h)
    assert same.shape == (4, 3, 2)
    torch.testing.assert_close(same, mlp.by_layer(h).expand(-1, 3, -1))
    made = fit_context_map(mlp.with_heads(3), h.numpy().repeat(9, 0), ["calendar", "inbox"] * 18, CONFIG, pca=2)
    assert made.layer_gates(h[0].numpy()) == {}
