"""What is logged of a choice: the arm, how the others stood, and all that it takes to choose again."""

import time

import numpy as np

from cluster.events import CUSTOM, ArmScore, Decision
from cluster.settings import TUNABLE
from policies import PolicyConfig
from policies.base import Choice, Context
from services.routing.call import Call, Considered
from services.routing.decider import Decider


def record(id_: str, call: Call, considered: Considered, decider: Decider, *, base: str, top: int) -> Decision:
    """The decision of a call as the log has it, with the `top` arms by score. `base` is the model's name."""
    choice, offer = considered.choice, considered.offer
    return Decision(
        id=id_,
        time=time.time(),
        episode=call.episode,
        task=call.task,
        tenant=call.tenant,
        key=call.key,
        model=base,
        arm=choice.arm,
        gates=offer.gates,
        mixture=offer.mixture,
        layer_gates=offer.layer_gates,
        adapters=decider.arms.fingerprints(offer.gates),
        propensity=choice.propensity,
        propensity_error=choice.error,
        explored=choice.explored,
        best=_best(choice),
        supervised=choice.supervised,
        policy=considered.policy,
        policy_version=considered.version,
        mode=considered.mode,
        tuning=_tuning(decider.policy.config),
        router=decider.contexts.fingerprint,
        eligible=list(choice.arms),
        costs=choice.costs.tolist(),
        resident=considered.resident,
        scored=arm_scores(choice, considered.context, top),
        step=considered.step,
        basis=None if choice.arm == CUSTOM else decider.snapshots.basis,
        features=considered.encoded.features,
    )


def arm_scores(choice: Choice, context: Context, top: int) -> list[ArmScore]:
    """The `top` arms by score, and the chosen one wherever it stands; none where nothing was chosen."""
    if choice.arm == CUSTOM:
        return []
    order = np.argsort(-choice.scores, kind="stable").tolist()
    chosen = choice.arms.index(choice.arm)
    kept = order[:top] if chosen in order[:top] else [*order[: top - 1], chosen]
    return [
        ArmScore(
            arm=choice.arms[i],
            mean=float(choice.means[i]),
            width=float(choice.widths[i]),
            cost_ms=float(choice.costs[i]),
            score=float(choice.scores[i]),
            gate=context.gates.get(choice.arms[i]),
        )
        for i in kept
    ]


def _best(choice: Choice) -> str:
    """What the policy would have served without exploring."""
    return choice.arms[int(choice.scores.argmax())] if choice.explored else choice.arm


def _tuning(config: PolicyConfig) -> dict[str, float]:
    """What of the policy's configuration may change while it serves."""
    return {name: getattr(config, name) for name in sorted(TUNABLE["router"]) if hasattr(config, name)}
