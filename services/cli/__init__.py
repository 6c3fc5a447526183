"""The `pointsman` command and the client that it speaks through."""
