"""The bytes behind tokens: what log-probabilities and grammars speak of. Read when first needed: it takes a second."""

from functools import cached_property

import torch
from llguidance import LLTokenizer
from transformers import PreTrainedTokenizerBase

from services.engine.base import TokenLogprob
from services.engine.grammar import Grammars


class Vocabulary:
    """The `size` tokens that a model has logits for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, size: int) -> None:
        self._tokenizer = tokenizer
        self._size = size

    @cached_property
    def grammars(self) -> Grammars:
        """JSON schemas over these tokens."""
        return Grammars(self._tokens)

    def prepare(self) -> None:
        """Read the tokens now, so that the engine's thread need not."""
        self._bytes(0)

    def told(self, logits: torch.Tensor, token: int, top: int) -> TokenLogprob:
        """The token among logits [vocabulary], and the `top` likeliest ones."""
        logprobs = torch.log_softmax(logits.float(), -1)
        best, tokens = (result.tolist() for result in logprobs.topk(top))
        others = tuple((self._bytes(each), value) for each, value in zip(tokens, best, strict=True))
        return TokenLogprob(self._bytes(token), float(logprobs[token]), others)

    def _bytes(self, token: int) -> bytes:
        return self._tokens.decode_bytes([token])

    @cached_property
    def _tokens(self) -> LLTokenizer:
        text = self._tokenizer.backend_tokenizer.to_str()
        return LLTokenizer(text, n_vocab=self._size, eos_token=self._tokenizer.eos_token_id)
