"""The embedded world as a table: the features of every recorded episode, and how each arm did on it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from examples.miniwob.episodes import Episode, load_all
from examples.miniwob.families import NEWER
from examples.miniwob.outcomes import Outcomes
from examples.miniwob.paths import MODEL, ROUTER
from policies.checks import Array, Mask
from policies.context import ContextMap

_KEPT: Final = Path(__file__).parent / "embedded_features.safetensors"


@dataclass(frozen=True, eq=False)
class World:
    """n recorded episodes: raw features H [n,D], their families, and rewards R [n,K] of the `arms`."""

    contexts: ContextMap
    arms: tuple[str, ...]
    families: tuple[str, ...]
    H: Array
    R: Array

    @cached_property
    def mapped(self) -> tuple[Array, Array]:
        """Contexts X [n,d], and gates [n,len(contexts.arms)]."""
        return self.contexts.map_batch(self.H)

    @property
    def known(self) -> Mask:
        """[n]: episodes of the families that the supervised router was trained on."""
        return ~np.isin(self.families, NEWER)


def embedded() -> World:
    """The recorded episodes with the features that are kept beside this file, or, of another model, made anew."""
    table = Outcomes.load()
    episodes = [episode for episode in load_all() if episode.id in table.table]
    R = np.array([table.table[episode.id][: len(table.arms)] for episode in episodes], dtype=np.float64)
    families = tuple(episode.family for episode in episodes)
    return World(ContextMap.load(ROUTER), table.arms, families, features(episodes), R)


def features(episodes: Sequence[Episode], kept: Path = _KEPT) -> Array:
    """Raw features [n,D] as the service's engine reads them; a file that is not of this model and episodes is replaced.

    Encoding takes about a minute on a core, reading the file nothing.
    """
    made_of = _made_of(episodes)
    if kept.exists():
        with safe_open(kept, "numpy") as file:
            if file.metadata()["made_of"] == made_of:
                return np.asarray(file.get_tensor("H"), dtype=np.float64)
    H = asyncio.run(_encode(episodes))
    save_file({"H": H}, kept, metadata={"made_of": made_of})
    return H.astype(np.float64)


def _made_of(episodes: Sequence[Episode]) -> str:
    """A digest of the weights and of what they are shown."""
    digest = sha256((MODEL / "model.safetensors").read_bytes())
    for episode in episodes:
        digest.update(f"{episode.id} {episode.instruction} {episode.image}".encode())
    return digest.hexdigest()


async def _encode(episodes: Sequence[Episode]) -> npt.NDArray[np.float16]:
    from examples.miniwob.train_router import read_features  # the engine takes seconds to import
    from services.engine.loading import load
    from services.engine.routed import RoutedEngine

    engine = RoutedEngine(load(str(MODEL)), {}, max_batch=1, kv_tokens=1024)
    try:
        return (await read_features(engine, episodes)).astype(np.float16)
    finally:
        engine.close()
