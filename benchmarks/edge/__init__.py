"""What the service itself costs, without a model: its HTTP edge, its log, its queues, its memory."""
