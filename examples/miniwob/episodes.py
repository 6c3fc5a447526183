"""Recorded held-out episodes: load them, ask them in OpenAI's format, and score an answer's click."""

import base64
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from examples.miniwob.paths import EPISODES

SCALE: Final = 999
"""Answers give x and y relative to the image: 0 is its left or top edge, 999 its right or bottom edge."""
SIDE: Final = 160
"""Width and height of every recorded screen, in pixels."""

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the screen; x1 and y1 are exclusive."""

_CLICK: Final = re.compile(
    r'\{\s*"name"\s*:\s*"computer_use"\s*,\s*"arguments"\s*:\s*\{\s*"action"\s*:\s*"left_click"\s*,'
    r'\s*"coordinate"\s*:\s*\[\s*(\d{1,4})\s*,\s*(\d{1,4})\s*\]\s*\}\s*\}'
)


def click_call(x: int, y: int) -> str:
    """The tool call, as Qwen3-VL writes it, of a left click at (x, y) in 0..999."""
    arguments = {"action": "left_click", "coordinate": [x, y]}
    return f"<tool_call>\n{json.dumps({'name': 'computer_use', 'arguments': arguments})}\n</tool_call>"


def parse_click(text: str) -> tuple[int, int] | None:
    """The (x, y) of the first left click that the answer calls for; None where there is none in 0..1000."""
    match = _CLICK.search(text)
    if match is None:
        return None
    x, y = int(match[1]), int(match[2])
    return (x, y) if max(x, y) <= 1000 else None


def to_pixel(value: float) -> float:
    """The pixel, 0..160, of a coordinate of an answer."""
    return value * SIDE / SCALE


def from_pixel(pixel: float) -> int:
    """The coordinate of an answer, 0..999, of a pixel."""
    return round(pixel * SCALE / SIDE)


@dataclass(frozen=True)
class Episode:
    """One screen with its instruction; `image` is a PNG in base64, `boxes` are where a click is right.

    step: which click of the task this is, from 1; the screen is what the right clicks before it left.
    """

    family: str
    seed: int
    step: int
    instruction: str
    image: str
    boxes: tuple[Box, ...]

    def success(self, text: str) -> bool:
        """Whether the answer is a well-formed left click that lands inside one of the boxes."""
        click = parse_click(text)
        if click is None:
            return False
        x, y = to_pixel(click[0]), to_pixel(click[1])
        return any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in self.boxes)

    @property
    def id(self) -> str:
        """Names the row: family, seed and step."""
        return f"{self.family}/{self.seed}/{self.step}"

    @property
    def png(self) -> bytes:
        """The screen as a PNG file."""
        return base64.b64decode(self.image)

    def messages(self) -> list[dict[str, Any]]:
        """The request's messages in OpenAI's chat format: the screen as a data URL, then the instruction."""
        return chat_messages(self.image, self.instruction)

    def to_json(self) -> str:
        """One line of an episodes file."""
        return json.dumps(asdict(self), ensure_ascii=False)


def chat_messages(image: str, instruction: str) -> list[dict[str, Any]]:
    """A request of one user message: a PNG in base64, then the instruction."""
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
    return [{"role": "user", "content": [part, {"type": "text", "text": instruction}]}]


def load_all(folder: Path = EPISODES) -> list[Episode]:
    """The recorded episodes of every family, by name."""
    return [episode for path in sorted(folder.glob("*.jsonl")) for episode in load(path.stem, folder)]


def load(family: str, folder: Path = EPISODES) -> list[Episode]:
    """The family's recorded episodes; FileNotFoundError where it has none."""
    with (folder / f"{family}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Episode(**{**row, "boxes": tuple(tuple(box) for box in row["boxes"])}) for row in rows]
