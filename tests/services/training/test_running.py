"""The live bar of a stage."""

import io

import pytest
from rich.console import Console

from services.training.running import bar

NOTE = "click-tab takes over, held-out loss 1.347, recall 0.81, entropy 0.94, peaked 0.25, most used click-tab 0.40"


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_narrow_terminal_cuts_nothing_off(width: int) -> None:
    file = io.StringIO()
    with bar(Console(file=file, width=width), "stage 2", 12) as update:
        update(3, NOTE)
    assert set(f"stage 2 3/12 {NOTE}".split()) <= set(file.getvalue().split())
