"""What happens in the demo: known families, then newer ones too, then an adapter that silently becomes worse."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from examples.miniwob.episodes import Episode
from examples.miniwob.families import NEWER
from examples.miniwob.outcomes import Outcomes, own, worse

KNOWN: Final = "known families"
ALL: Final = "newer families too"
REGRESSED: Final = "one adapter worse"


class Task(NamedTuple):
    """One request of the story."""

    phase: str
    episode: Episode


@dataclass(frozen=True)
class Story:
    """The requests in order, and the adapter whose worse version serves in its place from request `swap` on."""

    tasks: tuple[Task, ...]
    regressing: str

    @property
    def begins(self) -> dict[str, int]:
        """The first request of each phase."""
        return {phase: [task.phase for task in self.tasks].index(phase) for phase in (KNOWN, ALL, REGRESSED)}

    @property
    def swap(self) -> int:
        """The first request after the swap."""
        return self.begins[REGRESSED]

    def column(self, arm: str, phase: str) -> str:
        """The column of the outcome table that an arm is in a phase."""
        return worse(arm) if phase == REGRESSED and arm == self.regressing else arm


def tell(episodes: Sequence[Episode], table: Outcomes, n: int, seed: int) -> Story:
    """A quarter of the n requests goes over the known families, a quarter over all, half comes after the swap."""
    chance = random.Random(seed)
    known = [episode for episode in episodes if episode.family not in NEWER]
    quarter = n // 4
    acts = ((KNOWN, known, quarter), (ALL, episodes, quarter), (REGRESSED, episodes, n - 2 * quarter))
    tasks = [Task(phase, episode) for phase, pool, size in acts for episode in _draw(pool, size, chance)]
    return Story(tuple(tasks), regressing(table))


def regressing(table: Outcomes) -> str:
    """The adapter that has a worse version, and a second one of its family beside it. ValueError: there is none."""
    for adapter in (arm for arm in table.arms if worse(arm) in table.others):
        if any(own(other) == own(adapter) for other in table.arms if other != adapter):
            return adapter
    raise ValueError(f"others are {list(table.others)}, expected a worse version of an adapter that is not alone")


def _draw(episodes: Sequence[Episode], n: int, chance: random.Random) -> list[Episode]:
    """n episodes, evenly over families; one comes again only when all of its family were drawn."""
    families = sorted({episode.family for episode in episodes})
    decks: dict[str, list[Episode]] = {family: [] for family in families}
    drawn = []
    for i in range(n):
        family = families[i % len(families)]
        if not decks[family]:
            decks[family] = [episode for episode in episodes if episode.family == family]
            chance.shuffle(decks[family])
        drawn.append(decks[family].pop())
    chance.shuffle(drawn)
    return drawn
