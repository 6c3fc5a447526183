"""The service's own engine as settings describe it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from cluster.settings import ModelSettings, Settings
from services.engine.loading import Checkpoint, load
from services.engine.routed import RoutedEngine


def load_checkpoint(model: ModelSettings) -> Checkpoint:
    """The base, where and as it is served. Raises OSError: there is none."""
    return load(model.path, dtype=model.dtype, device="cuda" if model.gpus else "cpu")


def make_engine(
    settings: Settings,
    adapters: Mapping[str, Path] = MappingProxyType({}),
    *,
    device_rows: int = 0,
    bases: Collection[str] = (),
) -> RoutedEngine:
    """The engine with its model loaded. `adapters`, `device_rows` and `bases` are those of RoutedEngine, which raises.

    It belongs to the caller, who closes it.
    """
    model = settings.model
    return RoutedEngine(
        load_checkpoint(model),
        adapters,
        max_batch=model.max_batch,
        max_mixture=model.max_mixture,
        kv_tokens=model.kv_tokens,
        lora_pages=model.lora_pages,
        prefill_chunk=model.prefill_chunk,
        encode_blocks=model.encode_blocks,
        image_cache=model.image_cache,
        state_cache=model.state_cache,
        device_rows=device_rows,
        bases=bases,
    )
