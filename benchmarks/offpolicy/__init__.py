"""What `benchmarks.ope` is made of: logs whose truth is known, and the Open Bandit sample."""
