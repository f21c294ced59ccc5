"""What an unmount takes along elsewhere, by tables as the kernel writes them."""

from __future__ import annotations

import pytest

from agent.node.kernel.mountinfo import parse_mountinfo
from agent.node.mounts.propagation import Place, are_told, find_groups, find_masters, find_place, list_going

NUMBER = "259:3"
HOST = b"""\
22 1 259:1 / / rw shared:1 - ext4 /dev/root rw
50 22 259:3 / /data/my\\040ckpt rw,nosuid shared:40 - ext4 /dev/nvme1n1 rw
"""
PATH = "/data/my ckpt"
PLACE = Place(1, "/data/my ckpt")


def test_place_is_the_parents_group_and_directory() -> None:
    """Of a mount that is there, whose parent tells others what is done at it."""
    assert find_place(HOST, PATH, NUMBER) == PLACE
    assert find_place(HOST, PATH, "259:4") is None
    assert find_place(HOST, "/data", NUMBER) is None
    assert find_place(HOST.replace(b" shared:1 ", b" "), PATH, NUMBER) is None


def stays_mounted(table: bytes, number: str, place: Place | None, masters: dict[int, int]) -> bool:
    groups = find_groups(table, number, place)
    return groups is None or not are_told(groups, place, masters)


ROOT = b"122 100 259:1 / /host rw master:1 - ext4 /dev/root rw"
MOUNT = b"150 122 259:3 / /host/data/my\\040ckpt rw - ext4 /dev/nvme1n1 rw"
PART = b"122 100 259:1 /data /srv rw shared:70 master:60 - ext4 /dev/root rw"
OWN = b"122 100 0:99 / / rw master:9 - overlay overlay rw"
TABLES = {
    "no such device": ([ROOT], False),
    "below a slave of ours": ([ROOT, MOUNT], False),
    "below a peer of ours": ([ROOT.replace(b"master:1", b"shared:1"), MOUNT], False),
    "below a slave's slave": ([PART, MOUNT.replace(b"/host/data", b"/srv")], False),
    "below a private parent": ([ROOT.replace(b"master:1 ", b""), MOUNT], True),
    "below a slave of another": ([ROOT.replace(b"master:1", b"master:2"), MOUNT], True),
    "bound itself, as a slave": (
        [OWN, b"150 122 259:3 / /in rw master:40 - ext4 /dev/nvme1n1 rw"], True,
    ),
    "bound itself, shared": (
        [OWN, b"150 122 259:3 / /in rw shared:40 - ext4 /dev/nvme1n1 rw"], True,
    ),
    "at another place of the parent": ([ROOT, MOUNT.replace(b"/host/data", b"/host/else")], True),
    "a part of it, bound": ([OWN, b"150 122 259:3 /sub /in rw master:40 - ext4 /dev/nvme1n1 rw"], True),
    "with a mount within": ([ROOT, MOUNT, b"160 150 0:50 / /host/data/my\\040ckpt/in rw - tmpfs t rw"], True),
    "whose parent is not seen": ([MOUNT], True),
    "one that goes and one that stays": (
        [ROOT, MOUNT, OWN.replace(b"122", b"123"), b"151 123 259:3 / /in rw - ext4 /dev/nvme1n1 rw"], True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lines", "stays"), TABLES.values(), ids=TABLES.keys())
def test_what_stays_mounted_elsewhere(lines: list[bytes], stays: bool) -> None:  # noqa: FBT001
    """What is not known to go with ours stays."""
    table = b"\n".join([*lines, b"not a line", b""])
    masters = find_masters(table) | {60: 50, 50: 1}
    assert stays_mounted(table, NUMBER, PLACE, masters) is stays


def test_nothing_goes_with_a_mount_that_tells_nobody() -> None:
    """Wherever else the device is mounted, it stays so; a ring of slaves leads to nobody."""
    assert stays_mounted(b"\n".join([ROOT, MOUNT]), NUMBER, None, {})
    table = b"\n".join([ROOT.replace(b"master:1", b"master:2"), MOUNT])
    assert stays_mounted(table, NUMBER, PLACE, {2: 3, 3: 2})


OURS = HOST + b"30 22 259:1 / /export rw shared:1 - ext4 /dev/root rw\n"
COPY = b"60 30 259:3 / /export/data/my\\040ckpt rw shared:40 - ext4 /dev/nvme1n1 rw\n"
HERE = {
    "directory above bound": (OURS + COPY, True),
    "directory above bound, a slave": (OURS.replace(b"export rw shared", b"export rw master") + COPY, True),
    "directory above bound, a slave's slave": (
        OURS.replace(b"/export rw shared:1", b"/export rw master:7")
        + b"31 22 259:1 / /else rw shared:7 master:1 - ext4 /dev/root rw\n"
        + COPY,
        True,
    ),
    "directory above bound, private": (OURS.replace(b"/export rw shared:1", b"/export rw") + COPY, False),
    "bound itself": (OURS + COPY.replace(b"60 30", b"60 22"), False),
    "a part of it, bound": (OURS + COPY.replace(b"60 30 259:3 /", b"60 22 259:3 /sub"), False),
    "with a mount within": (OURS + COPY + b"61 60 0:50 / /export/in rw - tmpfs t rw\n", False),
    "ours in what tells nobody": (OURS.replace(b"/ / rw shared:1", b"/ / rw master:1") + COPY, False),
}  # fmt: skip


@pytest.mark.parametrize(("table", "goes"), HERE.values(), ids=HERE.keys())
def test_what_goes_with_ours_in_our_own_namespace(table: bytes, goes: bool) -> None:  # noqa: FBT001
    """A copy that propagation made is unmounted with ours, and nothing else is."""
    mounts = parse_mountinfo(table)
    ours = next(mount for mount in mounts if mount.path == PATH)
    views = tuple(mount for mount in mounts if mount.device_number == ours.device_number)
    assert list_going(mounts, ours, views) == (tuple(view for view in views if view != ours) if goes else ())
