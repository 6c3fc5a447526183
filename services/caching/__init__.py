"""What the replicas keep resident, across the cluster: planned from the log, followed by each replica."""
