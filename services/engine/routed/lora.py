"""Reading a PEFT LoRA: what is served, what is refused by name, and the adapter in the engine's own layout."""

import math
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import torch

from services.adapters.files import CONFIG, AdapterFiles, Tensor
from services.adapters.metadata import InvalidAdapter
from services.adapters.tiers import PAGE, pages_of
from services.engine.routed.layout import HostAdapter, Page, PageLayout
from services.engine.routed.shape import GROUPS, Shape
from services.engine.tower import TOWER, TowerLora, TowerPair

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
_PATTERN: Final = re.compile(r"(?!.*\*\*)[A-Za-z0-9_^](?:[A-Za-z0-9_.^$|-]|\.\*|\\\.)*")  # others may match for hours
_DTYPES: Final = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Pair = dict[str, str]  # side, A or B: name of its tensor


class AdapterReader:
    """Reads adapters for one model, into host memory from which a device can copy."""

    def __init__(
        self,
        shape: Shape,
        layout: PageLayout,
        *,
        dtype: torch.dtype,
        pinned: bool = False,
        pages: int = 1 << 20,
        bases: Collection[str] = (),
    ) -> None:
        """An adapter may take at most `pages`. `bases` are names of the model, by the last part of a path; none: any.

        `pinned` memory is what a GPU copies from without the CPU.
        """
        self._shape = shape
        self._layout = layout
        self._dtype = dtype
        self._pinned = pinned
        self._pages = pages
        self._bases = bases

    def check(self, files: AdapterFiles) -> None:
        """Raises InvalidAdapter for what configuration and header alone show: all but the numbers."""
        Configuration(files, self._bases)
        for path, pair in self._pairs(files).items():
            self._check_pair(files, path, pair)
        if pages_of(files.rank) > self._pages:
            most = f"expected a rank of at most {self._pages * PAGE} (cache.device_rows, model.lora_pages)"
            raise InvalidAdapter(f"{files.path / CONFIG}: rank {files.rank}, {most}")

    @torch.inference_mode()
    def read(self, name: str, files: AdapterFiles, data: bytearray) -> HostAdapter:
        """The adapter in pages. Raises InvalidAdapter, naming the file, the tensor and what is wrong."""
        self.check(files)
        _check_finite(files, data, self._dtype)
        config = Configuration(files, self._bases)
        pages = pages_of(files.rank)
        numbers = torch.zeros(pages, self._layout.size, dtype=self._dtype, pin_memory=self._pinned)
        views = [self._layout.page(page) for page in numbers]
        tower: dict[str, TowerPair] = {}
        for path, pair in self._pairs(files).items():
            shrink = _tensor(data, files.tensors[pair["A"]]).flatten(1)
            expand = _tensor(data, files.tensors[pair["B"]]).flatten(1).float() * config.scale(path, len(shrink))
            if match := _MODULE.fullmatch(path):
                self._put(views, int(match["layer"]), match["name"], shrink, expand)
            else:
                own = [side.to(self._dtype, copy=True).contiguous() for side in (shrink, expand.T)]
                tower[path.removeprefix(TOWER)] = TowerPair(*own)
        if not all(map(_is_finite, (numbers, *(pair.expand for pair in tower.values())))):
            said = f"lora_alpha {files.config['lora_alpha']!r} makes weights that are not finite"
            raise InvalidAdapter(f"{files.path / CONFIG}: {said} in {self._dtype}")
        return HostAdapter(name, files.rank, numbers, TowerLora(tower))

    def _put(self, pages: list[Page], layer: int, module: str, shrink: torch.Tensor, expand: torch.Tensor) -> None:
        """Write A [rank, in] and B [out, rank] of one module to the pages."""
        group = _group(module)
        place = GROUPS[group].index(module)
        rows = self._shape.paired(module, expand).T
        for page, a, b in zip(pages, torch.split(shrink, PAGE), torch.split(rows, PAGE), strict=False):
            page.shrink[group][layer, place, : len(a)] = a
            page.expand[module][layer, : len(b)] = b

    def _pairs(self, files: AdapterFiles) -> dict[str, Pair]:
        """The names of A and B by module path."""
        pairs: dict[str, Pair] = {}
        for name in files.tensors:
            match = _NAME.fullmatch(name)
            if not match:
                expected = "expected lora_A and lora_B of linear layers alone"
                raise InvalidAdapter(f"{files.weights}: tensor {name!r}, {expected}")
            pairs.setdefault(match["module"], {})[match["side"]] = name
        return pairs

    def _check_pair(self, files: AdapterFiles, path: str, pair: Pair) -> None:
        weight = self._weight(path)
        where = f"{files.weights}: module {path!r}"
        if weight is None:
            expected = f"expected a linear layer of one of the {self._shape.layers} blocks or of the vision tower"
            raise InvalidAdapter(f"{where}, {expected}")
        if set(pair) != {"A", "B"}:
            raise InvalidAdapter(f"{where} has lora_{''.join(pair)} alone, expected lora_A and lora_B")
        shapes = [files.tensors[pair[side]].shape for side in "AB"]
        rank = (shapes[0] or (0,))[0]
        wide = (rank, *weight[1:]), (weight[0], rank, *(1 for _ in weight[2:]))  # a convolution's B is one of 1 × 1 × 1
        for side, found, wanted in zip("AB", shapes, wide, strict=True):
            if found != wanted or not rank:
                raise InvalidAdapter(f"{files.weights}: {pair[side]!r} has shape {found}, expected {wanted}")
        Configuration(files, self._bases).scale(path, rank)

    def _weight(self, path: str) -> tuple[int, ...] | None:
        """The shape of a module's weight, if there is such a module."""
        if path.startswith(TOWER):
            return self._shape.tower.get(path.removeprefix(TOWER))
        module = _MODULE.fullmatch(path)
        if not module or module["name"] not in self._shape.outputs or int(module["layer"]) >= self._shape.layers:
            return None
        return self._shape.outputs[module["name"]], self._shape.inputs[_group(module["name"])]


class Configuration:
    """What adapter_config.json says, as far as it is understood."""

    def __init__(self, files: AdapterFiles, bases: Collection[str]) -> None:
        """Raises InvalidAdapter for anything that would not be served exactly."""
        self._config = files.config
        self._file = files.path / CONFIG
        base = str(files.config.get("base_model_name_or_path") or "")
        if bases and base and Path(base).name not in bases:
            expected = f"expected {', '.join(sorted(bases))} (cache.bases)"
            raise self._error(f"base_model_name_or_path: {base!r}, {expected}")
        if files.config.get("init_lora_weights", True) not in _INITIALISED:
            expected = ", ".join(map(repr, _INITIALISED))
            raise self._error(f"init_lora_weights: {files.config['init_lora_weights']!r}, expected one of {expected}")
        for name, value in files.config.items():
            if name not in _HARMLESS and value and (name, value) != ("bias", "none"):
                raise self._error(f"{name}: {value!r} is not supported by this engine, expected none")

    def scale(self, path: str, rank: int) -> float:
        """α/r, or α/√r for rsLoRA. PEFT lets patterns name a module by its end, and divides by the configured rank."""
        alpha = self._of_pattern("alpha_pattern", path, self._config.get("lora_alpha"))
        configured = self._of_pattern("rank_pattern", path, self._config["r"])
        if configured != rank:
            raise self._error(f"module {path!r} has rank {rank}, its configuration says {configured}")
        if not isinstance(alpha, int | float) or not abs(alpha) <= sys.float_info.max:
            raise self._error(f"lora_alpha: {alpha!r}, expected a finite number")
        return float(alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank))

    def _of_pattern(self, name: str, path: str, otherwise: Any) -> Any:
        patterns = self._config.get(name) or {}
        if not isinstance(patterns, dict):
            raise self._error(f"{name}: {patterns!r}, expected an object")
        for key, value in patterns.items():
            if not _PATTERN.fullmatch(key) or key.count("*") > 2:
                raise self._error(f"{name}: {key!r}, expected the end of a module's path, with at most two '*'")
            if re.match(rf"(.*\.)?({key})$", path):
                return value
        return otherwise

    def _error(self, message: str) -> InvalidAdapter:
        return InvalidAdapter(f"{self._file}: {message}")


def _tensor(data: bytearray, tensor: Tensor) -> torch.Tensor:
    """A view of the file's bytes."""
    dtype = _DTYPES[tensor.dtype]
    return torch.frombuffer(data, dtype=dtype, count=math.prod(tensor.shape), offset=tensor.start).view(tensor.shape)


def _check_finite(files: AdapterFiles, data: bytearray, dtype: torch.dtype) -> None:
    """A is served as it is in `dtype`, B is scaled in float32 first."""
    for name, tensor in files.tensors.items():
        found, served = _tensor(data, tensor), dtype if ".lora_A." in name else torch.float32
        most = torch.finfo(served).max
        if not _is_finite(found, most):
            at = tuple((~(found.double().abs() <= most)).nonzero()[0].tolist())
            said = f"{name!r} is {found[at].item()} at {list(at)}, expected finite numbers"
            raise InvalidAdapter(f"{files.weights}: {said} of {served}")


def _is_finite(numbers: torch.Tensor, most: float = sys.float_info.max) -> bool:
    """Without a mask of the same size: NaN and infinity both reach the extremes."""
    return all(abs(extreme.item()) <= most for extreme in torch.aminmax(numbers))


def _group(module: str) -> str:
    return next(group for group, modules in GROUPS.items() if module in modules)
