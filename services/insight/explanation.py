"""Why a stored decision was taken: what was known then, what it is like, what would be done now, what became of it."""

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel

from cluster.events import CUSTOM, ArmScore, Decision
from cluster.store import StoredDecision
from policies.base import Choice, Context
from services.insight.inspection import DecisionView
from services.routing.decider import Decider
from services.routing.offers import offers
from services.routing.record import arm_scores
from services.schemas import Explanation

_NEAREST = 5


class DecisionExplanation(BaseModel):
    """A decision and its reasons.

    `nearest` are the labels and distances of the supervised examples that it is most like. They and `now` are missing
    where the trained router is another one by now. `names` tells what arms that were renamed since are called now.
    """

    reason: str
    outcome: str
    stored: DecisionView
    names: dict[str, str]
    nearest: list[tuple[str, float]]
    now: Explanation | None


def explain(decider: Decider, stored: StoredDecision) -> DecisionExplanation:
    """The explanation of a decision, by the arms and beliefs of this decider for what would be done now."""
    decision = stored.decision
    known = len(decision.features) == 2 * decider.contexts.input_dimension
    h = np.frombuffer(decision.features, np.float16)
    context = decider.contexts.map(h)._replace(task=decision.task) if known else None
    return DecisionExplanation(
        reason=reason(decision, decider.policy.config.episode_margin),
        outcome=outcome(stored),
        stored=DecisionView.of(stored),
        names={arm: now for arm in decision.eligible if (now := decider.arms.current(arm)) != arm},
        nearest=decider.contexts.supervision.nearest(context.x, _NEAREST) if context else [],
        now=_now(decider, decision, context) if context else None,
    )


def explanation_of(
    choice: Choice, context: Context, *, gates: dict[str, float], policy: str, version: int, resident: list[str]
) -> Explanation:
    """What is told of a choice, with all its arms by score; `version` is that of the beliefs."""
    return Explanation(
        arm=choice.arm,
        gates=gates,
        propensity=choice.propensity,
        propensity_error=choice.error,
        explored=choice.explored,
        supervised=choice.supervised,
        policy=policy,
        policy_version=version,
        resident=resident,
        arms=arm_scores(choice, context, len(choice.arms)),
    )


def reason(decision: Decision, margin: float) -> str:
    """One sentence: why this arm served."""
    served, scores = decision.arm, {one.arm: one for one in decision.scored}
    others = [one for one in decision.scored if one.arm != served]
    if served == CUSTOM:
        return (
            f"served the client's own gates: {', '.join(f'{name} {gate:g}' for name, gate in decision.gates.items())}"
        )
    if len(decision.eligible) == 1:
        return f"served {served} because it was the only arm that might serve"
    own, best = scores[served], max(others, key=lambda one: one.score, default=None)
    ahead = own.score - best.score if best else 0.0
    leader = best.arm if best else "the best arm"
    if decision.explored:
        follows = ", as the supervised router would" if served == decision.supervised else ""
        why = f"chance led away from {leader}{follows} (propensity {decision.propensity:.3f})"
    elif ahead >= 0:
        why = f"its score was best: {_score(own)}" + (f", {ahead:.3f} above {leader}" if best else "")
    elif decision.step is not None and decision.step.number > 1:
        gain = best.mean - own.mean if best else 0.0
        why = f"its episode goes by means and changes for a gain above {margin:g}: that of {leader} was {gain:+.3f}"
    else:
        why = f"the policy {decision.policy} always does"
    return f"served {served} because {why}"


def outcome(stored: StoredDecision) -> str:
    """One sentence: what became of the decision so far."""
    said = ", ".join(
        f"{source} says {'cut off' if reward is None else reward}"
        for source, (reward, _) in stored.observations.items()
    )
    status = stored.ledger.status.replace("_", " ") if stored.ledger else "not folded yet"
    return f"{status}: {said}" if said else status


def _score(one: ArmScore) -> str:
    return f"{one.score:.3f} (mean {one.mean:.3f}, width {one.width:.3f}, cost {one.cost_ms:.0f} ms)"


def _now(decider: Decider, decision: Decision, context: Context) -> Explanation | None:
    """What the policy would choose now among the same arms at the same costs, for a request by itself.

    Mixtures draw from all adapters that are routed to.
    """
    names = dict.fromkeys(decider.arms.current(arm) for arm in decision.eligible)
    there = tuple(arm for arm in names if arm in decider.arms)
    eligible = tuple(arm for arm in there if arm in decider.arms.routed) or there
    offered = offers(eligible, decider.arms, context.gates, decider.arms.mixable(decider.arms.names))
    if not offered:
        return None
    named = decider.policy.posterior.named(context)
    choice = decider.policy.decide(named, eligible=tuple(offered), costs=_costs(decider, decision), seed=decision.id)
    return explanation_of(
        choice,
        named,
        gates=offered[choice.arm].gates,
        policy=decider.policy.name,
        version=decider.snapshots.version,
        resident=decision.resident,
    )


def _costs(decider: Decider, decision: Decision) -> Mapping[str, float]:
    return {decider.arms.current(arm): cost for arm, cost in zip(decision.eligible, decision.costs, strict=False)}
