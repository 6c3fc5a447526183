"""What becomes of one request: a call, what was considered for it, and the call with its decision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cluster.events import Decision, EpisodeStep
from policies.base import Choice, Context
from services.engine.base import Gate, Prompt, Sampling
from services.model.report import Encoded
from services.routing.generation import Generation
from services.routing.modes import Serving
from services.routing.offers import Offer
from services.schemas import RoutingInfo


@dataclass(frozen=True)
class Call:
    """One request to route, as the gateway understood it.

    Mixtures may draw from the adapters of the arms `members`. `gates` are the client's own: then nothing is chosen.
    """

    prompt: Prompt
    eligible: tuple[str, ...]
    sampling: Sampling
    members: tuple[str, ...] = ()
    gates: Mapping[str, float] | None = None
    episode: str | None = None
    task: str | None = None
    tenant: str | None = None
    key: str = "anonymous"
    request_key: str | None = None
    is_retry: bool = False


class Considered(NamedTuple):
    """A choice that has not become a decision. `resident`: adapters that some replica serves without a page-in."""

    choice: Choice
    offer: Offer
    context: Context
    encoded: Encoded
    step: EpisodeStep | None
    policy: str
    version: int
    mode: Serving
    resident: list[str]


class Routed(NamedTuple):
    """A request with its decision, fresh unless an earlier attempt of the request had got it already.

    The decision is `durable` unless the store is away: then this Router keeps it until the store is back.
    """

    call: Call
    decision: Decision
    fresh: bool
    durable: bool = True
    encoded_at: str = ""  # the replica that has its screen encoded
    generation: Generation | None = None  # its answer, if that has begun

    @property
    def gates(self) -> Mapping[str, Gate]:
        """What the engine serves."""
        return self.decision.layer_gates or self.decision.gates

    @property
    def info(self) -> RoutingInfo:
        """What the client is told."""
        fields = ["arm", "gates", "policy", "policy_version", "propensity", "explored", "supervised"]
        return RoutingInfo(
            decision_id=self.decision.id,
            resident=set(self.decision.gates) <= set(self.decision.resident),
            durable=self.durable,
            **{name: getattr(self.decision, name) for name in fields},
        )
