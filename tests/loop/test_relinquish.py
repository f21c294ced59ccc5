"""Letting go of a device: everyone who has it is found, and what was written to it is on it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.core.errors import AgentError, CoveredError
from agent.core.model import FsType, Process, Reason
from agent.core.replace import replace
from agent.core.steps import Relinquish
from agent.node.mounts.release_device import Users, check_unused, find_users, flush_device, flush_mount
from tests.corpus.tools import run
from tests.loop.devices import VOLUME, attached, opened
from tests.loop.moments import WatchedWorkers, staged
from tests.mount_namespaces import make_argv

MIB = 1 << 20


@contextmanager
def child(*argv: str) -> Iterator[int]:
    """Run a program that says a line once it has begun, and ends when its input does."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
    finally:
        process.communicate(timeout=30)


def python(script: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", f"{script}\nprint(flush=True); input_ = sys.stdin.read()", *arguments)


OPEN = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR)"


def test_nobody_has_it(tmp_path: Path) -> None:
    """A device that only its looker has open is unused."""
    with attached(tmp_path / "image", 16 * MIB) as path, opened(path) as (_, device):
        check_unused(device)


def test_opener_is_named(tmp_path: Path) -> None:
    """A process that has the device open is in the way, by name, ID and user."""
    with attached(tmp_path / "image", 16 * MIB) as path, opened(path) as (_, device):
        with child(*python(OPEN, path)) as pid, pytest.raises(AgentError) as raised:
            check_unused(device)
        check_unused(device)
    assert raised.value.reason is Reason.DEVICE_BUSY
    assert str(VOLUME) in raised.value.message
    assert f"(pid {pid}, root)" in raised.value.message


def test_busy_opener_is_seen_each_time(tmp_path: Path) -> None:
    """A database that opens and closes files all the while is seen with its device, at every look."""
    churn = """
import threading
def churn():
    while True:
        fds = [os.open('/dev/null', os.O_RDONLY) for _ in range(40)]
        for one in fds:
            os.close(one)
for _ in range(4):
    threading.Thread(target=churn, daemon=True).start()
"""
    with (
        attached(tmp_path / "image", 16 * MIB) as path,
        opened(path) as (_, device),
        child(*python(f"{OPEN}; os.dup2(fd, 200); os.close(fd)\n{churn}", path)) as pid,
    ):
        for _ in range(20):
            assert pid in {process.pid for process in find_users(path, device.numbers).processes}


def test_other_name_of_the_device_is_found(tmp_path: Path) -> None:
    """A device node made anywhere else, as containers have them, is the same device."""
    with attached(tmp_path / "image", 16 * MIB) as path, opened(path) as (_, device):
        # On a tmpfs of its own namespace: /dev of a container.
        script = 'mount -t tmpfs none "$1" && mknod "$1/data" b "$2" "$3" && exec 3<>"$1/data" && echo && cat'
        number = device.device_number
        argv = make_argv(tmp_path, "sh", "-c", script, "sh", str(tmp_path))
        with child(*argv, str(number.major), str(number.minor)) as pid:
            users = find_users(path, device.numbers)
    assert pid in {process.pid for process in users.processes}


def test_mount_elsewhere_is_in_the_way(tmp_path: Path) -> None:
    """A filesystem mounted where the host does not see it is still in use, though no process has it open."""
    with attached(tmp_path / "image", 64 * MIB) as path, opened(path) as (_, device):
        run("mkfs.ext4", "-q", path)
        script = 'mount "$1" "$2" && echo && cat'
        argv = make_argv(tmp_path, "sh", "-c", script, "sh", path, str(tmp_path))
        with child(*argv), pytest.raises(AgentError, match="a mount in another namespace"):
            check_unused(device)


def test_passer_by_is_not_blamed(tmp_path: Path) -> None:
    """Who opens the device at the moment of the last look is not named in place of what stays."""
    mounted, scan = Users(is_claimed=True), Process(77, "mkfs.btrfs", "root")
    stays = Process(78, "postgres", "db")
    with attached(tmp_path / "image", 16 * MIB) as path, opened(path) as (_, device):
        for steady, named in (
            (mounted, "in use by a mount in another namespace"),
            (Users(processes=(stays,)), r"in use by postgres \(pid 78, db\)\."),
            (Users(holders=("dm-0",)), r"in use by dm-0\."),
            (Users(unread=(stays,)), r"cannot be told: what postgres \(pid 78, db\) has open"),
            (Users(is_claimed=True, processes=(stays,)), r"in use by postgres"),
        ):
            looks = iter([steady] * 3 + [replace(steady, processes=(*steady.processes, scan))])
            with pytest.raises(AgentError, match=named):
                check_unused(device, lambda *_: next(looks))  # noqa: B023 -- at once


def test_swap_is_in_the_way(tmp_path: Path) -> None:
    """What the kernel itself uses is found."""
    with attached(tmp_path / "image", 16 * MIB) as path, opened(path) as (_, device):
        run("mkswap", path)
        try:
            run("swapon", path)
        except AssertionError as error:
            pytest.skip(f"no swap here: {error}")
        try:
            assert find_users(path, device.numbers).is_claimed
        finally:
            run("swapoff", path)


def test_look_of_udev_is_outlasted(tmp_path: Path) -> None:
    """Somebody who opens the device for a moment is not in the way."""
    script = f"{OPEN}; import threading; threading.Timer(0.3, os.close, [fd]).start()"
    with (
        attached(tmp_path / "image", 16 * MIB) as path,
        opened(path) as (_, device),
        child(*python(script, path)),
    ):
        check_unused(device)


def test_flush_brings_raw_writes_to_the_device(tmp_path: Path) -> None:
    """What a process wrote, without syncing and without closing, is on the device after the flush."""
    image = tmp_path / "image"
    script = f"{OPEN}; os.write(fd, b'written' * 1000)"
    with attached(image, 16 * MIB) as path, opened(path) as (fd, _), child(*python(script, path)):
        flush_device(fd)
        assert image.read_bytes()[:7000] == b"written" * 1000


def test_flush_brings_file_writes_to_the_device(tmp_path: Path) -> None:
    """What a process wrote to a file of a mounted filesystem is on the device after the flush."""
    image, mountpoint = tmp_path / "image", tmp_path / "data"
    mountpoint.mkdir()
    with attached(image, 64 * MIB) as path, opened(path) as (fd, device):
        run("mkfs.ext4", "-q", path)
        run("mount", path, mountpoint)
        try:
            (mountpoint / "file").write_bytes(b"of a file" * 1000)
            flush_mount(str(mountpoint), device.device_number)
            flush_device(fd)
            assert b"of a file" * 100 in image.read_bytes()
        finally:
            run("umount", mountpoint)


@pytest.mark.parametrize("fs_type", FsType)
async def test_covered_volume_is_flushed_before_it_is_taken_by_force(tmp_path: Path, fs_type: FsType) -> None:
    """What was written is on the device though no path leads to the mount; what is not reached is refused."""
    async with WatchedWorkers() as workers, staged(tmp_path / "stage", workers, fs_type) as stage:
        assert (await stage.run_pass()).is_done
        path = stage.data / "ckpt"
        (path / "file").write_bytes(b"of a file" * 1000)
        run("mount", "-t", "tmpfs", "none", path)
        async with stage.node.open(stage.wanted.volume_id) as session:
            observed = await session.observe(None)
            if fs_type is FsType.BTRFS:
                with pytest.raises(CoveredError, match="hidden beneath a tmpfs filesystem"):
                    await session.execute(Relinquish(is_forced=True), observed)
            else:
                await session.execute(Relinquish(is_forced=True), observed)
                assert b"of a file" * 100 in stage.image.read_bytes()
