"""What people ask of the log: what stands, why it was chosen, what another policy would have earned."""
