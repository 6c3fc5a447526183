"""Who leaves first under each residency policy, against orders worked out by hand."""

import pytest

from policies.caching import ResidencyConfig, ResidencyPolicy, create, names

PINS = ResidencyConfig(pins=("c", "b"))


def made(name: str, *uses: str, config: ResidencyConfig = ResidencyConfig()) -> ResidencyPolicy:
    """A policy with a, b, c resident at the same size and cost, after one request for each of `uses`."""
    policy = create(name, config)
    for adapter in "abc":
        policy.paged_in(adapter, size=1, ms=10)
    for adapter in uses:
        policy.requested([adapter])
    return policy


def order(policy: ResidencyPolicy, resident: str = "abc") -> str:
    """The residents in the order of their leaving."""
    left = set(resident)
    gone = ""
    while left:
        gone += policy.victim(left)
        left.remove(gone[-1])
    return gone


def test_the_names_are_those_of_the_settings() -> None:
    assert names() == ["gdsf", "lfu", "lru", "polar", "polar_plus", "static"]


@pytest.mark.parametrize(
    ("name", "uses", "expected"),
    [
        ("lru", "abca", "bca"),
        ("lfu", "aabccc", "bac"),
        ("lfu", "cab", "cab"),
        ("gdsf", "aabccc", "bac"),
        ("polar", "abca", "bca"),
    ],
)
def test_without_a_plan_the_past_decides(name: str, uses: str, expected: str) -> None:
    assert order(made(name, *uses)) == expected


def test_lfu_remembers_uses_from_before_an_eviction() -> None:
    policy = made("lfu", *"aaab")
    policy.evicted("a")
    policy.paged_in("a", size=1, ms=10)
    policy.requested(["b"])
    assert order(policy, "ab") == "ba"


def test_gdsf_keeps_what_is_small_or_slow_to_fetch() -> None:
    policy = create("gdsf")
    for adapter, size, ms in (("large", 8, 10), ("small", 2, 10), ("slow", 8, 100)):
        policy.paged_in(adapter, size, ms)
        policy.requested([adapter])
    residents = ["large", "small", "slow"]
    assert policy.victim(residents) == "large"
    assert policy.victim(["small", "slow"]) == "small"


def test_gdsf_lets_go_of_what_was_used_long_ago() -> None:
    """Ten uses of a are worth 100; every eviction of a newcomer raises the floor until a is the least."""
    policy = made("gdsf", *"aaaaaaaaaa")
    resident, evicted = {"a"}, []
    for number in range(20):
        resident.add(newcomer := f"new{number:02}")
        policy.paged_in(newcomer, size=1, ms=10)
        policy.requested([newcomer])
        if len(resident) > 1:
            evicted.append(policy.victim(resident))
            policy.evicted(evicted[-1])
            resident.remove(evicted[-1])
    assert evicted.index("a") == 9  # the floor has risen by 10 at each of nine evictions before it


def test_a_plan_is_kept_and_what_is_outside_leaves_first() -> None:
    policy = made("polar", *"abc")
    policy.plan(["b", "a", "d"])
    assert policy.target == ("b", "a", "d")
    assert policy.missing() == ["d"]
    assert order(policy) == "cab"
    policy.evicted("b")
    assert policy.missing() == ["b", "d"]
    policy.plan(["c"])
    assert order(policy) == "abc"


@pytest.mark.parametrize("name", ["lru", "lfu", "gdsf"])
def test_who_follows_no_plan_is_not_moved_by_one(name: str) -> None:
    policy = made(name, *"abbccc")
    policy.plan(["a"])
    assert (order(policy), policy.missing()) == ("abc", [])


def test_static_keeps_its_pins() -> None:
    policy = made("static", *"bca", config=PINS)
    policy.plan(["a"])
    assert (order(policy), policy.missing()) == ("abc", [])


def test_a_mixture_is_one_request() -> None:
    policy = create("lru")
    policy.requested(["a", "b"])
    policy.requested([])
    assert policy.clock == 2


def test_what_cannot_be_is_refused() -> None:
    policy = create("lru")
    with pytest.raises(ValueError, match="candidates are empty"):
        policy.victim([])
    with pytest.raises(ValueError, match=r"ms of 'a' is nan, expected a finite number"):
        policy.paged_in("a", 1, float("nan"))
    with pytest.raises(ValueError, match=r"target is \['a', 'a'\], expected each adapter once"):
        policy.plan(["a", "a"])
    with pytest.raises(ValueError, match="residency policy is 'mru', expected one of"):
        create("mru")
