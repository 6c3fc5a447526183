"""The growing answer of one choice: tokens in, text out, and when it ends."""

from collections.abc import Callable

from services.engine.base import Delta, FinishReason, Sampling, TokenLogprob

_UNFINISHED = "\ufffd"  # a byte sequence that needs another token


class Answer:
    """Collects tokens and hands out the text that is final. Characters decode on their own, as in byte-level BPE."""

    def __init__(
        self,
        prompt_tokens: int,
        sampling: Sampling,
        stop_tokens: frozenset[int],
        decode: Callable[[list[int]], str],
        choice: int = 0,
    ) -> None:
        self._prompt_tokens = prompt_tokens
        self._sampling = sampling
        self._stop_tokens = stop_tokens
        self._decode = decode
        self._choice = choice
        self._text = ""
        self._open: list[int] = []  # tokens whose text is not whole
        self._told: list[tuple[int, TokenLogprob]] = []  # where a token's text begins, until that is sent
        self._sent = 0
        self._generated = 0
        self._hold = max((len(stop) for stop in sampling.stop), default=1) - 1
        self.finished: FinishReason | None = None

    def add(self, token: int, told: TokenLogprob | None = None) -> Delta:
        """Take the next token; the delta's text may be empty while a character or a stop string is incomplete.

        What is `told` of a token goes out with the beginning of its text; nothing is told of what the text leaves out.
        """
        self._generated += 1
        if token in self._stop_tokens:
            self.finished = "stop"
        else:
            self._open.append(token)
            if told:
                self._told.append((len(self._text), told))
        text = self._text + self._decode(self._open)
        if not text.endswith(_UNFINISHED):
            self._text, self._open = text, []
        if found := [at for stop in self._sampling.stop if (at := text.find(stop)) >= 0]:
            text, self.finished = text[: min(found)], "stop"
            self._told = [(start, each) for start, each in self._told if start < len(text)]
        elif self._generated >= self._sampling.max_tokens and not self.finished:
            self.finished = "length"
        return self._delta(text)

    def _delta(self, text: str) -> Delta:
        if self.finished:
            told = tuple(each for _, each in self._told)
            counts = (self._prompt_tokens, self._generated)
            return Delta(text[self._sent :], self.finished, *counts, choice=self._choice, logprobs=told)
        ready = len(text) - self._hold if not text.endswith(_UNFINISHED) else self._sent
        piece = text[self._sent : max(ready, self._sent)]
        self._sent += len(piece)
        return Delta(piece, choice=self._choice, logprobs=self._begun())

    def _begun(self) -> tuple[TokenLogprob, ...]:
        if not self._told:
            return ()
        begun = tuple(each for start, each in self._told if start < self._sent)
        self._told = self._told[len(begun) :]
        return begun
