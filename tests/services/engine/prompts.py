"""Chats for the engine: with one screen, several, none."""

import io

import numpy as np
from PIL import Image

from services.engine.base import Message, Part, Prompt


def png(seed: int, side: int = 160) -> bytes:
    """A screen of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def chat(*parts: Part) -> Prompt:
    """One user message."""
    return Prompt((Message("user", parts),))


PROMPTS = {
    "one screen": chat(Part(image=png(1)), Part(text="Click on the button.")),
    "a larger screen": chat(Part(image=png(2, 250)), Part(text="How many sides does the shape have?")),
    "two screens": chat(Part(image=png(3)), Part(image=png(4)), Part(text="Click on the second one.")),
    "text only": chat(Part(text="Select Tab #3")),
    "a conversation": Prompt(
        (
            Message("system", (Part(text="You click."),)),
            Message("user", (Part(text="Find the red box."),)),
            Message("assistant", (Part(text="Where is it?"),)),
            Message("user", (Part(image=png(5)),)),
        )
    ),
}
