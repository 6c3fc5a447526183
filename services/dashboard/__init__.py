"""The web page on which people watch the router, and the stream of what it shows."""
