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


def fault(grammar: str) -> str:
    """What is wrong with a grammar of llguidance's; empty if nothing is. Compiling it then takes no longer."""
    too_much = f"it takes more than {_CPU_S} s of computing to follow, expected a simpler schema"
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__],
            input=grammar,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return too_much
    return done.stdout if done.returncode == 0 else too_much


def _check() -> None:
    """As the engine compiles it, but over bytes in place of a model's tokens."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    matcher = LLMatcher(LLTokenizer("byte"), sys.stdin.read(), log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    sys.stdout.write(matcher.get_error() if matcher.is_error() else "")


if __name__ == "__main__":
    _check()
