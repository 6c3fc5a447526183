"""Training screens: what the recorder keeps of a played page, in coordinates of the answers."""

import base64
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from examples.miniwob.episodes import SCALE, Box, Episode, from_pixel, to_pixel

_GRID: Final = 10
"""Targets are rounded to this step (1.6 px), so that an answer carries no digit that no pixel can show."""
_LINE: Final = 20
"""Height of a line of things to read, in pixels."""
_COLOURS: Final = 64
"""Palette of a stored PNG: half the bytes of the full one, no difference that the eye can see."""

Run = tuple[int, int, int]
"""y, x0, x1: clickable pixels x0 <= x < x1 of the row y."""


@dataclass(frozen=True)
class Played:
    """What a page says about one seed; boxes are (x0, y0, x1, y1) in pixels of the task area.

    answers: for each right answer, the box to aim at and its clickable pixels as runs (y, x0, x1), x1 exclusive.
    scene: label and box of each thing to read.
    """

    instruction: str
    answers: list[tuple[list[float], list[list[int]]]]
    scene: list[tuple[str, list[float]]]
    png: bytes


@dataclass(frozen=True)
class Screen:
    """A screen, where to click on it, and what stands on it.

    step: which click of the task this is, from 1. click: (x, y) in 0..999. boxes: all that is right. scene: (label, x,
    y), x and y in 0..999, reading order.
    """

    seed: int
    instruction: str
    image: str
    click: tuple[int, int]
    boxes: tuple[Box, ...]
    scene: tuple[tuple[str, int, int], ...]
    step: int

    def to_json(self) -> str:
        """One line of a screens file."""
        return json.dumps(asdict(self), ensure_ascii=False)


def read_screens(folder: Path, limit: int) -> list[Screen]:
    """The first `limit` screens of a folder of screens files, by the order of their names; all if there are fewer."""
    screens: list[Screen] = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            screens += [_from_row(json.loads(line)) for line in lines]
        if len(screens) >= limit:
            break
    return screens[:limit]


def _from_row(row: dict[str, Any]) -> Screen:
    boxes = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in row["boxes"])
    scene = tuple((label, x, y) for label, x, y in row["scene"])
    return Screen(
        row["seed"], row["instruction"], row["image"], (row["click"][0], row["click"][1]), boxes, scene, row["step"]
    )


def to_screen(seed: int, step: int, played: Played) -> Screen | None:
    """What to keep of a played seed; None where no right answer can be clicked inside the picture."""
    answers = [(box, [(y, x0, x1) for y, x0, x1 in runs]) for box, runs in played.answers if runs]
    if not answers:
        return None
    box, runs = min(answers, key=lambda answer: _reading_order(answer[0]))
    scene = sorted(played.scene, key=lambda item: _reading_order(item[1]))
    return Screen(
        seed=seed,
        instruction=played.instruction,
        image=base64.b64encode(shrink(played.png)).decode(),
        click=_click(box, runs),
        boxes=tuple(piece for _, each in answers for piece in merge_runs(each)),
        scene=tuple((label, *_rounded_centre(area)) for label, area in scene if area[1] < area[3]),
        step=step,
    )


def to_episode(family: str, screen: Screen) -> Episode:
    """The screen as a request to answer."""
    return Episode(family, screen.seed, screen.step, screen.instruction, screen.image, screen.boxes)


def merge_runs(runs: list[Run]) -> list[Box]:
    """Boxes that cover exactly the runs: equal runs of following rows become one box."""
    boxes: list[Box] = []
    for y, x0, x1 in runs:
        for index, (left, top, right, bottom) in enumerate(boxes):
            if bottom == y and left == x0 and right == x1:
                boxes[index] = (left, top, right, y + 1)
                break
        else:
            boxes.append((x0, y, x1, y + 1))
    return boxes


def _click(box: list[float], runs: list[Run]) -> tuple[int, int]:
    """The point nearest to the box's centre that really hits, on the grid of the answers where it can be."""
    x, y = _rounded_centre(box)
    if any(row <= to_pixel(y) < row + 1 and x0 <= to_pixel(x) < x1 for row, x0, x1 in runs):
        return x, y
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    pixels = [(px + 0.5, row + 0.5) for row, x0, x1 in runs for px in range(x0, x1)]
    px, py = min(pixels, key=lambda pixel: (pixel[0] - centre[0]) ** 2 + (pixel[1] - centre[1]) ** 2)
    return from_pixel(px), from_pixel(py)


def _reading_order(box: list[float]) -> tuple[int, float]:
    """Lines first, from the top, then from the left; what is centred within the same 20 px is one line."""
    return int((box[1] + box[3]) / 2 // _LINE), box[0] + box[2]


def _rounded_centre(box: list[float]) -> tuple[int, int]:
    x, y = (from_pixel((box[axis] + box[axis + 2]) / 2) for axis in (0, 1))
    return on_grid(x), on_grid(y)


def on_grid(value: int) -> int:
    """The nearest coordinate of an answer."""
    return min(round(value / _GRID) * _GRID, SCALE)


def shrink(png: bytes) -> bytes:
    """The same picture as a PNG of 64 colours."""
    out = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()
