"""Every event survives the stream, and no event can say what makes no sense."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.events import (
    ArmFrozen,
    ArmRegistered,
    ArmRemoved,
    ArmRenamed,
    ArmScore,
    Cancellation,
    Completion,
    Decision,
    Event,
    Feedback,
    Timeout,
    decode,
    encode,
)
from tests.cluster.conftest import MakeDecision

TEXT = st.text(max_size=12)
ID = st.text(min_size=1, max_size=12)
MAYBE_TEXT = st.none() | TEXT
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
UNIT = st.floats(0, 1)
COUNT = st.integers(0, 2**53)

scores = st.builds(ArmScore, arm=TEXT, mean=NUMBER, width=NUMBER, cost_ms=NUMBER, score=NUMBER, gate=st.none() | NUMBER)
decisions = st.builds(
    Decision,
    time=NUMBER,
    id=ID,
    episode=st.none() | ID,
    task=MAYBE_TEXT,
    tenant=MAYBE_TEXT,
    key=TEXT,
    model=TEXT,
    arm=TEXT,
    gates=st.dictionaries(TEXT, NUMBER, max_size=3),
    adapters=st.dictionaries(TEXT, TEXT, max_size=3),
    propensity=st.floats(0, 1, exclude_min=True),
    explored=st.booleans(),
    supervised=TEXT,
    policy=TEXT,
    policy_version=COUNT,
    mode=TEXT,
    router=TEXT,
    eligible=st.lists(TEXT, max_size=3),
    resident=st.lists(TEXT, max_size=3),
    scored=st.lists(scores, max_size=3),
    features=st.binary(max_size=64),
)
completions = st.builds(
    Completion,
    time=NUMBER,
    decision_id=ID,
    latency_ms=NUMBER,
    first_token_ms=st.none() | NUMBER,
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    finish_reason=TEXT,
    replica=MAYBE_TEXT,
)
truncations = st.builds(
    Feedback,
    time=NUMBER,
    decision_id=ID,
    source=TEXT,
    reward=st.none() | UNIT,
    terminated=st.booleans(),
    truncated=st.just(True),
    comment=MAYBE_TEXT,
    late=st.booleans(),
    previous=st.none() | UNIT,
    members=st.lists(TEXT, max_size=3),
)
episode_rewards = st.builds(Feedback, time=NUMBER, episode_id=ID, source=TEXT, reward=UNIT, key=TEXT)
others = st.one_of(
    st.builds(Cancellation, time=NUMBER, decision_id=ID, reason=TEXT),
    st.builds(Timeout, time=NUMBER, decision_id=ID),
    st.builds(ArmRegistered, time=NUMBER, arm=TEXT, adapter_hash=MAYBE_TEXT),
    st.builds(ArmRemoved, time=NUMBER, arm=TEXT, absent=st.booleans()),
    st.builds(ArmFrozen, time=NUMBER, arm=TEXT, frozen=st.booleans()),
    st.builds(ArmRenamed, time=NUMBER, arm=TEXT, to=ID),
)


@given(st.one_of(decisions, completions, truncations, episode_rewards, others))
def test_every_event_comes_back_as_it_went(event: Event) -> None:
    assert decode(encode(event)) == event


def test_features_travel_outside_the_json(make_decision: MakeDecision) -> None:
    fields = encode(make_decision("d", features=b"\x00\xff"))
    assert fields[b"features"] == b"\x00\xff"
    assert fields[b"type"] == b"decision"
    assert "features" not in json.loads(fields[b"data"])


def test_a_decision_without_features_has_no_field_for_them(make_decision: MakeDecision) -> None:
    assert set(encode(make_decision("d", features=b""))) == {b"type", b"data"}


@pytest.mark.parametrize("targets", [{}, {"decision_id": "d", "episode_id": "e"}])
def test_feedback_needs_exactly_one_target(targets: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="exactly one of decision_id and episode_id"):
        Feedback(time=1, source="s", reward=1, **targets)


@pytest.mark.parametrize("reward", [-0.01, 1.01, float("nan"), float("inf"), None])
def test_feedback_refuses_a_reward_that_is_none_or_out_of_range(reward: float | None) -> None:
    with pytest.raises(ValidationError, match="reward"):
        Feedback(time=1, decision_id="d", source="s", reward=reward)


def test_events_are_frozen_and_closed(make_decision: MakeDecision) -> None:
    decision = make_decision("d")
    with pytest.raises(ValidationError, match="frozen"):
        decision.__setattr__("arm", "inbox")
    with pytest.raises(ValidationError, match="colour"):
        make_decision("d", colour="red")


@pytest.mark.parametrize(
    ("field", "value"), [("id", ""), ("episode", ""), ("propensity", 0.0), ("propensity", 1.1), ("time", float("nan"))]
)
def test_a_decision_names_the_field_that_is_wrong(make_decision: MakeDecision, field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        make_decision("d", **{field: value})


def test_decode_refuses_what_is_no_event() -> None:
    with pytest.raises(ValueError, match="surprise"):
        decode({b"type": b"surprise", b"data": b'{"type": "surprise"}'})
