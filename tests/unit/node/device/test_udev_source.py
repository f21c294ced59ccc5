from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskStatus

from agent.core.errors import InconclusiveError, ShortageError
from agent.node.device.source import Hint
from agent.node.device.udev_source import UdevSource, make_hint
from tests.descriptors import used_up_descriptors
from tests.waiting import WAIT_S, until

_UDEV_GROUP = 2
_NETLINK_KOBJECT_UEVENT = 15
_CLONE_NEWNET = 0x40000000


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("nvme0n1", "/dev/nvme0n1"),
        ("nvme12n1", "/dev/nvme12n1"),
        ("nvme3n1p2", "/dev/nvme3n1"),
        ("nvme0c1n1", None),
        ("nvme0", None),
        ("sda", None),
        ("loop0", None),
        ("nvme1n1x", None),
        ("../nvme1n1", None),
    ],
)
def test_hint_names_the_disk(name: str, path: str | None) -> None:
    """A disk's or its partition's announcement names the disk; a hidden path and other devices give none."""
    hint = make_hint("add", name)
    assert (None if hint is None else hint.path) == path


def test_hint_tells_what_happened_to_the_disk() -> None:
    """What is said of a disk is said on; a partition that goes, or something unsaid, is a change of it."""
    assert make_hint("remove", "nvme1n1") == Hint("/dev/nvme1n1", "remove")
    assert make_hint("remove", "nvme1n1p1") == Hint("/dev/nvme1n1", "change")
    assert make_hint(None, "nvme1n1") == Hint("/dev/nvme1n1", "change")


def test_disks_are_listed_from_sysfs(tmp_path: Path) -> None:
    """Whole NVMe disks are listed without udev; hidden ones, paths and other devices are not."""
    for name, hidden in (
        ("nvme1n1", "0"),
        ("nvme0n1", None),
        ("nvme2n1", "1"),
        ("nvme0c0n1", "1"),
        ("sda", "0"),
    ):
        node = tmp_path / "block" / name
        node.mkdir(parents=True)
        if hidden is not None:
            (node / "hidden").write_text(f"{hidden}\n", "ascii")
    assert UdevSource(tmp_path).list_paths() == ["/dev/nvme0n1", "/dev/nvme1n1"]


def test_disks_that_cannot_be_listed_are_not_gone(tmp_path: Path) -> None:
    """With every descriptor in use the list is not empty: there is none."""
    (tmp_path / "block/nvme1n1").mkdir(parents=True)
    source = UdevSource(tmp_path)
    assert source.list_paths() == ["/dev/nvme1n1"]
    with used_up_descriptors(), pytest.raises(ShortageError, match="could not be listed"):
        source.list_paths()


def test_disk_that_cannot_be_asked_whether_it_is_hidden_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk is never missing from the list because a file of its could not be opened."""
    (tmp_path / "block/nvme1n1").mkdir(parents=True)

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("agent.node.kernel.sysfs.os.open", fail)
    with pytest.raises(ShortageError):
        UdevSource(tmp_path).list_paths()


def test_machine_without_sysfs_has_no_list_of_disks(tmp_path: Path) -> None:
    """Where nothing can be listed, that is said, and no disk is taken for gone."""
    with pytest.raises(InconclusiveError, match="No such file"):
        UdevSource(tmp_path / "nowhere").list_paths()


# -- Announcements as udev sends them ------------------------------------------------------------------------


def hash_murmur2(text: bytes) -> int:
    """MurmurHash2 with seed 0: what libudev filters subsystems by."""
    factor, mask = 0x5BD1E995, 0xFFFFFFFF
    value, tail = len(text), text[len(text) // 4 * 4 :]
    for (word,) in struct.iter_unpack("<I", text[: len(text) // 4 * 4]):
        mixed = word * factor & mask
        value = value * factor & mask ^ (mixed ^ mixed >> 24) * factor & mask
    if tail:
        value = (value ^ int.from_bytes(tail, "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15


def make_announcement(name: str, **properties: str) -> bytes:
    fields = {
        "ACTION": "change",
        "DEVPATH": f"/devices/virtual/block/{name}",
        "SUBSYSTEM": "block",
        "DEVNAME": f"/dev/{name}",
        "DEVTYPE": "disk",
        "SEQNUM": "7",
        "MAJOR": "259",
        "MINOR": "3",
        **properties,
    }
    body = b"".join(f"{key}={value}".encode() + b"\0" for key, value in fields.items())
    head = struct.pack(">8sI", b"libudev\0", 0xFEEDCAFE) + struct.pack("=III", 40, 40, len(body))
    return head + struct.pack(">IIII", hash_murmur2(b"block"), hash_murmur2(b"disk"), 0, 0) + body


@contextmanager
def own_network() -> Iterator[None]:
    """Give this thread a network namespace, and so announcements, of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.unshare(_CLONE_NEWNET) != 0:
        os.close(home)
        pytest.skip(f"announcing devices is not permitted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        assert libc.setns(home, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(home)


@pytest.fixture
def udevd() -> Iterator[socket.socket]:
    """A socket that announces devices as systemd-udevd does, where nobody else does."""
    with own_network(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_KOBJECT_UEVENT) as made:
        made.bind((0, 0))
        yield made


async def watch(source: UdevSource, heard: list[Hint], *, task_status: TaskStatus[None]) -> None:
    await source.watch(heard.append, task_status=task_status)


async def test_announcements_become_hints(udevd: socket.socket) -> None:
    """From the moment watching has started no announcement of udev's about an NVMe disk is missed."""
    heard: list[Hint] = []
    source = UdevSource()
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: watch(source, heard, task_status=task_status))
        for name in ("sda", "nvme8n1", "nvme8c8n1", "nvme9n1p1"):
            udevd.sendto(make_announcement(name, RESIZE="1"), (0, _UDEV_GROUP))
        await until(lambda: Hint("/dev/nvme9n1", "change") in heard)
        tasks.cancel_scope.cancel()
    assert heard == [Hint(f"/dev/nvme{number}n1", "change") for number in (8, 9)]


async def test_lost_announcements_ask_for_a_full_look(udevd: socket.socket) -> None:
    """When the kernel had to drop announcements that is noticed, and later ones are heard again."""
    heard: list[Hint] = []
    source = UdevSource()
    async with anyio.create_task_group() as tasks:
        await tasks.start(lambda *, task_status: watch(source, heard, task_status=task_status))
        storm = make_announcement("nvme8n1", PAD="x" * 4000)
        # The loop has no turn meanwhile, so the socket's buffer must overflow.
        for _ in range(10_000):
            udevd.sendto(storm, (0, _UDEV_GROUP))
        later = Hint("/dev/nvme9n1", "change")
        with anyio.fail_after(WAIT_S):
            while not {Hint(None, "overflow"), later} <= set(heard):
                # Until the storm is read the kernel drops this too.
                udevd.sendto(make_announcement("nvme9n1"), (0, _UDEV_GROUP))
                await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
