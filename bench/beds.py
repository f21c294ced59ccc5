"""Where volumes come from while they are measured: files on loop devices, or nvmet's on NVMe over TCP.

A bed makes volumes, shows them to a bare shell, takes them away, and attaches them for the agent. It knows
nothing of clocks.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from agent.core.model import parse_volume_id
from agent.node.standins import files, loop_device

TIMEOUT_S = 300


class Bed(Protocol):
    """One kind of device to measure on."""

    name: str
    attaches_at_once: bool
    """Attaching takes no time to speak of, however many volumes there are."""

    def list_agent_options(self) -> list[str]:
        """Return what ``ebs-agent run`` is told beside its root."""

    def show(self, volumes: Sequence[str], size_bytes: int) -> list[str]:
        """Attach volumes that the agent must not see, new ones blank, and return their devices."""

    def hide(self, volumes: Sequence[str], *, is_wiped: bool) -> None:
        """Detach them again, and make them blank if asked to."""

    def attach(self, volumes: Sequence[str]) -> None:
        """Attach volumes for the agent to find."""

    def is_ours(self, device: str) -> bool:
        """Tell whether a device such as ``/dev/loop3`` may be one of the volumes attached."""

    def remove(self, volumes: Sequence[str]) -> None:
        """Detach volumes and forget them."""


class LoopBed:
    """Files that stand in for volumes; what is hidden from the agent lies in another directory."""

    name = "loop devices"
    attaches_at_once = True

    def __init__(self, base: Path) -> None:
        self.devices = base / "devices"
        self._hidden = base / "hidden"
        self._shown: dict[str, str] = {}
        for directory in (self.devices, self._hidden):
            directory.mkdir(parents=True)

    def list_agent_options(self) -> list[str]:
        return ["--devices", str(self.devices)]

    def show(self, volumes: Sequence[str], size_bytes: int) -> list[str]:
        for volume in volumes:
            image = self._hidden / f"{volume}.img"
            image.touch()
            os.truncate(image, size_bytes)
            self._shown[volume] = loop_device.attach_file(image)
        return [self._shown[volume] for volume in volumes]

    def hide(self, volumes: Sequence[str], *, is_wiped: bool) -> None:
        for volume in volumes:
            loop_device.detach(self._shown.pop(volume))
            if is_wiped:
                image = self._hidden / f"{volume}.img"
                size_bytes = image.stat().st_size
                os.truncate(image, 0)
                os.truncate(image, size_bytes)

    def attach(self, volumes: Sequence[str]) -> None:
        for volume in volumes:
            (self._hidden / f"{volume}.img").rename(self.devices / f"{volume}.img")

    def is_ours(self, device: str) -> bool:
        shown = self._shown.values()
        return device.startswith("/dev/loop") and device not in shown

    def remove(self, volumes: Sequence[str]) -> None:
        for volume in volumes:
            (self.devices / f"{volume}.img").unlink(missing_ok=True)
            if volume in self._shown:
                loop_device.detach(self._shown.pop(volume))
        files.release_directory(str(self.devices))


class NvmetBed:
    """Volumes of this kernel's own NVMe target over TCP, by the script of the guest tests."""

    name = "NVMe devices"
    attaches_at_once = False

    def __init__(self) -> None:
        self._script = Path(__file__).parents[1] / "tests" / "vm" / "guest" / "nvmet.sh"
        self._volumes = Path("/scratch/volumes")

    def list_agent_options(self) -> list[str]:
        return []

    def show(self, volumes: Sequence[str], size_bytes: int) -> list[str]:
        self._run("create", *(word for volume in volumes for word in (volume, str(size_bytes))))
        return self._run("connect", *volumes).split()

    def hide(self, volumes: Sequence[str], *, is_wiped: bool) -> None:
        for volume in volumes:
            self._run("disconnect", volume)
            if is_wiped:
                # The target keeps the file open, so it is emptied by name and stays the same file.
                image = self._volumes / f"{parse_volume_id(volume)}.img"
                size_bytes = image.stat().st_size
                os.truncate(image, 0)
                os.truncate(image, size_bytes)

    def attach(self, volumes: Sequence[str]) -> None:
        self._run("connect", *volumes)
        subprocess.run(["udevadm", "settle"], check=True, timeout=TIMEOUT_S)

    def is_ours(self, device: str) -> bool:
        return device.startswith("/dev/nvme")

    def remove(self, volumes: Sequence[str]) -> None:
        self._run("remove", *volumes)

    def _run(self, *words: str) -> str:
        argv = ["sh", str(self._script), *words]
        done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
        return done.stdout
