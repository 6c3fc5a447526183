"""The same five examples under a soft mixture and under PEFT."""

from collections.abc import Mapping

import torch

from services.engine.base import Gate
from services.training.mixture import SoftMixture
from tests.services.engine.oracle import Oracle
from tests.services.engine.prompts import PROMPTS
from tests.services.training.data import example

TARGETS = ["[3, 4]", "Click on the red box.", "a", "[12, 999]", "left_click"]


class Case:
    """A model with its adapters, as the product trains it and as transformers and PEFT compute it."""

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle
        self.examples = [example(prompt, t) for prompt, t in zip(PROMPTS.values(), TARGETS, strict=True)]
        self.arms = ["base", *oracle.adapters]

    def mixture(self) -> SoftMixture:
        """A new one."""
        return SoftMixture(self.oracle.checkpoint, self.oracle.adapters, self.arms, self.examples)

    def row(self, **gates: float) -> list[float]:
        """Gates in the order of the arms."""
        return [gates.get(arm, 0.0) for arm in self.arms]

    def expected(self, row: int, gates: Mapping[str, Gate]) -> float:
        """Cross entropy of the target by transformers and PEFT."""
        _, tokenizer, _ = self.oracle.checkpoint
        answer = [*tokenizer(self.examples[row].target).input_ids, tokenizer.eos_token_id]
        logits = self.oracle.logits(self.examples[row].prompt, gates, answer)[:-1]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))
