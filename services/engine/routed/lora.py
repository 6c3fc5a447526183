"""Reading a PEFT LoRA: what is served, what is refused by name, and the adapter in the engine's own layout."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from services.engine.routed.shape import GROUPS, Shape

_INITIALISED: Final = (True, False, "gaussian", "eva", "orthogonal")  # others change the base weights when they load
_HARMLESS: Final = frozenset(
    [
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "target_modules",
        "exclude_modules",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "megatron_core",
        "eva_config",
        "qalora_group_size",
        "init_lora_weights",
        "runtime_config",
    ]
)
_NAME: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MODULE: Final = re.compile(r"model\.language_model\.layers\.(?P<layer>\d+)\.(?:self_attn|mlp)\.(?P<name>[a-z]+_proj)")


class UnservableAdapter(ValueError):
    """An adapter that this engine would not serve exactly; the message names it and says why."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA stacked over layers, every module padded with zeros to the rank of the largest.

    The scale α/r (rsLoRA: α/√r) is in `expand`.
    """

    name: str
    rank: int
    shrink: Mapping[str, torch.Tensor]  # group: [layers, modules, rank, in]
    expand: Mapping[str, torch.Tensor]  # module: [layers, rank, out]


class AdapterReader:
    """Reads adapters for one model."""

    def __init__(self, shape: Shape, *, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = shape
        self._dtype = dtype
        self._device = device

    def read(self, directory: Path) -> Adapter:
        """Raises UnservableAdapter, naming the file and what is wrong."""
        try:
            config = json.loads((directory / "adapter_config.json").read_text())
            _check_config(config)
            pairs = self._pairs(load_file(directory / "adapter_model.safetensors"))
            return self._stack(directory.name, pairs, config)
        except (ValueError, KeyError, OSError, SafetensorError) as error:
            raise UnservableAdapter(f"adapter {directory.name!r}: {error}") from None

    def _pairs(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
        """A and B by module path, checked against the model."""
        pairs: dict[str, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            match = _NAME.fullmatch(name)
            if not match:
                raise ValueError(f"tensor {name!r}, expected lora_A and lora_B of linear layers alone")
            if not tensor.isfinite().all():
                raise ValueError(f"{name}: not all weights are finite")
            pairs.setdefault(match["module"], {})[match["side"]] = tensor.float()
        if not pairs:
            raise ValueError("no tensors, expected lora_A and lora_B of at least one module")
        for path, pair in pairs.items():
            self._check_pair(path, pair)
        return pairs

    def _check_pair(self, path: str, pair: Mapping[str, torch.Tensor]) -> None:
        module = _MODULE.fullmatch(path)
        if not module or module["name"] not in self._shape.outputs or int(module["layer"]) >= self._shape.layers:
            raise ValueError(f"module {path!r}, expected a linear layer of this model's decoder blocks")
        if set(pair) != {"A", "B"}:
            raise ValueError(f"module {path!r} has lora_{''.join(pair)} alone, expected lora_A and lora_B")
        rank, group = pair["A"].shape[0], _group(module["name"])
        expected = (rank, self._shape.inputs[group]), (self._shape.outputs[module["name"]], rank)
        if (found := (tuple(pair["A"].shape), tuple(pair["B"].shape))) != expected:
            raise ValueError(f"module {path!r}: shapes {found}, expected {expected}")

    def _stack(self, name: str, pairs: Mapping[str, Mapping[str, torch.Tensor]], config: Mapping[str, Any]) -> Adapter:
        rank = max(pair["A"].shape[0] for pair in pairs.values())
        layers, shape = self._shape.layers, self._shape
        shrink = {g: torch.zeros(layers, len(ms), rank, shape.inputs[g]) for g, ms in GROUPS.items()}
        expand = {module: torch.zeros(layers, rank, out) for module, out in shape.outputs.items()}
        for path, pair in pairs.items():
            match = _MODULE.fullmatch(path)
            assert match
            layer, module, own = int(match["layer"]), match["name"], pair["A"].shape[0]
            group = _group(module)
            shrink[group][layer, GROUPS[group].index(module), :own] = pair["A"]
            expand[module][layer, :own] = shape.paired(module, pair["B"] * _scale(path, own, config)).T
        adapter = Adapter(name, rank, self._moved(shrink), self._moved(expand))
        if not all(tensor.isfinite().all() for tensor in adapter.expand.values()):
            raise ValueError(f"lora_alpha {config['lora_alpha']!r} makes weights that are not finite")
        return adapter

    def _moved(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.to(self._device, self._dtype) for name, tensor in tensors.items()}


def _group(module: str) -> str:
    return next(group for group, modules in GROUPS.items() if module in modules)


def _scale(path: str, rank: int, config: Mapping[str, Any]) -> float:
    """α/r, or α/√r for rsLoRA. PEFT lets patterns name a module by its end, and divides by the configured rank."""
    alpha = _of_pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
    configured = _of_pattern(config.get("rank_pattern"), path, config["r"])
    if configured != rank:
        raise ValueError(f"module {path!r} has rank {rank}, its configuration says {configured}")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise ValueError(f"lora_alpha: {alpha!r}, expected a finite number")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_pattern(patterns: Mapping[str, Any] | None, path: str, otherwise: Any) -> Any:
    matching = (value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", path))
    return next(matching, otherwise)


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise ValueError(f"peft_type: {config.get('peft_type')!r}, expected 'LORA'")
    if config.get("init_lora_weights", True) not in _INITIALISED:
        expected = ", ".join(map(repr, _INITIALISED))
        raise ValueError(f"init_lora_weights: {config['init_lora_weights']!r}, expected one of {expected}")
    for name, value in config.items():
        if name not in _HARMLESS and value and (name, value) != ("bias", "none"):
            raise ValueError(f"{name}: {value!r} is not supported by this engine")
