"""The trained router as an artifact: how raw features become a context, and the supervised sums of its prior."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from policies import checks
from policies.base import Context
from policies.checks import Array
from policies.prior import SupervisedStatistics
from policies.projection import Projection
from policies.supervision import Supervision

_FORMAT = 1
_TENSORS = "router.safetensors"
_DOCUMENT = "router.json"
_WEIGHTS = ("W1", "b1", "W2", "b2", "center", "components")
_SUMS = ("moment", "A_pos", "A_neg", "b_pos", "b_neg")


@dataclass(frozen=True, eq=False)
class ContextMap:
    """Maps features to contexts by `projection`, whose gates are those of `arms`.

    `features` says how the features were made, `metrics` how well the router did on held-out examples. `supervision`
    holds what only some policies need; a router may be saved without.
    """

    arms: tuple[str, ...]
    projection: Projection
    statistics: SupervisedStatistics
    features: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    supervision: Supervision = field(default_factory=Supervision)

    def __post_init__(self) -> None:
        checks.array(f"b2 of arms {list(self.arms)}", self.projection.b2, (len(self.arms),))
        checks.array("moment", self.statistics.moment, (self.dimension, self.dimension))

    @property
    def input_dimension(self) -> int:
        """D, the length of h."""
        return self.projection.input_dimension

    @property
    def dimension(self) -> int:
        """d, the length of x."""
        return self.projection.dimension

    def map(self, h: npt.ArrayLike) -> Context:
        """The context of features h [D]. ValueError: another length, a number that is not finite."""
        X, G = self.map_batch(checks.array("h", h, (self.input_dimension,))[np.newaxis])
        return Context(X[0], dict(zip(self.arms, G[0].tolist(), strict=True)))

    def layer_gates(self, h: npt.ArrayLike) -> dict[str, Array]:
        """The gates [L] of each arm for features h [D], one a decoder block; empty where all blocks share a head."""
        if not len(self.projection.apart):
            return {}
        (gates,) = self.projection.layer_gates(checks.array("h", h, (self.input_dimension,))[np.newaxis])
        return dict(zip(self.arms, gates.T, strict=True))

    def map_batch(self, H: npt.ArrayLike) -> tuple[Array, Array]:
        """X [n,d] and gates G [n,K] in the order of `arms`, for features H [n,D]."""
        return self.projection.apply(H)

    @cached_property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the content's SHA-256."""
        digest = hashlib.sha256(json.dumps(self._document(), sort_keys=True, allow_nan=False).encode())
        for name, value in sorted(self._arrays().items()):
            digest.update(f"{name} {value.shape}".encode() + value.tobytes())
        return digest.hexdigest()[:16]

    def save(self, path: Path | str) -> None:
        """Write router.safetensors and router.json into the directory `path`, which is made if missing."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        document, tensors = self.files()
        (folder / _TENSORS).write_bytes(tensors)
        (folder / _DOCUMENT).write_bytes(document)

    def files(self) -> tuple[bytes, bytes]:
        """The contents of router.json and router.safetensors."""
        document = self._document() | {"fingerprint": self.fingerprint}
        return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode(), save(self._arrays())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote. ValueError: a file is missing, corrupt, was changed, or belongs to another router."""
        folder = Path(path)
        if missing := [name for name in (_DOCUMENT, _TENSORS) if not (folder / name).is_file()]:
            raise ValueError(f"{folder} has no {' and no '.join(missing)}, expected a trained router")
        return cls.parse((folder / _DOCUMENT).read_bytes(), (folder / _TENSORS).read_bytes(), str(folder))

    @classmethod
    def parse(cls, document_json: bytes, tensors: bytes, source: str) -> Self:
        """A router of the contents of its files. ValueError, which names the source: as in `load`."""
        unreadable = f"router in {source} is not readable"
        try:
            document = json.loads(document_json)
        except ValueError as error:
            raise ValueError(f"{unreadable}: {_DOCUMENT} is not JSON: {error}") from error
        try:
            arrays = load(tensors)
        except SafetensorError as error:
            raise ValueError(f"{unreadable}: {_TENSORS} of {len(tensors)} bytes is damaged: {error}") from error
        try:
            context_map = cls._parse(document, arrays)
            if context_map.fingerprint != document["fingerprint"]:
                raise ValueError(f"fingerprint is {context_map.fingerprint}, expected {document['fingerprint']}")
        except KeyError as error:
            raise ValueError(f"{unreadable}: it lacks {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{unreadable}: {error}") from error
        return context_map

    def _document(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "arms": self.arms,
            "input_dimension": self.input_dimension,
            "dimension": self.dimension,
            "temperature": self.projection.temperature,
            "prior_arms": self.statistics.arms,
            "prior_examples": self.statistics.n,
            "features": dict(self.features),
            "metrics": dict(self.metrics),
        } | self.supervision.names()

    def _arrays(self) -> dict[str, Array]:
        weights = {name: getattr(self.projection, name) for name in _WEIGHTS}
        sums = {name: getattr(self.statistics, name) for name in _SUMS}
        heads = {"apart": self.projection.apart} if self.projection.apart.size else {}
        arrays = weights | sums | heads | self.supervision.arrays()
        return {name: np.ascontiguousarray(value) for name, value in arrays.items()}

    @classmethod
    def _parse(cls, document: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        if document["format"] != _FORMAT:
            raise ValueError(f"format is {document['format']}, expected {_FORMAT}")
        weights, sums = ({name: arrays[name] for name in names} for names in (_WEIGHTS, _SUMS))
        heads = {"apart": arrays["apart"]} if "apart" in arrays else {}
        projection = Projection(**weights, **heads, temperature=document["temperature"])
        statistics = SupervisedStatistics(tuple(document["prior_arms"]), document["prior_examples"], **sums)
        supervision = Supervision.parse(document, arrays)
        arms = tuple(document["arms"])
        return cls(arms, projection, statistics, document["features"], document["metrics"], supervision)
