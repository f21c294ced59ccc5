"""A Debian guest in QEMU for tests on real NVMe devices: see docs/testing-guest.md."""

from __future__ import annotations

from tests.vm.guest.channel import GuestProcess
from tests.vm.guest.errors import GuestError, GuestLostError, GuestTimeoutError
from tests.vm.guest.guest import Guest, GuestOptions

__all__ = ["Guest", "GuestError", "GuestLostError", "GuestOptions", "GuestProcess", "GuestTimeoutError"]
