from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import DeviceNumber, Mount
from agent.core.replace import replace
from agent.node.kernel.mountinfo import (
    describe_mount,
    find_node_number,
    find_seen_mount,
    find_top_mount,
    parse_mountinfo,
    read_mounts,
    read_mounts_towards,
)

# As Linux 6.1 wrote them; options of the fourth as a container runtime can choose them.
CAPTURED = rb"""22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard,errors=remount-ro
36 22 259:4 / /data/ckpt rw,nosuid,nodev,noatime shared:21 master:3 - xfs /dev/nvme1n1 rw,attr2,inode64
41 22 0:52 / /data/cache rw,relatime - btrfs /dev/nvme2n1 rw,space_cache=v2,subvolid=5,subvol=/
57 22 0:61 / /var/lib/x\040y\011z\134040 rw - overlay  rw,lowerdir=/a\040b:/c
60 22 0:70 / /mnt/- rw unbindable - tmpfs - rw
"""


def make_mount(mount_id: int, parent_id: int, path: str, **other: str) -> Mount:
    return Mount(
        mount_id,
        parent_id,
        DeviceNumber(259, mount_id),
        "/",
        path,
        frozenset({"rw"}),
        other.get("fs_type", "ext4"),
        other.get("source", "/dev/x"),
        frozenset(),
    )


def test_parses_what_kernels_write() -> None:
    """Every field comes out unescaped, with any number of optional fields and an empty source."""
    root, xfs, btrfs, overlay, dash = parse_mountinfo(CAPTURED)
    assert (root.mount_id, root.parent_id, root.path) == (22, 1, "/")
    assert xfs == Mount(
        36,
        22,
        DeviceNumber(259, 4),
        "/",
        "/data/ckpt",
        frozenset({"rw", "nosuid", "nodev", "noatime"}),
        "xfs",
        "/dev/nvme1n1",
        frozenset({"rw", "attr2", "inode64"}),
        peer_group=21,
        master=3,
    )
    assert (root.peer_group, root.master) == (1, 0)
    assert btrfs.device_number == DeviceNumber(0, 52)
    assert (overlay.path, overlay.source) == ("/var/lib/x y\tz\\040", "")
    assert "lowerdir=/a b:/c" in overlay.super_options
    assert (dash.path, dash.source) == ("/mnt/-", "-")


@pytest.mark.parametrize("path", ["/data/ckpt", "/var/lib/x y\tz\\040", "/mnt/-", "/", "/mnt", "/absent"])
def test_mounts_towards_a_path(path: str, tmp_path: Path) -> None:
    """They are those of them all that are there or on the way, in order, whatever is in the path."""
    file = tmp_path / "mountinfo"
    file.write_bytes(CAPTURED * 2)
    places = {"/", path, *map(str, Path(path).parents)}
    assert read_mounts_towards(path, file) == tuple(m for m in read_mounts(file) if m.path in places)


ROOT = make_mount(22, 1, "/")
DATA = make_mount(30, 22, "/data")
CKPT = make_mount(31, 30, "/data/ckpt")
BARE = make_mount(31, 22, "/data/ckpt")

SEEN = {
    "plain": ((ROOT, DATA, CKPT), CKPT),
    "beneath a directory": ((ROOT, BARE), BARE),
    "within it": ((ROOT, CKPT, DATA, make_mount(32, 31, "/data/ckpt/in")), CKPT),
    "covered at its path": ((ROOT, BARE, top := make_mount(40, 31, "/data/ckpt")), top),
    "its parent covered by a mount": ((ROOT, BARE, over := make_mount(40, 22, "/data")), over),
    "its parent's mount covered": ((ROOT, DATA, CKPT, upper := make_mount(40, 30, "/data")), upper),
    "covered, and mounted in what covers": (
        (ROOT, BARE, make_mount(40, 22, "/data"), inner := make_mount(41, 40, "/data/ckpt")),
        inner,
    ),
    "two at a place that was made anew": ((ROOT, BARE, later := make_mount(29, 22, "/data/ckpt")), later),
    "the root covered, which a walk begins in": ((ROOT, DATA, CKPT, make_mount(40, 22, "/")), CKPT),
    "not mounted": ((ROOT, DATA), DATA),
    "in a root that is no mount": ((BARE,), BARE),
    "its own parent": ((make_mount(22, 22, "/"), DATA, CKPT), CKPT),
    "a neighbour of a like name": ((ROOT, BARE, make_mount(40, 22, "/data/ck")), BARE),
}


@pytest.mark.parametrize(("mounts", "seen"), SEEN.values(), ids=SEEN.keys())
def test_path_leads_to_what_covers_it(mounts: tuple[Mount, ...], seen: Mount) -> None:
    """A mount is seen as far as no other covers it or a directory on the way, told by IDs alone."""
    assert find_seen_mount(mounts, "/data/ckpt") == seen
    assert find_top_mount(mounts, "/data/ckpt") == (seen if seen.path == "/data/ckpt" else None)


def test_what_others_named_is_shown_as_print() -> None:
    """Neither raw bytes nor escapes of a source or path reach a message."""
    mount = replace(CKPT, source="\udcff\x1b[2J", path="/a\nb")
    assert describe_mount(mount, "/x") == "an ext4 filesystem (??[2J, mounted at /a?b)"


def test_reads_this_machine() -> None:
    """The real file parses line for line."""
    assert len(read_mounts()) == len(Path("/proc/self/mountinfo").read_bytes().splitlines())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"36 22 259:4 / /data rw shared:21",
        b"36 22 259:4 / /data rw - xfs",
        b"36 22 259:4 / /data rw - xfs /dev/x rw extra",
        b"x 22 259:4 / /data rw - xfs /dev/x rw",
        b"36 22 259 / /data rw - xfs /dev/x rw",
        b"36 22 259:-4 / /data rw - xfs /dev/x rw",
        b"99999999999 22 259:4 / /data rw - xfs /dev/x rw",
    ],
)
def test_leaves_out_what_no_kernel_writes(line: bytes) -> None:
    """A line of another shape is no mount, and does not hide the ones round it."""
    mounts = parse_mountinfo(CAPTURED + line + b"\n" + CAPTURED)
    assert mounts == parse_mountinfo(CAPTURED) * 2


@given(st.binary(max_size=400))
def test_never_fails_on_any_bytes(content: bytes) -> None:
    """Whatever the file holds, parsing ends with mounts or without."""
    for mount in parse_mountinfo(content):
        assert mount.device_number.major >= 0


@given(st.binary(max_size=400), st.integers(0, len(CAPTURED)))
def test_truncation_and_noise_invent_no_path(noise: bytes, length: int) -> None:
    """A torn file yields only mounts that were in it; what follows the tear is one line at most."""
    whole = {mount.path for mount in parse_mountinfo(CAPTURED)}
    torn = CAPTURED[:length].rpartition(b"\n")[0] + b"\n" + noise.replace(b"\n", b"")
    for mount in parse_mountinfo(torn)[:-1]:
        assert mount.path in whole


def escape(name: bytes) -> bytes:
    for character in b"\\ \t\n#":
        name = name.replace(bytes([character]), b"\\%03o" % character)
    return name


# As the kernel escapes: the backslash first, or it would escape its own escapes.
kernel_names = st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name)


@given(kernel_names, kernel_names)
def test_any_name_survives_the_kernels_escapes(path: bytes, source: bytes) -> None:
    """A path or source of any bytes comes out as it is on the filesystem."""
    line = b"36 22 8:1 / /%s rw - ext4 %s rw\n" % (escape(path), escape(source))
    (mount,) = parse_mountinfo(line)
    assert (os.fsencode(mount.path), os.fsencode(mount.source)) == (b"/" + path, source)


def test_topmost_of_stacked_mounts_is_seen() -> None:
    """Of mounts stacked at one path, the one no other covers is what the path leads to, in any order."""
    below, middle, top = make_mount(10, 1, "/d"), make_mount(12, 10, "/d"), make_mount(11, 12, "/d")
    assert find_top_mount((below, middle, top), "/d") == top
    assert find_top_mount((top, below, middle), "/d") == top
    assert find_top_mount((below, middle, top), "/d/x") is None


@pytest.mark.parametrize(
    "path", ["tmpfs", "/etc/passwd", "/dev/../etc/passwd", "/dev/null/x", "/dev/a\0b", "/dev/null"]
)
def test_sources_that_are_no_device_nodes_are_not_followed(path: str) -> None:
    """Only paths below /dev are asked for their number, and only block devices have one."""
    assert find_node_number(path) is None
