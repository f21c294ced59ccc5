"""A claim moves from one driver to another, with its volume: what is done next, and doing it."""
