"""LoRA weights as PEFT names and scales them, and back into a PEFT directory."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

from services.adapters.files import CONFIG, inspect
from services.engine.routed.lora import Configuration

_NAME: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_WEIGHTS: Final = "adapter_model.safetensors"


@dataclass(frozen=True)
class Pair:
    """A [r,in] and B [out,r] of one linear layer, and the factor of their product."""

    A: torch.Tensor
    B: torch.Tensor
    scale: float


def read(directory: Path) -> dict[str, Pair]:
    """The layers of an adapter by module path, in float32. The engine's reader has checked the files already."""
    config = Configuration(inspect(directory), ())
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(directory / _WEIGHTS).items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(
                f"adapter {directory.name!r}: tensor {name!r}, expected lora_A and lora_B of linear layers"
            )
        if match["module"].startswith("model.visual."):  # screens are looked at once, with the base
            raise ValueError(
                f"adapter {directory.name!r}: module {match['module']!r} is on the vision tower, "
                "expected layers of the language model"
            )
        sides.setdefault(match["module"], {})[match["side"]] = tensor.float()
    return {path: Pair(s["A"], s["B"], config.scale(path, len(s["A"]))) for path, s in sides.items()}


def write(source: Path, directory: Path, layers: Mapping[str, Pair]) -> None:
    """The adapter of `source` with other weights, in its number format."""
    directory.mkdir(parents=True)
    kind = next(iter(load_file(source / _WEIGHTS).values())).dtype
    tensors = {
        f"base_model.model.{path}.lora_{side}.weight": tensor.detach().to(kind).contiguous()
        for path, pair in layers.items()
        for side, tensor in (("A", pair.A), ("B", pair.B))
    }
    save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})
    shutil.copy(source / CONFIG, directory / CONFIG)
