"""Training a router: what `pointsman train` reads, runs, watches and writes."""
