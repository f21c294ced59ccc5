"""What can go wrong between a test and its guest."""

from __future__ import annotations


class GuestError(Exception):
    """The guest, or a tool that makes one, did not do what was asked."""


class GuestLostError(GuestError):
    """The guest ended or restarted while an answer was expected from it."""


class GuestTimeoutError(GuestError):
    """The guest did not get there in time."""
