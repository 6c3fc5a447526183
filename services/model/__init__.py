"""The Model as the Router sees it, and its replicas on Ray Serve; the engine and its adapters know nothing of these."""
