"""Reading questions: what stands where on a screen, asked and answered from the page's own DOM.

A model of this size does not learn to find what an instruction names from clicks alone; reading teaches it.
"""

import random
from typing import Final

from examples.miniwob.screens import Screen

Question = tuple[str, str]
"""What is asked of a screen, and the answer."""

_LISTED: Final = 5
"""Things in one list, at most: longer answers cost time and teach little more."""
_DROPPED: Final = 0.25
"""How often a word of a label is left out of a question."""


def ask(screen: Screen, chance: random.Random) -> Question:
    """A random reading question about the screen; its scene must not be empty."""
    if len(screen.scene) == 1:
        return _list(screen, chance)
    return chance.choices((_list, _where, _what), weights=(2, 8, 1))[0](screen, chance)


def _list(screen: Screen, chance: random.Random) -> Question:
    start = chance.randrange(max(1, len(screen.scene) - _LISTED + 1))
    shown = screen.scene[start : start + _LISTED]
    _, x, y = shown[0]
    question = f"What is on the screen from [{x}, {y}] on?" if start else "What is on the screen?"
    return question, "It shows " + "; ".join(label for label, _, _ in shown)


def _where(screen: Screen, chance: random.Random) -> Question:
    """Ask for the first thing that fits the words of a label, or some of them."""
    words = chance.choice(screen.scene)[0].split()
    asked = [word for word in words if chance.random() > _DROPPED] or words
    _, x, y = next(item for item in screen.scene if set(asked) <= set(item[0].split()))
    return f"Where is the {' '.join(asked)}?", f"[{x}, {y}]"


def _what(screen: Screen, chance: random.Random) -> Question:
    label, x, y = chance.choice(screen.scene)
    return f"What is at [{x}, {y}]?", f"It shows {label}"
