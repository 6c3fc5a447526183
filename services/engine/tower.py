"""LoRA on the vision tower, whose layers stay Hugging Face's: y = W x + Σ gₖ Bₖ Aₖ x."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple

import torch
from torch import nn

Key = frozenset[tuple[bytes, float]]
"""Which weights, each with its gate, the tower computes with; none: the base's."""

TOWER: Final = "model.visual."
"""Where the tower's layers are in the model."""

_PATCHES: Final = "patch_embed.proj"  # a convolution whose windows do not overlap: its parent reads them as rows


class TowerPair(NamedTuple):
    """A and B of one layer. The scale is in `expand`."""

    shrink: torch.Tensor  # [rank, in]
    expand: torch.Tensor  # [rank, out]


class TowerLora:
    """What one adapter adds to the tower, by the layer's path in it."""

    def __init__(self, pairs: Mapping[str, TowerPair], key: bytes | None = None) -> None:
        """`key`: the hash of the pairs, where it is known."""
        self.pairs = dict(pairs)
        self.key = key or _content_hash(pairs)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return sum(side.nbytes for pair in self.pairs.values() for side in pair)

    def to(self, device: torch.device) -> "TowerLora":
        """The same on a device, where the engine's stream may read it."""
        pairs = {path: TowerPair(*[side.to(device) for side in pair]) for path, pair in self.pairs.items()}
        if device.type == "cuda":
            for pair in pairs.values():
                for side in pair:
                    side.record_stream(torch.cuda.default_stream(device))
        return TowerLora(pairs, self.key)

    def free(self) -> None:
        """Let go of the memory, whoever still knows the adapter."""
        self.pairs.clear()


class TowerMixture:
    """Adapters that touch the tower, with their gates."""

    def __init__(self, members: Iterable[tuple[TowerLora, float]] = ()) -> None:
        self._members = [(lora, gate) for lora, gate in members if lora.pairs]
        gates: dict[bytes, float] = {}
        for lora, gate in self._members:  # two adapters may have the same tower
            gates[lora.key] = gates.get(lora.key, 0.0) + gate
        self.key: Key = frozenset(gates.items())

    @contextmanager
    def on(self, tower: nn.Module) -> Iterator[None]:
        """Meanwhile the tower computes with these adapters. Without any, nothing is added to a layer's call."""
        with ExitStack() as hooks:
            for path in {path for lora, _ in self._members for path in lora.pairs}:
                layer = tower.get_submodule(path.rpartition(".")[0] if path == _PATCHES else path)
                hooks.callback(layer.register_forward_hook(self._addition(path)).remove)
            yield

    def _addition(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]:
        found = [(lora.pairs[path], gate) for lora, gate in self._members if path in lora.pairs]
        shrink = torch.cat([pair.shrink for pair, _ in found]).t()
        expand = torch.cat([pair.expand * gate for pair, gate in found])

        def add(_: nn.Module, inputs: tuple[Any, ...], y: torch.Tensor) -> torch.Tensor:
            return y.addmm_(torch.mm(inputs[0], shrink), expand)

        return add


BASE: Final = TowerMixture()


def layers(tower: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights [out, in, …] that a LoRA may change, by path."""
    kinds = (nn.Linear, nn.Conv3d)
    return {path: tuple(layer.weight.shape) for path, layer in tower.named_modules() if isinstance(layer, kinds)}


def _content_hash(pairs: Mapping[str, TowerPair]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for path, pair in sorted(pairs.items()):
        for side in pair:
            digest.update(f"{path}{tuple(side.shape)}".encode())
            digest.update(side.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.digest()
