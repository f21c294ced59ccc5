"""Speaks with the sidecars: their requests read, the volumes asked, the answers and codes written."""
