"""Faults under load, and then the books: whatever happens to whom, nothing acknowledged is lost or counted twice."""
