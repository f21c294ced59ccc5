from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.model import Device, DeviceNumber, Identity, Mount, MountRecord, Partition, parse_volume_id
from agent.core.replace import replace
from agent.node.device.foreign_use import UsageFacts
from agent.node.mounts.own_mounts import find_stale

VOLUME = parse_volume_id("vol-0123456789abcdef0")
PATH, BOOT = "/data/ckpt", "this boot"
DISK, PART, OTHER, GONE = (DeviceNumber(259, minor) for minor in (3, 4, 7, 5))
NONE = DeviceNumber(0, 52)
NOTE = MountRecord(VOLUME, PATH, DISK, BOOT, 10)
NOW = Device(
    path="/dev/nvme1n1",
    device_number=DISK,
    identity=Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0"),
    size_bytes=1 << 30,
    diskseq=11,
    partitions=(Partition(1, "/dev/nvme1n1p1", PART, 1 << 20, 1 << 29),),
)
"""The volume as it is now: another appearance than the one that was noted."""


def make_mount(number: DeviceNumber, fs_type: str = "ext4", source: str = "/dev/nvme1n1") -> Mount:
    rw = frozenset({"rw"})
    return Mount(8, 1, number, "/", PATH, rw, fs_type, source, rw)


def make_btrfs(source: str) -> Mount:
    return make_mount(NONE, "btrfs", source)


def find(
    mount: Mount,
    sysfs: Path,
    now: Device | None = NOW,
    members: frozenset[DeviceNumber] = frozenset(),
    present: tuple[DeviceNumber, ...] = (DISK, PART, OTHER),
    **noted: object,
) -> bool:
    """Tell whether a mount is found stale, where sysfs still has nvme1n1 and nvme4n1."""
    for name, number in (("nvme1n1", DISK), ("nvme4n1", GONE)):
        node = sysfs / "class/block" / name
        node.mkdir(parents=True)
        (node / "dev").write_text(f"{number}\n", "ascii")
    note = replace(NOTE, **{"device_number": mount.device_number, **noted})  # type: ignore[arg-type]
    surroundings = UsageFacts(mounts=(mount,), sources={mount.mount_id: members} if members else {})
    stale = find_stale(surroundings, note, BOOT, present.__contains__, now, sysfs)
    assert stale in {(), (mount,)}
    return bool(stale)


@pytest.mark.parametrize(
    ("mount", "now"),
    [
        (make_mount(GONE), None),
        (make_mount(GONE), NOW),
        (make_mount(GONE, source="/dev/disk/by-id/of-the-volume"), NOW),
        (make_btrfs("/dev/nvme3n1"), None),
        (make_btrfs("/dev/nvme3n1p1"), NOW),
        (make_btrfs("/dev/nvme4n1"), None),
    ],
)
def test_mount_whose_device_is_gone_is_stale(tmp_path: Path, mount: Mount, now: Device | None) -> None:
    """By its number, or where that is of no device, by the kernel's own name for its source."""
    assert find(mount, tmp_path, now)


@pytest.mark.parametrize("now", [None, NOW])
def test_source_that_leads_to_another_device_keeps_no_mount_alive(tmp_path: Path, now: Device | None) -> None:
    """A link to the volume leads to its new device by now, which the old one's mount does not stand on."""
    assert find(make_mount(GONE, source="/dev/sdf"), tmp_path, now, members=frozenset({DISK}))


@pytest.mark.parametrize("number", [DISK, PART])
def test_mount_of_the_present_device_is_alive_whichever_was_noted(
    tmp_path: Path, number: DeviceNumber
) -> None:
    """The volume came back under its number, and somebody mounted it there themselves."""
    assert not find(make_mount(number), tmp_path)
    # A source of devices may be asked for disks alone.
    assert not find(make_mount(number), tmp_path / "again", present=())


def test_mount_of_a_device_that_is_there_is_alive(tmp_path: Path) -> None:
    """Another volume that was given the number, and is mounted there, is not the one that is missed."""
    assert not find(make_mount(OTHER), tmp_path, None)


@pytest.mark.parametrize("now", [None, NOW])
@pytest.mark.parametrize(
    "mount",
    [
        make_mount(NONE, "nfs4", "10.0.0.7:/export"),
        make_mount(NONE, "tmpfs", "tmpfs"),
        make_mount(NONE, "overlay", "overlay"),
        make_mount(NONE, "fuse.bucket", "/dev/fuse"),
        make_mount(NONE, "tmpfs", "/dev/nvme3n1"),
    ],
)
def test_number_of_no_device_makes_nothing_stale(tmp_path: Path, mount: Mount, now: Device | None) -> None:
    """The number of a btrfs that was noted is somebody else's filesystem by now."""
    assert not find(mount, tmp_path, now)


@pytest.mark.parametrize("now", [None, NOW])
@pytest.mark.parametrize(
    "source",
    ["/dev/nvme1n1", "/dev/sdf", "/dev/mapper/vg-lv", "/dev/disk/by-id/gone", "none", "", "/dev/nvme3n1/x"],
)
def test_btrfs_that_cannot_be_told_to_be_dead_is_alive(
    tmp_path: Path, source: str, now: Device | None
) -> None:
    """Its device is there, or its source is no name of the kernel's: a link that is gone proves nothing."""
    assert not find(make_btrfs(source), tmp_path, now)


def test_btrfs_lives_by_any_of_its_devices(tmp_path: Path) -> None:
    """Of a filesystem that somebody has added a device to, one that is gone is not all of it."""
    assert not find(make_btrfs("/dev/nvme3n1"), tmp_path, None, members=frozenset({OTHER}))
    assert not find(make_btrfs("/dev/nvme3n1"), tmp_path / "again", members=frozenset({PART}), present=())


def test_what_was_not_noted_is_nobodys_to_detach(tmp_path: Path) -> None:
    """A note of another boot, path or number is about another mount."""
    mount = make_mount(GONE)
    assert not find(mount, tmp_path / "1", boot_id="the boot before")
    assert not find(mount, tmp_path / "2", path="/data/other")
    assert not find(mount, tmp_path / "3", device_number=DISK)
    assert find_stale(UsageFacts(mounts=(mount,)), None, BOOT, lambda _: False, None) == ()
