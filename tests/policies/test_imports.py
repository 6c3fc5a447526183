import subprocess
import sys


def test_serving_a_policy_needs_no_torch() -> None:
    """A Router scores without it, and so starts faster and smaller."""
    script = "import policies, policies.context, policies.posterior, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
