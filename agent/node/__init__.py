"""This machine: everything that touches its kernel. Nothing here knows the policy."""

from __future__ import annotations
