"""Who runs next: admission, chunked prompts, preemption, and a fair turn for every adapter."""

from collections import Counter
from typing import NamedTuple

from services.engine.routed.kv import KvArena
from services.engine.routed.pages import PageWindow
from services.engine.routed.sequence import Sequence


class Chunk(NamedTuple):
    """The next `tokens` tokens of a sequence whose prompt is read."""

    sequence: Sequence
    tokens: int

    @property
    def last(self) -> bool:
        """Whether it ends what is known of its sequence, so that the next token can be drawn."""
        return self.tokens == self.sequence.pending


class Plan(NamedTuple):
    """One step: chunks of prompts, then one token of every row that decodes."""

    chunks: list[Chunk]
    decoding: list[Sequence]
    rows: list[Sequence]  # those that decode, and others whose rows lie between theirs


class Scheduler:
    """Owns the rows of the arena and the pins of the window.

    Waiting sequences are admitted from the adapters that were served least so far (tokens, counted as in virtual token
    counter scheduling, arXiv 2401.00588), in order of arrival within equals. The first in line is never passed by.
    """

    def __init__(self, arena: KvArena, window: PageWindow, *, chunk: int, whole: bool = False) -> None:
        """`whole`: a plan has all rows, not those alone that decode and what lies between."""
        self._whole = whole
        self._arena = arena
        self._window = window
        self._chunk = chunk
        self._waiting: list[Sequence] = []
        self._served: dict[tuple[str, ...], int] = {}
        self._arrivals = 0
        self.rows: list[Sequence] = []  # by row of the arena
        self.preemptions = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self.rows

    @property
    def all(self) -> list[Sequence]:
        """Every sequence that is waiting or running."""
        return [*self.rows, *self._waiting]

    def add(self, sequence: Sequence) -> None:
        """Let a sequence wait for its turn."""
        sequence.arrival = self._arrivals
        self._arrivals += 1
        present = {other.adapters: self._served[other.adapters] for other in self.all}
        floor = min(present.values(), default=0)  # who was away has not saved up turns
        ahead = {adapters: tokens for adapters, tokens in self._served.items() if tokens > floor} if present else {}
        self._served = {sequence.adapters: floor, **ahead, **present}
        self._waiting.append(sequence)

    def fork(self, sequence: Sequence, other: Sequence) -> bool:
        """Let another choice go on from what the sequence has computed of the same prompt, if there is a row for it."""
        if len(self.rows) >= self._arena.rows:
            return False
        assert sequence.row is not None
        self._arena.copy(sequence.row, len(self.rows), sequence.computed)
        self._window.pin(other.gates)
        other.arrival, other.row, other.computed = self._arrivals, len(self.rows), sequence.computed
        self._arrivals += 1
        self.rows.append(other)
        return True

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free what it held. The last row moves into its place."""
        if sequence.row is None:
            self._waiting.remove(sequence)
        else:
            self._release(sequence)

    def schedule(self) -> Plan:
        """Grow rows that are full, then read prompts up to the budget of a step."""
        self._make_room()
        decoding = [sequence for sequence in self.rows if sequence.decoding]
        budget = self._chunk
        chunks = [self._next(s, budget) for s in self.rows if not s.decoding][:1]
        budget -= sum(chunk.tokens for chunk in chunks)
        while budget > 0 and (sequence := self._admit()):
            chunks.append(self._next(sequence, budget))
            budget -= chunks[-1].tokens
        last = max((s.row for s in decoding if s.row is not None), default=-1)
        return Plan(chunks, decoding, self.rows[:] if self._whole else self.rows[: 1 + last])

    def computed(self, sequence: Sequence, tokens: int) -> None:
        """Note that a sequence's next tokens have their keys and values."""
        sequence.computed += tokens
        self._served[sequence.adapters] += tokens

    def check_integrity(self) -> None:
        """Rows are dense and within the arena, and their adapters are pinned."""
        wrong = [(at, sequence.row) for at, sequence in enumerate(self.rows) if sequence.row != at]
        long = [s.computed for s in self.rows if s.computed > self._arena.length]
        if wrong or long or len(self.rows) > self._arena.rows:
            sizes = f"{len(self.rows)} rows of {self._arena.rows}, longer than {self._arena.length}: {long}"
            raise RuntimeError(f"{sizes}; misplaced: {wrong}")
        self._window.check_pins(Counter(adapter for sequence in self.rows for adapter in sequence.gates))
        self._window.check_integrity()

    def _next(self, sequence: Sequence, budget: int) -> Chunk:
        return Chunk(sequence, min(sequence.pending, budget))

    def _admit(self) -> Sequence | None:
        if not self._waiting:
            return None
        sequence = min(self._waiting, key=lambda s: (self._served[s.adapters], s.arrival))
        if not self._window.fits(sequence.gates) or not self._row_for(sequence):
            return None
        self._waiting.remove(sequence)
        self._window.pin(sequence.gates)
        sequence.row = len(self.rows)
        self.rows.append(sequence)
        return sequence

    def _row_for(self, sequence: Sequence) -> bool:
        """Whether there is a free row of the sequence's length, after cutting the arena anew if that makes one."""
        needed = max([len(s.ids) for s in (*self.rows, sequence)])
        if len(self.rows) >= self._arena.rows_at(needed):
            return False
        if self._arena.length_for(needed) != self._arena.length and (needed > self._arena.length or not self.rows):
            self._recut(needed)
        return len(self.rows) < self._arena.rows

    def _make_room(self) -> None:
        """Cut longer rows when one is full. Those that arrived last lose theirs and are computed again later."""
        longest = max((len(s.ids) for s in self.rows), default=0)
        if longest <= self._arena.length:
            return
        while len(self.rows) > self._arena.rows_at(longest):
            latest = max(self.rows, key=lambda s: s.arrival)
            self._release(latest)
            self._waiting.append(latest)
            self.preemptions += 1
            longest = max(len(s.ids) for s in self.rows)
        if longest > self._arena.length:
            self._recut(longest)

    def _recut(self, length: int) -> None:
        self._arena.recut(length, {row: s.computed for row, s in enumerate(self.rows)})

    def _release(self, sequence: Sequence) -> None:
        row, last = sequence.row, self.rows.pop()
        assert row is not None
        self._arena.clear(row, sequence.computed)
        if last is not sequence:
            self._arena.move(len(self.rows), row, last.computed)
            last.row, self.rows[row] = row, last
        self._window.unpin(sequence.gates)
        sequence.row, sequence.computed, sequence.own, sequence.early = None, 0, None, None
