"""The commands and how they show what they know. Only here is printed for people, and exit codes chosen."""

from __future__ import annotations
