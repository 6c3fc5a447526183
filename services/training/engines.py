"""The service's own engine, for as long as a step of training needs it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cluster.settings import Settings
from services.engine.loading import load
from services.engine.routed import RoutedEngine


@contextmanager
def engine(settings: Settings, adapters: Mapping[str, Path]) -> Iterator[RoutedEngine]:
    """Configured as a Model replica, with these adapters."""
    model = settings.model
    made = RoutedEngine(
        load(model.path, dtype=model.dtype, device="cuda" if model.gpus else "cpu"),
        adapters,
        max_batch=model.max_batch,
        max_mixture=model.max_mixture,
        kv_tokens=model.kv_tokens,
        lora_pages=model.lora_pages,
        prefill_chunk=model.prefill_chunk,
        encode_blocks=model.encode_blocks,
        image_cache=model.image_cache,
    )
    try:
        yield made
    finally:
        made.close()
