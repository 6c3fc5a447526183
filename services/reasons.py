"""What is logged of a choice besides the arm: how the others stood."""

import numpy as np

from cluster.events import CUSTOM, ArmScore
from cluster.settings import TUNABLE
from policies import PolicyConfig
from policies.base import Choice, Context


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


def best(choice: Choice) -> str:
    """What the policy would have served without exploring."""
    return choice.arms[int(choice.scores.argmax())] if choice.explored else choice.arm


def tuning(config: PolicyConfig) -> dict[str, float]:
    """What of the policy's configuration may change while it serves."""
    return {name: getattr(config, name) for name in sorted(TUNABLE["router"]) if hasattr(config, name)}
