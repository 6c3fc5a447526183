"""What cannot be loaded is named with what was expected."""

import pytest

from services.engine.loading import load


@pytest.mark.parametrize("path", ["none/", "/none/qwen3-vl"])
def test_a_checkpoint_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(OSError, match=rf"model\.path: '{path}' cannot be loaded, expected the directory of a Qwen3-VL"):
        load(path)
