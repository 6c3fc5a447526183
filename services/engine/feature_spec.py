"""What decides the router's features of a prompt besides the prompt, and whether a trained router expects the same."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_SAMPLE: Final = 1 << 20
_HASH: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class FeatureSpec:
    """`model` is what `weights_hash` says of the base."""

    model: str
    dtype: str
    encode_blocks: int

    @property
    def document(self) -> dict[str, str | int | float | bool]:
        """As the router's artifact says it."""
        text = f"mean instruction state after {self.encode_blocks} decoder blocks"
        return {"text": text, "vision": "mean merged patch embedding", **asdict(self)}

    def misfit(self, features: Mapping[str, str | int | float | bool]) -> str:
        """What of a router's `features` is not as here; empty if nothing is, or if it does not say.

        Bases compare only where both are known by their weights, or both by their names.
        """
        blocks = features.get("encode_blocks", self.encode_blocks)
        if blocks != self.encode_blocks:
            return f"features.encode_blocks {blocks}, expected {self.encode_blocks} as model.encode_blocks"
        model = str(features.get("model", self.model))
        comparable = bool(_HASH.fullmatch(model)) == bool(_HASH.fullmatch(self.model))
        if comparable and model != self.model:
            return f"features.model {model}, expected {self.model} as the base of model.path"
        return ""


def weights_hash(path: Path | str) -> str:
    """16 hex digits of a checkpoint: its configuration, and of each weight file name, size, and both ends.

    Whole files would take minutes for large models. What is no directory here is known by its name alone.
    """
    digest, folder = hashlib.sha256(), Path(path)
    if not folder.is_dir():
        return str(path)
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as opened:
            digest.update(opened.read(_SAMPLE))
            opened.seek(max(0, file.stat().st_size - _SAMPLE))
            digest.update(opened.read(_SAMPLE))
    return digest.hexdigest()[:16]
