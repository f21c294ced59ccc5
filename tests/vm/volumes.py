"""Volumes for tests that share a guest and the agent that runs in it.

No volume ID is used twice and every volume has a path of its own, so whatever the agent noted in one test
says nothing about another's volumes.
"""

from __future__ import annotations

from itertools import count
from typing import Any, Protocol

from tests.vm.guest_agent import make_entry

_numbers = count(1000)


class Volumes(Protocol):
    """What both targets can do: the kernel's own, ``guest.nvmet``, and the emulated EBS, ``EbsTarget``."""

    def attach(self, volume_id: str, size_bytes: int) -> str:
        """Make a volume of zeros and attach it; return its device."""

    def connect(self, volume_id: str) -> str:
        """Attach a volume that is there; return its device."""

    def disconnect(self, volume_id: str) -> None:
        """Detach a volume in good order."""

    def pull(self, volume_id: str) -> None:
        """Take a volume away without a word."""

    def grow(self, volume_id: str, size_bytes: int) -> None:
        """Make an attached volume larger."""


def name_volumes(number: int) -> list[str]:
    """Return the IDs of as many volumes that no other test has."""
    return [f"vol-0{next(_numbers):016x}" for _ in range(number)]


def name_volume() -> str:
    """Return the ID of a volume that no other test has."""
    return name_volumes(1)[0]


def choose_name(volume_id: str) -> str:
    """Return the name of a volume's policy entry."""
    return f"volume-{int(volume_id.removeprefix('vol-'), 16)}"


def choose_path(volume_id: str) -> str:
    """Return where a volume is mounted."""
    return f"/data/{choose_name(volume_id)}"


def claim(volume_id: str, fs_type: str = "ext4", **fields: Any) -> dict[str, Any]:
    """Return a policy entry that formats a volume if it is blank, and mounts it at its own path."""
    return make_entry(volume_id, fs_type, choose_path(volume_id), **fields)
