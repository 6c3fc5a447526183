"""The timeline: every request in the bucket of its own time, whatever becomes of it later, and bounded."""

import time
from typing import Any

import pytest

from cluster.events import ArmRenamed, ArmScore, Cancellation, Decision, Event, Timeout
from cluster.learner_store import LedgerRow
from policies.context import ContextMap
from services.insight.inspection import wilson
from services.learning.fold import Fold
from services.learning.folding import Folding
from services.learning.rewards import FeedbackRules
from services.learning.timeline import LENGTHS, MOST_CELLS, REST, TIMELINE, Bucket, Cell, Place
from tests.services.conftest import MakeWorld
from tests.services.learning.test_fold import CONFIG, EVENTS, completion, decision, reward
from tests.services.world import World

MINUTE = Place(60, 120)


def asked(id_: str, arm: str = "inbox", *, at: float = 7200.0, task: str | None = "mail", **more: Any) -> Decision:
    means = [ArmScore(arm=f"a{i}", mean=mean, width=0.1, cost_ms=0, score=mean) for i, mean in enumerate((0.3, 0.9))]
    return decision(id_, arm, time=at, task=task, scored=means, **more)


def folded(contexts: ContextMap, *events: Event, rules: FeedbackRules = FeedbackRules()) -> Fold:
    fold = Fold(contexts, CONFIG, {}, rules)
    for event in events:
        fold.apply(event, {})
    return fold


def test_an_outcome_counts_where_its_request_was(contexts: ContextMap) -> None:
    fold = folded(
        contexts,
        asked("d1", explored=True),
        asked("d2"),
        asked("d3", "claims"),
        asked("d4", at=7300.0, task=None),
        reward("d1", 0.75, time=90_000.0),
    )
    buckets = fold.timeline.buckets
    cells = {("mail", "inbox"): Cell(2, 1, 0.75), ("mail", "claims"): Cell(1, 0, 0.0)}
    assert buckets[MINUTE] == Bucket(cells, explored=1, expected=0.9)
    assert buckets[Place(60, 121)].cells == {("", "inbox"): Cell(1, 0, 0.0)}
    assert buckets[Place(1800, 4)].cells == cells | {("", "inbox"): Cell(1, 0, 0.0)}
    assert {place.length for place in buckets} == set(LENGTHS)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([reward("d1", 1.0), reward("d1", 0.25)], Bucket({("mail", "inbox"): Cell(1, 1, 0.25)}, expected=0.9)),
        ([reward("d1", 1.0), reward("d1", None)], Bucket({("mail", "inbox"): Cell(1, 0, 0.0)}, dropped=1)),
        ([reward("d1", None)], Bucket({("mail", "inbox"): Cell(1)}, dropped=1)),
        ([Timeout(time=9.0, decision_id="d1")], Bucket({("mail", "inbox"): Cell(1)}, unanswered=1)),
        ([Cancellation(time=9.0, decision_id="d1", reason="gone")], Bucket({("mail", "inbox"): Cell(1)}, dropped=1)),
        (
            [completion("d1"), Timeout(time=9.0, decision_id="d1"), reward("d1", 1.0, late=True)],
            Bucket({("mail", "inbox"): Cell(1, 1, 1.0)}, expected=0.9),
        ),
    ],
)
def test_a_request_is_in_one_state(contexts: ContextMap, events: list[Event], expected: Bucket) -> None:
    fold = folded(contexts, asked("d1"), *events, rules=FeedbackRules(learn_late=True))
    assert fold.timeline.buckets[MINUTE] == expected


def test_old_buckets_make_room_and_do_not_come_back(contexts: ContextMap) -> None:
    most = LENGTHS[60]
    fold = folded(contexts, *(asked(f"d{i}", at=60.0 * i) for i in range(most)))
    fold.clear()
    events: list[Event] = [asked("new", at=60.0 * most), asked("old", at=59.0), reward("d0", 1.0)]
    for event in events:
        fold.apply(event, {"d0": (asked("d0", at=0.0), None)})
    minutes = sorted(place.number for place in fold.timeline.buckets if place.length == 60)
    assert minutes == list(range(1, most + 1))
    assert f"{TIMELINE}60/0" in fold.gone
    assert f"{TIMELINE}60/0" not in fold.changed()


def test_a_bucket_names_so_many_pairs_and_sums_up_the_rest(contexts: ContextMap) -> None:
    asking = [asked(f"d{i}", task=f"task {i}") for i in range(MOST_CELLS + 3)]
    fold = folded(contexts, *asking, reward("d0", 1.0), reward(f"d{MOST_CELLS}", 1.0))
    cells = fold.timeline.buckets[MINUTE].cells
    assert len(cells) == MOST_CELLS + 1
    assert (cells[("task 0", "inbox")], cells[REST]) == (Cell(1, 1, 1.0), Cell(3, 1, 1.0))


def test_it_goes_on_from_what_is_stored(contexts: ContextMap) -> None:
    """Committed after every event or after all: the same bytes. Messy feedback included."""
    folding, decisions = Folding(contexts, CONFIG), dict[str, Decision]()
    blobs, rows = dict[str, bytes](), dict[str, LedgerRow]()
    for event in EVENTS:
        if isinstance(event, Decision):
            decisions[event.id] = event
        fold = folding.start(blobs)
        fold.apply(event, {id_: (one, rows.get(id_)) for id_, one in decisions.items()})
        rows |= fold.rows
        blobs = {name: data for name, data in (blobs | fold.changed()).items() if name not in fold.gone}
    whole = folded(contexts, *EVENTS).changed()
    kept = {name: data for name, data in whole.items() if name.startswith(TIMELINE)}
    assert kept
    assert {name: data for name, data in blobs.items() if name.startswith(TIMELINE)} == kept


async def test_the_service_shows_it(world: World) -> None:
    answers = [await world.ask(f"{i}: open the inbox", metadata={"task": "mail"}) for i in range(3)]
    await world.say({"decision_id": answers[0]["id"], "reward": 1.0}, {"decision_id": answers[1]["id"], "reward": 0.5})
    await world.fold()
    (found,) = await world.get("/v1/timeline?seconds=43200")
    assert (found["requests"], found["rewarded"], found["waiting"], found["success"]) == (3, 2, 1, 0.75)
    assert found["start"] <= time.time() < found["start"] + found["seconds"]
    low, high = wilson(1.5, 2)
    assert found["success_interval"] == [low, high]
    expected = found["regret"] + 0.75
    best = [max(score["mean"] for score in (await scores_of(world, answer["id"]))) for answer in answers[:2]]
    assert expected == pytest.approx(sum(min(1.0, mean) for mean in best) / 2)
    assert found["regret_interval"] == [pytest.approx(expected - high), pytest.approx(expected - low)]
    assert found["cells"] == [{"task": "mail", "arm": "inbox", "requests": 3, "rewarded": 2, "reward": 1.5}]


async def scores_of(world: World, decision_id: str) -> list[dict[str, float]]:
    scores: list[dict[str, float]] = (await world.get(f"/v1/decisions/{decision_id}"))["decision"]["scored"]
    return scores


async def test_it_survives_a_learner_and_follows_a_new_name(make_world: MakeWorld) -> None:
    world = await make_world()
    await world.ask("open the inbox")
    await world.fold()
    await world.store.change_arm(ArmRenamed(time=time.time(), arm="inbox", to="mail"))
    await world.learner.start(world.registry)
    await world.ask("open the inbox")
    await world.fold()
    (found,) = await world.get("/v1/timeline?seconds=43200")
    assert [(cell["arm"], cell["requests"]) for cell in found["cells"]] == [("mail", 2)]


async def test_a_length_is_one_that_is_kept(world: World) -> None:
    response = await world.http.get("/v1/timeline?seconds=61")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "seconds")
    assert "61, expected one of 5" in response.json()["error"]["message"]
