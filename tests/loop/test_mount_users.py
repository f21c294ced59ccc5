"""Processes of other mount namespaces use a mount where they keep it over an unmount: the kernel says so."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agent.core.model import DeviceNumber, FsType
from agent.node.filesystem import change_mount
from agent.node.filesystem.mount import mount_filesystem
from agent.node.kernel.mountinfo import find_top_mount, read_mounts
from agent.node.mounts.mount_users import find_processes
from tests.corpus.tools import run
from tests.loop.disks import Bench
from tests.mount_namespaces import make_argv
from tests.waiting import WAIT_S

STAY = "cd / && echo && exec sleep 600"
BIND = 'mount -t tmpfs box /mnt && mkdir /mnt/in && mount {how} "$2" /mnt/in && umount --lazy "$1" &&'
CASES = {
    "copy that follows": ("slave", STAY, False),
    "copy of its own": ("private", STAY, True),
    "copy of its own, shared there": ("private", f'mount --make-rshared "$2" && {STAY}', True),
    "copy that follows one that follows": (
        "slave",
        f'mount --make-rshared "$2" && unshare --mount --propagation slave sh -c "{STAY}"; true',
        False,
    ),
    "directory above it bound, follows": ("slave", f"{BIND.format(how='--rbind')} {STAY}", False),
    "directory above it bound, of its own": (
        "slave",
        f"{BIND.format(how='--rbind')} mount --make-rprivate /mnt/in && {STAY}",
        True,
    ),
    "bound itself, follows": ("slave", BIND.format(how="--bind").replace("$2", "$1") + STAY, True),
    "bound itself, passes on": (
        "slave",
        BIND.format(how="--bind").replace("$2", "$1") + f"mount --make-rshared /mnt/in && {STAY}",
        True,
    ),
    "a part of it bound, follows": ("slave", BIND.format(how="--bind").replace("$2", "$1/in") + STAY, True),
    "copy that follows, with a mount within": ("slave", f'mount -t tmpfs t "$1/in" && {STAY}', True),
}
"""How a container sees the volume at ``$1`` below the shared ``$2``, and whether it keeps it."""


@contextmanager
def contained(kept: Path, propagation: str, script: str, *args: str) -> Iterator[psutil.Process]:
    """Run a script in a mount namespace, until it says that it is ready; it and its children end after."""
    argv = make_argv(kept, "sh", "-c", script, "sh", *args, propagation=propagation)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        try:
            yield psutil.Process(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def keeps(container: psutil.Process, number: DeviceNumber) -> bool:
    """Tell whether anybody in it sees the device mounted."""
    pids = [container.pid, *(child.pid for child in container.children(recursive=True))]
    return any(f" {number} " in Path(f"/proc/{pid}/mountinfo").read_text() for pid in pids)


@pytest.mark.parametrize(("propagation", "script", "stays"), CASES.values(), ids=CASES.keys())
def test_who_keeps_a_mount_is_who_uses_it(
    bench: Bench, propagation: str, script: str, *, stays: bool
) -> None:
    """Whoever goes on seeing it after it is unmounted is found before, and nobody else."""
    root = Path(bench.root)
    root.mkdir()
    run("mount", "--bind", root, root)
    run("mount", "--make-shared", root)
    disk = bench.add_disk()
    request = bench.request(disk, FsType.EXT4, disk.make(FsType.EXT4))
    mount_filesystem(request)
    (Path(request.path) / "in").mkdir()
    mount = find_top_mount(read_mounts(), request.path)
    assert mount is not None
    with contained(bench.directory, propagation, script, request.path, bench.root) as container:
        assert keeps(container, mount.device_number)
        found = find_processes(mount.path, mount.device_number, WAIT_S)
        change_mount.unmount(mount)
        assert keeps(container, mount.device_number) is stays
        members = {container.pid, *(child.pid for child in container.children(recursive=True))}
        assert {process.pid for process in found} <= members
        assert bool(found) is stays
