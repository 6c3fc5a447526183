"""Who keeps what of a plan."""

from policies.caching.spread import spread

SIZES: dict[str, float] = {f"adapter {number}": 1 + number % 2 for number in range(12)}  # 18 pages


def replicas(count: int, room: float) -> dict[str, float]:
    return {f"replica {number}": room for number in range(count)}


def test_one_replica_keeps_what_fits_most_wanted_first() -> None:
    assert spread(SIZES, {"only": 5}) == {"only": ["adapter 0", "adapter 1", "adapter 2", "adapter 4"]}


def test_together_they_keep_everything_before_anything_twice() -> None:
    kept = spread(SIZES, replicas(3, 8))
    assert set().union(*kept.values()) == SIZES.keys()
    assert all(sum(SIZES[adapter] for adapter in adapters) <= 8 for adapters in kept.values())
    twice = [adapter for adapter in SIZES if sum(adapter in adapters for adapters in kept.values()) > 1]
    assert twice
    assert twice[0] == "adapter 0"


def test_with_room_for_all_each_keeps_all() -> None:
    assert spread(SIZES, replicas(2, 18)) == {replica: list(SIZES) for replica in replicas(2, 18)}


def test_when_a_replica_goes_the_others_keep_what_they_had() -> None:
    before, after = spread(SIZES, replicas(4, 12)), spread(SIZES, replicas(3, 12))
    stayed = sum(len(set(before[replica]) & set(after[replica])) for replica in after)
    assert stayed >= 0.7 * sum(len(before[replica]) for replica in after)


def test_nobody_keeps_nothing() -> None:
    assert spread(SIZES, {}) == {}
    assert spread({}, {"only": 5}) == {"only": []}
