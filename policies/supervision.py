"""What the supervised stage left behind for policies that need more of it than gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from policies import checks
from policies.checks import Array, Rows

_NEVER = -50.0  # a logit whose sigmoid is 0 for every purpose


@dataclass(frozen=True, eq=False)
class Supervision:
    """Labelled examples and Poly's table of tasks; either may be empty.

    X [n,d] contexts with labels [n], indices into `arms`, of the arm that is right for each. logits [T,S,A] of the
    `tasks`, of S splits of the model, and of the A `arms`.
    """

    arms: tuple[str, ...] = ()
    X: Array = field(default_factory=lambda: np.zeros((0, 0)))
    labels: Rows = field(default_factory=lambda: np.zeros(0, dtype=np.intp))
    tasks: tuple[str, ...] = ()
    logits: Array = field(default_factory=lambda: np.zeros((0, 0, 0)))

    def __post_init__(self) -> None:
        checks.array("X", self.X, (len(self.labels), None))
        checks.array("logits", self.logits, (len(self.tasks), None, len(self.arms) if self.tasks else None))
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.arms):
            raise ValueError(
                f"labels run from {self.labels.min()} to {self.labels.max()}, expected 0 to {len(self.arms) - 1}"
            )

    def with_examples(self, X: Array, labels: Sequence[str]) -> Self:
        """These examples X [n,d] with the arm that is right for each, and the table of tasks as it is."""
        arms = (*self.arms, *sorted(set(labels) - set(self.arms)))
        logits = np.pad(self.logits, ((0, 0), (0, 0), (0, len(arms) - self.logits.shape[2])), constant_values=_NEVER)
        indices = np.array([arms.index(label) for label in labels], dtype=np.intp)
        return replace(self, arms=arms, X=checks.array("X", X, (len(labels), None)), labels=indices, logits=logits)

    def names(self) -> dict[str, list[str]]:
        """What is saved of it besides arrays; nothing of what is empty."""
        named = {"supervision_arms": list(self.arms), "tasks": list(self.tasks)}
        return {name: value for name, value in named.items() if value}

    def arrays(self) -> dict[str, Array]:
        """The arrays that are saved; nothing of what is empty."""
        examples = {"examples": self.X, "labels": self.labels.astype(np.float64)} if len(self.labels) else {}
        return examples | ({"task_logits": self.logits} if self.tasks else {})

    @classmethod
    def parse(cls, names: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        """What `names` and `arrays` gave."""
        empty = cls()
        return cls(
            tuple(names.get("supervision_arms", ())),
            arrays.get("examples", empty.X),
            arrays["labels"].astype(np.intp) if "labels" in arrays else empty.labels,
            tuple(names.get("tasks", ())),
            arrays.get("task_logits", empty.logits),
        )

    def columns(self, values: Array, arms: Sequence[str]) -> Array:
        """Values [B,K] of `arms`, from values [B,A] of these arms; 0 for an arm that is not among them."""
        columns = np.zeros((len(values), len(arms)))
        known = [k for k, arm in enumerate(arms) if arm in self.arms]
        columns[:, known] = values[:, [self.arms.index(arms[k]) for k in known]]
        return columns

    def nearest(self, x: Array, k: int) -> list[tuple[str, float]]:
        """The labels of the k examples nearest to x [d], with their Euclidean distances, nearest first."""
        distances = np.linalg.norm(self.X - x, axis=1)
        order = np.argsort(distances, kind="stable")[:k]
        return [(self.arms[self.labels[i]], float(distances[i])) for i in order]
