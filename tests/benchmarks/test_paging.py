"""The benchmark of paging finds what it promises to look for."""

from pathlib import Path

from benchmarks.engines.models import MODELS, write_adapters
from benchmarks.paging import _load, _replica
from services.adapters.shelf import Shelf


async def test_an_answer_of_another_adapter_is_noticed(tmp_path: Path) -> None:
    """Six adapters on a device for eight; then the small replica is told two of them the wrong way round."""
    subject = MODELS["embedded"]
    shelf = Shelf([tmp_path])
    paths = write_adapters(subject.make(), subject.rank, 6, tmp_path, std=0.2)
    adapters = {name: shelf.describe(name, str(path)) for name, path in paths.items()}
    first, second, *_ = adapters
    swapped = adapters | {first: adapters[second], second: adapters[first]}
    async with (
        _replica(adapters, shelf, pages=8, host_bytes=1 << 24) as resident,
        _replica(adapters, shelf, pages=8, host_bytes=1 << 24) as right,
        _replica(swapped, shelf, pages=8, host_bytes=1 << 24) as wrong,
    ):
        assert (await _load(resident, right, 12)).wrong == 0
        assert (await _load(resident, wrong, 12)).wrong > 0
