"""Training routers."""
