"""Training of the supervised router; the only part of the policies that needs torch."""
