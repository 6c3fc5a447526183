"""Can answers be held to a grammar? Asked in a process of its own, which ends where finding out takes too much.

A schema of a few lines can keep llguidance busy for hours (intersected patterns), and it knows no limit for that.
"""

import resource
import subprocess
import sys
from typing import Final

from llguidance import LLMatcher, LLTokenizer

_CPU_S: Final = 2
_MEMORY: Final = 2 << 30
_PATIENCE_S: Final = 30
_TOO_MUCH: Final = 3


def fault(grammar: str) -> str:
    """What is wrong with a grammar of llguidance's; empty if nothing is. Compiling it then takes no longer.

    Raises RuntimeError where that cannot be found out.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-X", "utf8", __file__],  # -P: what lies beside this file is nobody's package
            input=grammar,
            capture_output=True,
            encoding="utf-8",
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"a JSON schema was not checked within {_PATIENCE_S} s") from error
    if done.returncode < 0 or done.returncode == _TOO_MUCH:
        return f"it takes more than {_CPU_S} s of computing to follow, expected a simpler schema"
    if done.returncode:
        raise RuntimeError(f"a JSON schema cannot be checked: {done.stderr.strip()}")
    return done.stdout


def _check() -> None:
    """As the engine compiles it, but over bytes in place of a model's tokens."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    try:
        matcher = LLMatcher(LLTokenizer("byte"), sys.stdin.read(), log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()
    except MemoryError:
        sys.exit(_TOO_MUCH)
    sys.stdout.write(matcher.get_error() if matcher.is_error() else "")


if __name__ == "__main__":
    _check()
