"""What an answer takes, whoever else is on the machine."""

import asyncio
from collections.abc import AsyncGenerator, Mapping

from services.engine.base import Delta, Gate, Prompt, Sampling
from services.training.measure import Measuring
from tests.services.engine.prompts import PROMPTS
from tests.services.fakes import FakeEngine
from tests.services.training.data import example


class Busy(FakeEngine):
    """Slow for its first answers; as slow for each further one as it has adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def generate(
        self,
        prompt: Prompt,  # noqa: ARG002
        gates: Mapping[str, Gate],
        sampling: Sampling,  # noqa: ARG002
    ) -> AsyncGenerator[Delta, None]:
        self.asked += 1
        await asyncio.sleep(0.3 if self.asked <= 3 else 0.02 * len(gates))
        yield Delta("done", finish_reason="stop")


def test_a_slow_moment_is_not_held_against_the_way_that_it_hit() -> None:
    examples = [example(PROMPTS["text only"], "done", row=row) for row in range(2)]
    one, two = Measuring(Busy(), 4).seconds(examples, [[{"a": 1.0}] * 2, [{"a": 0.5, "b": 0.5}] * 2])
    assert one < two < 0.1


def test_it_tells_how_many_answers_are_there() -> None:
    examples = [example(PROMPTS["text only"], "done", row=row) for row in range(3)]
    measuring, told = Measuring(Busy(), 4), list[int]()
    gates = [{"a": 1.0}, {"b": 1.0}, {"a": 1.0}]  # the third question is the first again
    assert measuring.success(examples, gates, told.append).tolist() == [1.0] * 3
    assert told == [1, 2, 3]
    assert measuring.success(examples, gates, told.append).tolist() == [1.0] * 3
    assert told[3:] == [3]
