"""Snapshots: when one is due, taking it with writes held, and what becomes of it after."""
