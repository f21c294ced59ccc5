"""Volumes of the guest's own kernel target: nvmet over TCP on loopback, with EBS's model and serials.

Each volume is a file on the scratch disk, so it outlives reboots; the target's configuration does not, and
``connect`` makes it again. ``nvmet.sh`` is what runs in the guest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.vm.guest.guest import Guest

SCRIPT = (Path(__file__).parent / "nvmet.sh").read_text(encoding="utf-8")
TIMEOUT_S = 120.0


class Nvmet:
    """The volumes of one guest's kernel target."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def create(self, volume_id: str, size_bytes: int) -> None:
        """Make a volume of zeros; it is not attached yet."""
        self._run("create", volume_id, str(size_bytes))

    def connect(self, volume_id: str) -> str:
        """Attach a volume and return the device that it became, such as ``/dev/nvme0n1``."""
        return self.connect_all([volume_id])[0]

    def connect_all(self, volume_ids: Sequence[str]) -> list[str]:
        """Attach volumes, one right after the other, and return their devices in the order given."""
        return self._run("connect", *volume_ids).split()

    def attach(self, volume_id: str, size_bytes: int) -> str:
        """Make a volume and attach it; return its device."""
        return self.attach_all({volume_id: size_bytes})[0]

    def attach_all(self, sizes_bytes: Mapping[str, int]) -> list[str]:
        """Make volumes and attach them right after each other; return their devices in the order given."""
        self._run("create", *(str(word) for pair in sizes_bytes.items() for word in pair))
        return self.connect_all(list(sizes_bytes))

    def disconnect(self, volume_id: str) -> None:
        """Detach a volume in good order and wait until its device is gone; its data stays."""
        self._run("disconnect", volume_id)

    def pull(self, volume_id: str) -> None:
        """Make a volume vanish without a word to the host, as a forced detach does; its data stays."""
        self._run("pull", volume_id)

    def grow(self, volume_id: str, size_bytes: int) -> None:
        """Make an attached volume larger; the kernel hears of it as it does from EBS."""
        self._run("grow", volume_id, str(size_bytes))

    def find_device(self, volume_id: str) -> str | None:
        """Return an attached volume's device."""
        return self._run("lookup", volume_id).strip() or None

    def remove(self, volume_id: str) -> None:
        """Detach a volume, take it out of the target and delete its data."""
        self._run("remove", volume_id)

    def remove_all(self) -> None:
        """Remove every volume there is."""
        self._run("remove_all")

    def _run(self, verb: str, *arguments: str) -> str:
        return self._guest.shell(SCRIPT, verb, *arguments, timeout_s=TIMEOUT_S)
