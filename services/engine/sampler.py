"""Drawing the next token of one request."""

from collections import Counter

import torch

from services.engine.base import Sampling
from services.engine.grammar import Grammar


class Sampler:
    """Greedy at temperature 0, else from the smallest set of tokens whose probability reaches `top_p`.

    With a seed the draws repeat, whatever else is in the batch. A grammar rules tokens out before anything else.
    """

    def __init__(self, sampling: Sampling, grammar: Grammar | None = None) -> None:
        self._sampling = sampling
        self._grammar = grammar
        self._drawn: Counter[int] = Counter()
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is drawn, whatever was drawn before."""
        return self._sampling.temperature == 0 and not self._penalises and not self._grammar

    def draw(self, logits: torch.Tensor) -> int:
        """The next token id for logits [vocabulary]. ValueError: the grammar cannot go on."""
        if self.greedy:
            return int(logits.argmax())
        token = self._draw(self._penalised(self._ruled(logits.double().cpu())))
        self._drawn[token] += 1
        if self._grammar:
            self._grammar.take(token)
        return token

    def _ruled(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.where(self._grammar.allowed(len(logits)), -torch.inf) if self._grammar else logits

    @property
    def _penalises(self) -> bool:
        return bool(self._sampling.frequency_penalty or self._sampling.presence_penalty)

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._penalises or not self._drawn:
            return logits
        counts = torch.tensor(list(self._drawn.values()), dtype=logits.dtype)
        penalties = self._sampling.frequency_penalty * counts + self._sampling.presence_penalty
        return logits.index_add(0, torch.tensor(list(self._drawn)), -penalties)

    def _draw(self, logits: torch.Tensor) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        gaps = logits - logits.max()  # at most 0, so that no temperature is too small
        probabilities = torch.softmax(gaps / self._sampling.temperature, -1)
        ranked, tokens = probabilities.sort(descending=True)
        ranked[ranked.cumsum(-1) - ranked >= self._sampling.top_p] = 0
        return int(tokens[torch.multinomial(ranked, 1, generator=self._generator)])
