"""How each adapter is made: what it is trained on, for how long, and its shape."""

from dataclasses import dataclass
from typing import Final

from examples.miniwob.families import KEPT

EVERYTHING: Final = r"model\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
ATTENTION: Final = r"model\.language_model\..*\.(q|k|v|o)_proj"
FEED_FORWARD: Final = r"model\.language_model\..*\.(gate|up|down)_proj"


@dataclass(frozen=True)
class Recipe:
    """One LoRA, never in the vision tower.

    families: whose screens it is trained on, the first its own. steps: batches. targets: regular expression of the
    projections. worse_at: the step whose checkpoint is published too, as a worse version of the adapter.
    """

    name: str
    steps: int
    families: tuple[str, ...]
    rank: int = 8
    alpha: int = 16
    targets: str = EVERYTHING
    seed: int = 29
    worse_at: int | None = None


_OWN: Final = (
    Recipe("count-sides", 100, ("count-sides",)),
    Recipe("grid-coordinate", 400, ("grid-coordinate",)),
    Recipe("click-tab", 80, ("click-tab",), rank=4, alpha=8, targets=ATTENTION, worse_at=8),
    Recipe("identify-shape", 100, ("identify-shape",)),
    Recipe("click-dialog", 120, ("click-dialog",), rank=4, alpha=8),
    Recipe("click-collapsible", 80, ("click-collapsible",), rank=8, targets=ATTENTION),
    Recipe("circle-center", 250, ("circle-center",), targets=FEED_FORWARD),
    Recipe("click-color", 400, ("click-color",)),
    Recipe("click-widget", 160, ("click-widget",)),
    Recipe("click-button", 500, ("click-button",), rank=16, alpha=32),
)
"""One a family, also of those that are not published."""

_SECOND: Final = (
    Recipe("click-tab-b", 60, ("click-tab",), rank=16, alpha=32, targets=FEED_FORWARD, seed=31),
    Recipe("count-sides-b", 60, ("count-sides",), rank=4, alpha=8, targets=ATTENTION, seed=37),
)
"""As when two teams own the same screen."""

RECIPES: Final = {recipe.name: recipe for recipe in (*_OWN, *_SECOND) if recipe.families[0] in KEPT}
ONE_FOR_ALL: Final = Recipe("one-for-all", 1290, KEPT, rank=46, alpha=46, seed=41)
"""For comparison only: about as many weights as the families' own together, and as many steps."""
