"""Which replica a request goes to, and what each arm would wait there, worked out by hand."""

from contextlib import ExitStack

import pytest

from services.model.report import Meter, Report
from services.routing.placement import Place, Placement


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def placement(clock: Clock) -> Placement:
    return Placement(page_in_ms=50, look_s=1, clock=clock)


def report(replica: str, number: int = 1, **fields: object) -> Report:
    known = {"slots": 4, "answer_ms": 80.0, "encode_ms": 5.0, "page_in_ms": 40.0}
    return Report(replica, number, **(known | fields))  # type: ignore[arg-type]


def test_without_any_report_everything_is_free_and_anywhere(placement: Placement) -> None:
    assert placement.encoder() == ""
    assert placement.places({"base": [], "a": ["hash a"]}, "") == {"base": Place("", 0.0), "a": Place("", 0.0)}


def test_a_request_goes_where_its_adapter_is(placement: Placement) -> None:
    """Reading the screen again takes 5 ms, fetching an adapter 40."""
    placement.heard(report("one", resident=("hash a",)))
    placement.heard(report("two", resident=("hash b",)))
    arms = {"base": [], "a": ["hash a"], "b": ["hash b"], "both": ["hash a", "hash b"], "c": ["hash c"]}
    assert placement.places(arms, "one") == {
        "base": Place("one", 0.0),
        "a": Place("one", 0.0),
        "b": Place("two", 5.0),
        "both": Place("one", 40.0),
        "c": Place("one", 40.0),
    }


def test_nobody_is_asked_for_what_it_could_not_load_where_another_may_have_it(
    placement: Placement, clock: Clock
) -> None:
    placement.heard(report("one", broken=("hash a", "hash b")))
    placement.heard(report("two", broken=("hash b",)))
    arms = {"a": ["hash a"], "both": ["hash a", "hash b"], "base": []}
    places = placement.places(arms, "one")
    assert {arm: place.replica for arm, place in places.items()} == {"a": "two", "both": "one", "base": "one"}
    assert placement.able(["hash a"]) == ["two"]
    assert placement.places({"a": ["hash a"]}, "one", besides=["two"])["a"].replica == "one"
    placement.lacks("two", "hash a")
    assert placement.able(["hash a"]) == []
    placement.heard(report("two", 2))
    assert placement.able(["hash a", "hash b"]) == ["two"]
    clock.now += 4
    assert placement.able(["hash a"]) == []


def test_unless_waiting_there_costs_more(placement: Placement) -> None:
    """Four requests share four slots: 80 ms an answer, more than a page-in and reading the screen again."""
    placement.heard(report("one", resident=("hash a",), busy=2))
    placement.heard(report("two"))
    assert placement.places({"a": ["hash a"]}, "one")["a"] == Place("one", 40.0)
    placement.heard(report("one", 2, resident=("hash a",), busy=4))
    assert placement.places({"a": ["hash a"]}, "one")["a"] == Place("two", 45.0)
    assert placement.encoder() == "two"


def test_a_hot_adapter_spreads_as_requests_pile_up(placement: Placement) -> None:
    """Before any new report: what this Router sent counts, and so does what it made the other replica fetch."""
    placement.heard(report("one", resident=("hash a",)))
    placement.heard(report("two"))
    places = []
    with ExitStack() as open_requests:
        for _ in range(8):
            place = placement.places({"a": ["hash a"]}, "one")["a"]
            places.append(place.replica)
            open_requests.enter_context(placement.sent(place.replica, ["hash a"]))
    assert places == ["one", "one", "one", "two", "two", "one", "two", "one"]
    assert placement.places({"a": ["hash a"]}, "one")["a"] == Place("one", 0.0)


def test_a_report_counts_what_is_there_only_once(placement: Placement) -> None:
    placement.heard(report("one"))
    with placement.sent("one", []):
        placement.heard(report("one", 2, busy=3))  # one of them is this Router's
        assert placement.places({"base": []}, "one")["base"].ms == 60.0
        with placement.sent("one", []):
            assert placement.places({"base": []}, "one")["base"].ms == 80.0
    assert placement.places({"base": []}, "one")["base"].ms == 40.0


def test_replicas_that_come_and_go_leave_nothing(placement: Placement) -> None:
    for name in map(str, range(5)):
        placement.heard(report(name))
        with placement.sent(name, []):
            placement.lost(name)
    assert not placement._sent


def test_what_is_on_its_way_is_half_there(placement: Placement) -> None:
    placement.heard(report("one", arriving=("hash a",)))
    assert placement.places({"a": ["hash a"], "ab": ["hash a", "hash b"]}, "one") == {
        "a": Place("one", 20.0),
        "ab": Place("one", 60.0),
    }
    with placement.sent("one", ["hash b"]):
        assert placement.places({"ab": ["hash a", "hash b"]}, "one")["ab"].ms == 40.0 + 20.0


def test_an_unmeasured_page_in_is_assumed(placement: Placement) -> None:
    placement.heard(report("one", page_in_ms=0.0))
    assert placement.places({"a": ["hash a"]}, "one")["a"] == Place("one", 50.0)


def test_an_older_report_changes_nothing(placement: Placement) -> None:
    placement.heard(report("one", 7, resident=("hash a",)))
    placement.heard(report("one", 6))
    assert placement.places({"a": ["hash a"]}, "one")["a"].ms == 0.0


def test_who_is_lost_or_silent_is_not_counted_on(placement: Placement, clock: Clock) -> None:
    placement.heard(report("one", resident=("hash a",)))
    placement.heard(report("two"))
    assert placement.places({"a": ["hash a"]}, "one", besides=["one"])["a"] == Place("two", 45.0)
    placement.lost("one")
    assert placement.replicas == ("two",)
    placement.heard(report("one", 2))
    clock.now += 2.5
    placement.heard(report("two", 2))
    clock.now += 1
    assert placement.replicas == ("two",)
    assert placement.ages() == {"one": 3.5, "two": 1.0}
    placement.all([report("two", 3), report("three")])
    assert placement.ages() == {"three": 0.0, "two": 0.0}


def test_a_meter_counts_what_ended_well() -> None:
    meter = Meter()
    assert meter.ms == 0.0
    with meter.measured():
        assert meter.under_way == 1
    assert meter.under_way == 0
    measured = meter.ms
    assert measured > 0
    with pytest.raises(KeyError), meter.measured():
        raise KeyError
    assert (meter.ms, meter.under_way) == (measured, 0)
