"""What the benchmarks of the engine share: models, requests, and the ways to answer them."""
