"""Who keeps what of a plan, where several replicas have room."""

from collections.abc import Mapping
from hashlib import blake2b


def spread(sizes: Mapping[str, float], rooms: Mapping[str, float]) -> dict[str, list[str]]:
    """For each replica with its room, what it should keep of adapters with their sizes, most wanted first.

    Each adapter goes to one replica, chosen by hashes of both names (rendezvous hashing, Thaler and Ravishankar 1998):
    everybody finds the same, and little moves when a replica comes or goes. What room is left holds the most wanted
    ones once more.
    """
    free = dict(rooms)
    kept: dict[str, list[str]] = {replica: [] for replica in rooms}
    for once_more in (False, True):
        for adapter, size in sizes.items():
            able = [replica for replica, left in free.items() if left >= size and adapter not in kept[replica]]
            for replica in able if once_more else sorted(able, key=lambda each: _rank(each, adapter))[-1:]:
                kept[replica].append(adapter)
                free[replica] -= size
    order = {adapter: place for place, adapter in enumerate(sizes)}
    return {replica: sorted(adapters, key=order.__getitem__) for replica, adapters in kept.items()}


def _rank(replica: str, adapter: str) -> bytes:
    return blake2b(f"{replica}\0{adapter}".encode(), digest_size=8).digest()
