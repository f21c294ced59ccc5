"""Letting go of volumes: one, everything at once, and what can be before the instance ends."""
