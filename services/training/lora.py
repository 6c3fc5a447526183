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
    """A [r,in] and B [out,r] of one layer, and the factor of their product; a convolution's windows are rows."""

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
        sides.setdefault(match["module"], {})[match["side"]] = tensor.float().flatten(1)
    return {path: Pair(s["A"], s["B"], config.scale(path, len(s["A"]))) for path, s in sides.items()}


def write(source: Path, directory: Path, layers: Mapping[str, Pair]) -> None:
    """The adapter of `source` with other weights, in its shapes and number format."""
    directory.mkdir(parents=True)
    tensors = load_file(source / _WEIGHTS)
    for path, pair in layers.items():
        for side, trained in (("A", pair.A), ("B", pair.B)):
            was = tensors[name := f"base_model.model.{path}.lora_{side}.weight"]
            tensors[name] = trained.detach().to(was.dtype).reshape(was.shape).contiguous()
    save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})
    shutil.copy(source / CONFIG, directory / CONFIG)
