"""What there is to route to while the service runs: adapters, their arms, and the trained router that is active."""
