"""One file a question, each against named peers in the same run; `python -m benchmarks.NAME`."""
