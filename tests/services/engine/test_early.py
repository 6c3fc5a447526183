"""Which prompts can go on from what was kept."""

import torch

from services.engine.routed.early import Early, EarlyStates
from services.engine.tokens import Tokens
from services.engine.vision import Pixels

GRID = torch.tensor([1, 2, 2])


def tokens(*ids: int, images: tuple[bytes, ...] = ()) -> Tokens:
    tensor = torch.tensor(ids)
    pixels = tuple(Pixels(key, torch.empty(0), GRID) for key in images)
    return Tokens(tensor, torch.zeros_like(tensor), torch.empty(0, 3, dtype=torch.long), pixels)


def early() -> Early:
    return Early(torch.zeros(1, 1), [], [])


def test_a_prompt_goes_on_from_one_that_it_begins_with() -> None:
    states, kept = EarlyStates(1, 2), early()
    states.keep(tokens(1, 2, images=(b"a",)), kept)
    assert states.find(tokens(1, 2, 3, images=(b"a", b"b")), []) is kept
    assert states.find(tokens(1, 3, images=(b"a",)), []) is None
    assert states.find(tokens(1, 2, 3, images=(b"b",)), []) is None
    assert states.find(tokens(1), []) is None


def test_the_one_used_longest_ago_gives_way() -> None:
    states = EarlyStates(1, 2)
    for first in (1, 2):
        states.keep(tokens(first), early())
    assert states.find(tokens(1, 9), []) is not None
    states.keep(tokens(3), early())
    assert [states.find(tokens(first, 9), []) is not None for first in (1, 2, 3)] == [True, False, True]


def test_nothing_is_kept_without_room() -> None:
    states = EarlyStates(1, 0)
    states.keep(tokens(1), early())
    assert states.find(tokens(1), []) is None
