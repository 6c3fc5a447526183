"""Adapters that would not be served exactly are refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.adapters import files
from services.adapters.metadata import InvalidAdapter
from services.engine.routed.layout import PageLayout
from services.engine.routed.lora import AdapterReader
from services.engine.routed.shape import Shape
from tests.services.engine.oracle import Oracle, random_oracle

Tensors = dict[str, torch.Tensor]
Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return random_oracle("one key for all heads", tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def reader(oracle: Oracle) -> AdapterReader:
    shape = Shape.of(oracle.checkpoint.model)
    return AdapterReader(shape, PageLayout(shape), dtype=torch.float32, pages=4, bases={"qwen"})


def read(reader: AdapterReader, folder: Path) -> None:
    described, data, _ = files.read(folder)
    reader.read(folder.name, described, data)


@pytest.fixture
def folder(oracle: Oracle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(oracle.adapters["all"], tmp_path / "mine"))


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[Tensors], object]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora: True is not supported"),
        ({"bias": "all"}, "bias: 'all' is not supported"),
        ({"lora_bias": True}, "lora_bias: True is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save: \['lm_head'\] is not supported"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices: \[3\] is not supported"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"use_something_new": True}, "use_something_new: True is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa', expected one of True"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: 'olora'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"lora_alpha": float("nan")}, "lora_alpha: nan, expected a finite number"),
        ({"lora_alpha": 1e60}, r"lora_alpha 1e\+60 makes weights that are not finite"),
        ({"r": 5}, "has rank 4, its configuration says 5"),
        (
            {"base_model_name_or_path": "other/llama"},
            r"base_model_name_or_path: 'other/llama', expected qwen \(cache.bases\)",
        ),
        ({"alpha_pattern": {"(a+)+": 3}}, r"alpha_pattern: '\(a\+\)\+', expected the end of a module's path"),
    ],
)
def test_a_configuration_that_means_something_else(
    reader: AdapterReader, folder: Path, changes: dict[str, Any], message: str
) -> None:
    change_config(folder, **changes)
    with pytest.raises(InvalidAdapter, match=f"mine/adapter_.*: .*{message}"):
        read(reader, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t[f"{Q}.lora_A.weight"].fill_(float("nan")),
            r"q_proj.lora_A.weight' is nan at \[0, 0\]",
        ),
        (
            lambda t: t[f"{Q}.lora_B.weight"][3, 1].fill_(float("inf")),
            r"q_proj.lora_B.weight' is inf at \[3, 1\]",
        ),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "has lora_A alone"),
        (lambda t: t.clear(), "0 tensors and none of them a LoRA's"),
        (lambda t: t.update({f"{Q}.lora_magnitude_vector.weight": torch.ones(3)}), "expected lora_A and lora_B of"),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 7)}),
            r"q_proj.lora_A.weight' has shape \(4, 7\), expected \(4, 64\)",
        ),
        (lambda t: _rename(t, "layers.0.", "layers.9."), "expected a linear layer of one of the 2 blocks"),
        (lambda t: _rename(t, "language_model", "visual"), "expected a linear layer .* or of the vision tower"),
        (
            lambda t: _rename(t, "language_model.layers.0.self_attn.q_proj", "visual.blocks.0.attn.qkv"),
            r"visual.blocks.0.attn.qkv.lora_A.weight' has shape \(4, 64\), expected \(4, 32\)",
        ),
        (
            lambda t: _rename(t, "language_model.layers.0.self_attn.q_proj", "visual.pos_embed"),
            "visual.pos_embed', expected a linear layer of",
        ),
    ],
)
def test_weights_that_do_not_fit(
    reader: AdapterReader, folder: Path, change: Callable[[Tensors], object], message: str
) -> None:
    change_weights(folder, change)
    with pytest.raises(InvalidAdapter, match=f"mine/adapter_.*: .*{message}"):
        read(reader, folder)


def test_files_that_are_missing_or_broken(reader: AdapterReader, folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidAdapter, match="mine"):
        read(reader, folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(InvalidAdapter, match="mine"):
        read(reader, folder)


def _rename(tensors: Tensors, old: str, new: str) -> None:
    for name in list(tensors):
        if old in name:
            tensors[name.replace(old, new)] = tensors.pop(name)
