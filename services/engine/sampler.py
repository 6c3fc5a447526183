"""Drawing the next token of one request."""

import torch

from services.engine.base import Sampling


class Sampler:
    """Greedy at temperature 0, else from the smallest set of tokens whose probability reaches `top_p`.

    With a seed the draws repeat, whatever else is in the batch.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed % 2**63)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is drawn."""
        return self._sampling.temperature == 0

    def draw(self, logits: torch.Tensor) -> int:
        """The next token id for logits [vocabulary]."""
        if self.greedy:
            return int(logits.argmax())
        gaps = logits.double().cpu() - logits.max().item()  # at most 0, so that no temperature is too small
        probabilities = torch.softmax(gaps / self._sampling.temperature, -1)
        ranked, tokens = probabilities.sort(descending=True)
        ranked[ranked.cumsum(-1) - ranked >= self._sampling.top_p] = 0
        return int(tokens[torch.multinomial(ranked, 1, generator=self._generator)])
