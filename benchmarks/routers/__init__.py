"""Training routers on the embedded world."""
