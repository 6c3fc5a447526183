"""The parts of `benchmarks.bandit_speed`."""
