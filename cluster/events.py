"""What happens to requests and arms, as immutable values, and their form in the event stream.

An event carries its own time (unix seconds, given by the caller); nothing here reads a clock, so that a fold over
the stream gives the same result whenever it is run.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

Id = Annotated[str, Field(min_length=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Mode = Literal["online", "shadow", "frozen"]
"""online: the policy serves and learns; shadow: the supervised one serves; frozen: it serves on beliefs that stand."""


class Record(BaseModel):
    """A frozen value that refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArmScore(Record):
    """How one eligible arm stood when a decision was taken; `score` = mean + α·width − c·cost_ms."""

    arm: str
    mean: float
    width: float
    cost_ms: float
    score: float
    gate: float | None = None


class EpisodeStep(Record):
    """Where a decision stands in its episode, and what the episode's coin leaves open after it.

    `number` counts from 1. `branch` is how the coin fell, `kept` the arm that served first, `masses` the probability of
    every branch that would have led to the same arms so far: their sum is the trajectory's propensity, the product of
    its steps' (policies/episodes.py). `coordinates` is the convention that the episode's arms have to share.
    """

    number: Annotated[int, Field(ge=1)]
    kept: str
    branch: str
    masses: dict[str, float]
    coordinates: str


class Basis(Record):
    """The beliefs that a decision was taken on: what was folded up to `position`, and own later decisions.

    With `frozen` they are those of the last freezing up to there, and own decisions do not count.
    `pending` of those counted, by then known to be in the stream; `latest` are the stream ids of the last of them, in
    the order in which they became known, since answers may come back in another order than that of the stream.
    """

    follower: str
    position: str
    pending: int
    latest: list[str]
    frozen: bool = False


class Mixture(Record):
    """What the gates of a mixture were drawn from: the `most` largest supervised gates among the adapters `members`."""

    members: list[str]
    most: Annotated[int, Field(ge=1)]


CUSTOM = "custom"
"""The arm of decisions whose gates the client gave. They teach nothing: they are no choice of the router's."""


class Decision(Record):
    """One request given to one arm, with everything needed to explain, replay and evaluate it.

    `propensity` is exact given the earlier decisions of the episode, which `step` sums up; a decision by itself has no
    step. `propensity_error` is its standard error as an estimate of the ideal policy's, where that has no closed form.
    `tuning` holds the policy's settings that may change without a restart, as they were. `adapters` maps each adapter
    that served to its content hash; `mixture` is there if a mixture did, `layer_gates` if it had other gates in each
    decoder block. `router` is the fingerprint of the context
    map, `features` the raw h as float16 bytes; they travel as a binary field of their own, never in the JSON.
    """

    type: Literal["decision"] = "decision"
    time: float
    id: Id
    episode: Id | None = None
    task: str | None = None
    tenant: str | None = None
    key: str = "anonymous"
    model: str
    arm: str
    gates: dict[str, float]
    mixture: Mixture | None = None
    layer_gates: dict[str, tuple[float, ...]] = {}
    adapters: dict[str, str]
    propensity: Annotated[float, Field(gt=0, le=1)]
    propensity_error: Annotated[float, Field(ge=0)] = 0.0
    explored: bool
    best: str = ""
    supervised: str
    policy: str
    policy_version: int
    mode: str
    tuning: dict[str, float] = {}
    router: str
    eligible: list[str]
    costs: list[float] = []
    resident: list[str]
    scored: list[ArmScore]
    step: EpisodeStep | None = None
    basis: Basis | None = None
    features: bytes = Field(default=b"", exclude=True, repr=False)


class Completion(Record):
    """The decision's answer was generated; `adapters` maps each adapter that served to its content hash."""

    type: Literal["completion"] = "completion"
    time: float
    decision_id: Id
    latency_ms: float
    first_token_ms: float | None = None
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    replica: str | None = None
    adapters: dict[str, str] = {}


class Feedback(Record):
    """A reward for a decision or for every decision of an episode; with a tenant, for its own decisions only.

    `source` is a name within `key`, the key that posted it: no key can speak for another.
    `late`, `previous` and `members` are filled in by the store, against what it knows when the feedback arrives:
    `previous` is the reward that this source gave before, `members` the decisions that the feedback covers.
    """

    type: Literal["feedback"] = "feedback"
    time: float
    decision_id: Id | None = None
    episode_id: Id | None = None
    source: str
    reward: Probability | None = None
    terminated: bool = False
    truncated: bool = False
    comment: str | None = None
    key: str = "anonymous"
    tenant: str | None = None
    late: bool = False
    previous: float | None = None
    members: list[str] = []

    @property
    def label(self) -> str:
        """Whose word it is: the key, and the name that the key gave to its source unless that is its own."""
        return self.key if self.source == self.key else f"{self.key}/{self.source}"

    @model_validator(mode="after")
    def _one_target_with_an_outcome(self) -> Self:
        if (self.decision_id is None) == (self.episode_id is None):
            given = f"decision_id={self.decision_id!r} and episode_id={self.episode_id!r}"
            raise ValueError(f"expected exactly one of decision_id and episode_id, got {given}")
        if self.reward is None and not self.truncated:
            raise ValueError("reward is None: expected a number in [0, 1] unless truncated is true")
        return self


class Cancellation(Record):
    """The decision's generation failed or its client left: no outcome will say anything about the arm."""

    type: Literal["cancellation"] = "cancellation"
    time: float
    decision_id: Id
    reason: str


class Timeout(Record):
    """The reward window of the decision closed without feedback. Its episode had `members` decisions by then."""

    type: Literal["timeout"] = "timeout"
    time: float
    decision_id: Id
    members: int = 1


class ArmRegistered(Record):
    """An arm may be chosen from now on, or its adapter has new weights.

    `serves` is what it turns on: `base`, an adapter or a mixture template; none: what has the arm's own name. `like`:
    arms that the trained router knows, and that a new one is expected to earn as.
    """

    type: Literal["arm_registered"] = "arm_registered"
    time: float
    arm: str
    serves: str | None = None
    adapter_hash: str | None = None
    like: list[str] = []


class ModeChanged(Record):
    """An operator has decided who serves from now on."""

    type: Literal["mode_changed"] = "mode_changed"
    time: float
    mode: Mode
    by: str


class GuardReset(Record):
    """An operator lets the guard begin anew: its alarm is over, and what it had seen is forgotten."""

    type: Literal["guard_reset"] = "guard_reset"
    time: float
    by: str


class DriftFound(Record):
    """The reward of an arm's decision number `tick` showed that the arm has changed; κ is `kappa` from then on.

    `worse`: it earned less than was believed. `restored`: the prior explains it again. The Learner says so once, when
    it first folds that reward; a fold finds the same in the statistics of the arm and takes nothing from this event.
    """

    type: Literal["drift_found"] = "drift_found"
    time: float
    arm: str
    decision_id: Id
    tick: int
    worse: bool
    restored: bool
    kappa: float


class RouterActivated(Record):
    """From now on the trained router with this fingerprint serves, once all evidence is in its contexts."""

    type: Literal["router_activated"] = "router_activated"
    time: float
    router: Id
    by: str


class ArmRemoved(Record):
    """An arm serves no more: an operator took it out, or what it serves is absent, for a `reason` or for good."""

    type: Literal["arm_removed"] = "arm_removed"
    time: float
    arm: str
    absent: bool = False
    reason: str = ""


class ArmFrozen(Record):
    """From now on the router passes the arm over, or no longer does. What it learned stays."""

    type: Literal["arm_frozen"] = "arm_frozen"
    time: float
    arm: str
    frozen: bool


class ArmRenamed(Record):
    """An arm has another name from now on; what is known of it goes along."""

    type: Literal["arm_renamed"] = "arm_renamed"
    time: float
    arm: str
    to: Id


class Erased(Record):
    """An event whose content was deleted."""

    type: Literal["erased"] = "erased"
    time: float = 0.0


class Forgotten(Record):
    """What a request to forget named is deleted: the decisions and everything said of them, or a key's words too.

    Exactly one of tenant, decision_id and key is given. `decisions` and `events` count what was deleted.
    """

    type: Literal["forgotten"] = "forgotten"
    time: float
    by: str
    tenant: str | None = None
    decision_id: str | None = None
    key: str | None = None
    decisions: int = 0
    events: int = 0


Event = Annotated[
    Decision
    | Completion
    | Feedback
    | Cancellation
    | Timeout
    | ArmRegistered
    | ArmRemoved
    | ArmFrozen
    | ArmRenamed
    | ModeChanged
    | GuardReset
    | DriftFound
    | Forgotten
    | Erased
    | RouterActivated,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def encode(event: Event) -> dict[bytes, bytes]:
    """The stream fields of an event: type, data (JSON) and, for a decision that has them, features."""
    fields = {b"type": event.type.encode(), b"data": event.model_dump_json().encode()}
    if isinstance(event, Decision) and event.features:
        fields[b"features"] = event.features
    return fields


def decode(fields: Mapping[bytes, bytes]) -> Event:
    """The event of the given stream fields; ValueError (pydantic's) if they do not hold one."""
    event = _EVENT.validate_json(fields[b"data"])
    if b"features" in fields:
        return event.model_copy(update={"features": fields[b"features"]})
    return event
