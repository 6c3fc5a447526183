"""What `benchmarks.bandit_regret` is made of: the worlds as paired trials, the learners, the simulation, the tuning."""
