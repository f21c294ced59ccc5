"""The scratch directory the demo plays in: made, described by a policy, and taken away without a trace."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

from msgspec import Struct

from agent.base.paths import Paths
from agent.core.errors import AgentError
from agent.node.isolate.installed_programs import locate_program
from agent.node.kernel import mount_api
from agent.node.kernel.mountinfo import read_mounts
from agent.node.standins import loop_device

RELEASE_TIMEOUT_S = 5.0


class Stage(Struct, frozen=True):
    """Where everything of one demo lies. ``volumes`` is what the agent takes for the attached volumes."""

    directory: Path
    port: int

    @classmethod
    def build(cls) -> Stage:
        """Make a scratch directory only root can enter."""
        stage = cls(Path(tempfile.mkdtemp(prefix="ebs-agent-demo-")), _find_free_port())
        for directory in (stage.volumes, stage.workshop, stage.mounts, stage.paths.policy.parent):
            directory.mkdir(parents=True)
        return stage

    @property
    def paths(self) -> Paths:
        return Paths(self.directory / "node")

    @property
    def volumes(self) -> Path:
        return self.directory / "volumes"

    @property
    def workshop(self) -> Path:
        """Where images are prepared before they are moved among the volumes in one instant."""
        return self.directory / "workshop"

    @property
    def mounts(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "agent.base.log"

    def attach(self, image: Path) -> Path:
        """Move a prepared image among the volumes, as attaching a volume makes its device appear."""
        return image.rename(self.volumes / image.name)

    def find_leftovers(self) -> list[str]:
        """Return what of the demo is still on this machine: mounts, loop devices, the directory."""
        found = [f"mount {path}" for path in self._list_mounts()]
        found += [f"loop device {device}" for device in self._list_loops()]
        return [*found, str(self.directory)] if self.directory.exists() else found

    def clear(self) -> None:
        """Take everything away, also after the agent was killed at the worst moment."""
        for path in reversed(self._list_mounts()):
            _unmount(path)
        for device in self._list_loops():
            _release_loop(device)
        deadline = time.monotonic() + RELEASE_TIMEOUT_S
        while self._list_loops() and time.monotonic() < deadline:
            time.sleep(0.05)  # the kernel lets a loop device go when its last user has
        shutil.rmtree(self.directory, ignore_errors=True)

    def _list_mounts(self) -> list[str]:
        """Mount paths below the directory, in the order they were mounted."""
        inside = f"{self.directory}/"
        return [mount.path for mount in read_mounts() if mount.path.startswith(inside)]

    def _list_loops(self) -> list[Path]:
        """Loop devices whose file lies, or lay, below the directory."""
        found = []
        for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
            with contextlib.suppress(OSError):
                if entry.read_text().startswith(f"{self.directory}/"):
                    found.append(Path("/dev") / entry.parent.parent.name)
        return found


def check_machine() -> None:
    """Raise AgentError, saying what to do instead, where the demo cannot play."""
    if os.geteuid() != 0:
        raise AgentError(
            "The demo mounts filesystems, for which it has to be root.",
            hint="Run: sudo make demo, or: sudo ebs-agent demo. It works below one directory of its own.",
        )
    if not os.access("/dev/loop-control", os.R_OK | os.W_OK):
        raise AgentError(
            "The demo lets files stand in for volumes, for which this machine has no loop devices.",
            hint="Run: modprobe loop. In a container, start it with --privileged, or use a virtual machine.",
        )
    missing = [name for name in ("mkfs.ext4", "e2fsck", "mkfs.xfs") if locate_program(name) is None]
    if missing:
        raise AgentError(
            f"The demo makes filesystems, for which this machine has no {', '.join(missing)}.",
            hint="Run: apt-get install e2fsprogs xfsprogs, or: dnf install e2fsprogs xfsprogs.",
        )


def _find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _unmount(path: str) -> None:
    try:
        mount_api.unmount(path, 0)
    except OSError:  # someone looks around in it: let it go when they leave
        with contextlib.suppress(OSError):
            mount_api.unmount(path, mount_api.MNT_DETACH)


def _release_loop(device: Path) -> None:
    with contextlib.suppress(OSError):
        loop_device.detach(str(device))
