"""Where the example keeps things: what is published beside the code, and what is only working data."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent
WORLD: Final = ROOT / "world"
MODEL: Final = WORLD / "qwen3-vl-miniwob"
ADAPTERS: Final = WORLD / "adapters"
WORSE: Final = WORLD / "worse"
"""Worse versions of adapters, by the adapter's name: what a silent regression puts in its place."""
COMPARISONS: Final = WORLD / "comparisons"
"""LoRAs that the service does not offer, measured beside those that it does."""
ROUTER: Final = WORLD / "router"
EPISODES: Final = WORLD / "episodes"
OUTCOMES: Final = WORLD / "outcomes.json"
DATA: Final = ROOT / "data"
"""Training screens, checkpoints and logs; not under version control."""
