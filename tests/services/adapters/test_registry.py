"""Adapters on disk: what is found, how it is identified, and what cannot be served."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from services.adapters import files
from services.adapters.metadata import InvalidAdapter
from services.adapters.registry import Registry
from services.adapters.shelf import Shelf
from services.catalogue.arms import Arms
from services.edge.errors import ApiError
from services.edge.model_names import ModelNames
from tests.services.fakes import FAMILIES
from tests.services.world import write_adapter, write_adapters


def test_every_subdirectory_is_an_adapter(tmp_path: Path) -> None:
    registry = Registry(write_adapters(tmp_path))
    assert [adapter.name for adapter in registry] == list(FAMILIES)
    assert (len(registry), registry.arms) == (3, ("base", *FAMILIES))
    assert registry.paths == {name: tmp_path / name for name in FAMILIES}
    inbox = registry["inbox"]
    assert (inbox.rank, inbox.targets) == (2, ("q_proj", "v_proj"))
    assert inbox.size == (tmp_path / "inbox" / "adapter_model.safetensors").stat().st_size
    assert "inbox" in registry
    assert "base" not in registry


def test_files_and_hidden_directories_are_no_adapters(tmp_path: Path) -> None:
    write_adapter(tmp_path, "inbox")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("adapters")
    assert Registry(tmp_path).arms == ("base", "inbox")


def test_an_empty_directory_leaves_the_base(tmp_path: Path) -> None:
    assert Registry(tmp_path).arms == ("base",)


def test_arms_turn_adapters_on(tmp_path: Path) -> None:
    registry = Registry(write_adapters(tmp_path))
    assert (registry.gates("base"), registry.gates("inbox")) == ({}, {"inbox": 1.0})
    assert Registry(registry["inbox"].path.parent, {"soft": 4}).arms == ("base", *FAMILIES, "soft")


def test_the_content_is_the_identity(tmp_path: Path) -> None:
    write_adapter(tmp_path, "one")
    write_adapter(tmp_path, "copy")
    write_adapter(tmp_path, "weights", weight=2.0)
    write_adapter(tmp_path, "config", lora_alpha=32)
    prints = {adapter.name: adapter.fingerprint for adapter in Registry(tmp_path)}
    assert prints["one"] == prints["copy"]
    assert len(set(prints.values())) == 3
    assert all(len(fingerprint) == 16 for fingerprint in prints.values())


def test_what_is_described_is_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another takes its place as soon as its header is read."""
    path = write_adapter(tmp_path, "mine")
    before = Shelf([tmp_path]).describe("mine", str(path))
    other = write_adapter(tmp_path.parent / "others", "other", weight=2.0) / "adapter_model.safetensors"
    check = files._check_extent

    def replaced(*args: Any) -> None:
        check(*args)
        other.replace(path / other.name)

    monkeypatch.setattr(files, "_check_extent", replaced)
    assert Shelf([tmp_path]).describe("mine", str(path)) == before


def test_targets_may_be_a_pattern(tmp_path: Path) -> None:
    write_adapter(tmp_path, "inbox", target_modules="all-linear")
    assert Registry(tmp_path)["inbox"].targets == ("all-linear",)


@pytest.mark.parametrize("name", ["base", "auto", "custom", "top2", "soft", "two words", "-dash", "a:b", "n" * 65])
def test_names_that_mean_something_else(tmp_path: Path, name: str) -> None:
    write_adapter(tmp_path, name)
    with pytest.raises(InvalidAdapter, match=f"the name {name!r} cannot be an adapter's, expected"):
        Registry(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("adapter_config.json", None, "adapter_config.json is missing"),
        ("adapter_model.safetensors", None, "adapter_model.safetensors is missing"),
        ("adapter_config.json", b"{", "not JSON"),
        ("adapter_config.json", b"\xff", "not JSON"),
        ("adapter_config.json", b"[]", "list, expected a JSON object"),
        ("adapter_model.safetensors", b"", "not safetensors"),
        ("adapter_model.safetensors", b"PK\x03\x04 a pickle in a zip", "not safetensors"),
    ],
)
def test_broken_files(tmp_path: Path, file: str, content: bytes | None, said: str) -> None:
    path = write_adapter(tmp_path, "inbox") / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidAdapter, match=f"{tmp_path / 'inbox'}.*{said}"):
        Registry(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"r": "2"}, "r is '2'"),
        ({"target_modules": None}, "target_modules is None"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
    ],
)
def test_other_configurations(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    write_adapter(tmp_path, "inbox", **change)
    with pytest.raises(InvalidAdapter, match=said):
        Registry(tmp_path)


def test_weights_without_a_lora(tmp_path: Path) -> None:
    path = write_adapter(tmp_path, "inbox")
    save_file({"layer.weight": np.zeros((2, 2), np.float32)}, path / "adapter_model.safetensors")
    with pytest.raises(InvalidAdapter, match="1 tensors and none of them a LoRA's"):
        Registry(tmp_path)


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidAdapter, match=r"model.adapters: .*nowhere is not a directory"):
        Registry(tmp_path / "nowhere")


class TestModelNames:
    @pytest.fixture
    def registry(self, tmp_path: Path) -> Registry:
        return Registry(write_adapters(tmp_path))

    def test_what_a_model_makes_eligible(self, registry: Registry) -> None:
        names = ModelNames("qwen", Arms(registry))
        assert names.eligible("auto", None) == ("base", *FAMILIES)
        assert names.eligible("auto", ["inbox", "base", "inbox"]) == ("base", "inbox")
        assert names.eligible("qwen", None) == ("base",)
        assert names.eligible("inbox", ["claims", "inbox"]) == names.eligible("qwen:inbox", None) == ("inbox",)

    @pytest.mark.parametrize("model", ["", "AUTO", "qwen:", "qwen:base", "other:inbox"])
    def test_other_models_are_unknown(self, registry: Registry, model: str) -> None:
        with pytest.raises(ApiError, match=f"model: {model!r} is unknown"):
            ModelNames("qwen", Arms(registry)).eligible(model, None)

    @pytest.mark.parametrize("base", ["auto", "inbox"])
    def test_the_base_may_not_be_called_like_something_else(self, registry: Registry, base: str) -> None:
        with pytest.raises(ValueError, match=rf"model.name: '{base}', expected neither"):
            ModelNames(base, Arms(registry))


def test_the_configuration_is_json_of_peft(tmp_path: Path) -> None:
    """What the tests write is what PEFT writes, as far as it is read."""
    config = json.loads((write_adapter(tmp_path, "inbox") / "adapter_config.json").read_text())
    assert config.keys() == {"peft_type", "r", "target_modules"}
