"""Two services side by side: one that sends requests where their adapters are, one that leaves that to Ray Serve."""
