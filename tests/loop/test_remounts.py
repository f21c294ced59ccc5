"""What the kernel makes of options at a remount, compared with what the agent says of them."""

from __future__ import annotations

import pytest

from agent.core.model import FsType, Mount
from agent.core.mount_options import compare_parameters
from agent.core.replace import replace
from agent.node.filesystem import change_mount
from agent.node.filesystem.mount import MountRequest, mount_filesystem
from agent.node.kernel.mountinfo import find_top_mount, read_mounts
from tests.loop.disks import Bench

BASE = ("nodev", "nosuid")
OPTIONS = {
    FsType.EXT4: (
        *("commit=60", "discard", "nodelalloc", "nojournal_checksum", "no_mbcache", "grpid", "bsdgroups"),
        *("auto_da_alloc=0", "dioread_lock", "sync", "dirsync", "lazytime"),
    ),
    FsType.XFS: ("allocsize=1m", "logbufs=4", "inode32", "largeio", "nolargeio", "noquota", "sync"),
    FsType.BTRFS: ("compress", "compress=zstd", "commit=60", "notreelog", "subvolid=5", "sync", "dirsync"),
}


def see(path: str) -> Mount:
    mount = find_top_mount(read_mounts(), path)
    assert mount is not None
    return mount


def mount_with(request: MountRequest, *options: str) -> Mount:
    mount_filesystem(replace(request, options=(*BASE, *options)))
    return see(request.path)


def remount(mount: Mount, *options: str) -> frozenset[str]:
    change_mount.remount(mount.path, mount.device_number, (*BASE, *options))
    return see(mount.path).super_options


@pytest.mark.parametrize("fs_type", list(FsType))
def test_remounts_bring_and_take_back_what_is_said(bench: Bench, fs_type: FsType) -> None:
    """Each is in force after a remount as after a new mount, or told that it is not; and likewise gone."""
    disk = bench.add_disk()
    request = bench.request(disk, fs_type, disk.make(fs_type))
    plain = mount_with(request)
    bare = plain.super_options
    change_mount.unmount(plain)
    wrong = []
    for option in OPTIONS[fs_type]:
        before = mount_with(request, option)
        removal = compare_parameters(before, BASE, (*BASE, option))
        is_gone = remount(before, *removal.undone) == bare
        if is_gone == bool(removal.left):
            wrong.append(f"{option} taken out: {removal}")
        change_mount.unmount(see(request.path))

        without = mount_with(request)
        addition = compare_parameters(without, (*BASE, option), BASE)
        shown = remount(without, *addition.added)
        # XFS sets wsync as well where it is mounted with sync; asked for is only this one.
        is_there = shown == before.super_options or option in shown - bare
        if is_there == bool(addition.missing):
            wrong.append(f"{option} added: {addition}")
        change_mount.unmount(see(request.path))
    assert wrong == []


@pytest.mark.parametrize("fs_type", list(FsType))
def test_what_no_remount_may_name_hinders_none(bench: Bench, fs_type: FsType) -> None:
    """A mount with dirsync is remounted for another option, and keeps it."""
    disk = bench.add_disk()
    mount = mount_with(bench.request(disk, fs_type, disk.make(fs_type)), "dirsync")
    assert {"dirsync", "lazytime"} <= remount(mount, "dirsync", "lazytime")
    change_mount.unmount(see(mount.path))
