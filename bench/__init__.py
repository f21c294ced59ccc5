"""Measures the agent: ``make bench``."""

from __future__ import annotations
