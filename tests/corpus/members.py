"""What other layers keep on a device: swap, encryption, volume groups, arrays, caches, pools.

Tools make what they can make without their kernel module. The rest is written here from the published
layouts, as far as recognising it goes: Linux's ``include/uapi/linux/raid/md_p.h``, OpenZFS's ``vdev_impl.h``
and ``uberblock_impl.h``, bcachefs's ``bcachefs_format.h``, DRBD's ``drbd_meta_data.h``.
"""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

from agent.node.standins import loop_device
from tests.corpus.case import MIB, Make, add, case
from tests.corpus.tools import each, noise, put, run, tool, wipe, write

SIZE = 32 * MIB
UUID = uuid.UUID("0a1b2c3d-0a1b-4c3d-8e5f-0a1b2c3d4e5f")

add("swap", tool("mkswap", "-q"), needs=["mkswap"])
add("swap of 64 KiB pages", tool("mkswap", "-q", "-p", "65536"), needs=["mkswap"])


@case("swap that holds a hibernated system", needs=["mkswap"])
def make_hibernated(image: Path) -> None:
    run("mkswap", "-q", image)
    write(image, 4096 - 10, b"S1SUSPEND\0")


FAST = {
    "luks1": ("--pbkdf-force-iterations", "1000"),
    "luks2": ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"),
}


def make_luks(kind: str) -> Make:
    argv = ("cryptsetup", "luksFormat", "-q", "--type", kind, *FAST[kind])
    return lambda image: run(*argv, image, "-", text="passphrase")


for kind in FAST:
    add(kind, make_luks(kind), needs=["cryptsetup"])
add("luks2, first header gone", each(make_luks("luks2"), wipe(0, 16384)), needs=["cryptsetup"])


def make_pv(*options: str) -> None:
    def make(image: Path) -> None:
        path = loop_device.attach_file(image)
        config = "devices { use_devicesfile=0 } activation { udev_sync=0 udev_rules=0 }"
        try:
            run("pvcreate", "-q", "--yes", "--config", config, *options, path)
        finally:
            loop_device.detach(path)

    add(" ".join(["LVM physical volume", *options]), make, needs=["pvcreate"])


make_pv()
make_pv("--labelsector", "0")
make_pv("--metadatacopies", "2")

add("bcache backing device", tool("make-bcache", "-B"), needs=["make-bcache"])
add("bcache cache device", tool("make-bcache", "-C"), size_bytes=128 * MIB, needs=["make-bcache"])


def place_md(version: str) -> int:
    """Return where a member of an array keeps its superblock."""
    if version == "0.90":
        return (SIZE & ~65535) - 65536
    return {"1.0": (SIZE - 8192) & ~4095, "1.1": 0, "1.2": 4096}[version]


def make_md_1(version: str) -> bytes:
    """Return an mdp_superblock_1 with a checksum that is right."""
    sectors = SIZE // 512
    raw = bytearray(256 + 2 * 2)
    head = (0xA92B4EFC, 1, 0, 0, UUID.bytes, b"host:0", 1, 1, 0, sectors - 4096, 0, 2, 0, 0)
    struct.pack_into("<IIII16s32sQIIQIIIQ", raw, 0, *head)
    place = (2048, sectors - 4096, place_md(version) // 512, 0, 0, 0, 0, 0, UUID.bytes)
    struct.pack_into("<QQQQIIII16s", raw, 128, *place)
    struct.pack_into("<QQQII", raw, 192, 1, 3, 0, 0, 2)
    struct.pack_into("<HH", raw, 256, 0, 1)
    total = sum(struct.unpack(f"<{len(raw) // 4}I", raw))
    struct.pack_into("<I", raw, 216, (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return bytes(raw)


def make_md_0() -> bytes:
    """Return an mdp_super_t as far as it is looked at."""
    raw = bytearray(4096)
    fields = (0xA92B4EFC, 0, 90, 0, 0, 0x0A1B2C3D, 1, 1, SIZE // 1024 - 64, 2, 2, 0, 0, 1, 2)
    struct.pack_into("<15I", raw, 0, *fields)
    return bytes(raw)


for version in ("0.90", "1.0", "1.1", "1.2"):
    superblock = make_md_0() if version == "0.90" else make_md_1(version)
    add(f"md member {version}", put(place_md(version), superblock))


def make_zfs_label(image: Path, at: int) -> None:
    """Write a label's name-value pairs and its ring of uberblocks (OpenZFS vdev_label.c)."""
    write(image, at + 16 * 1024, bytes([1, 1]) + bytes(6) + struct.pack(">II", 0, 1) + b"\0" * 8 + b"tank")
    for slot in range(128):
        uberblock = struct.pack("<QQQQQ", 0x00BAB10C, 5000, 100 + slot, 0xFEED, 1_700_000_000)
        write(image, at + 128 * 1024 + slot * 1024, uberblock)


@case("zfs pool member")
def make_zfs(image: Path) -> None:
    for at in (0, 256 * 1024, SIZE - 512 * 1024, SIZE - 256 * 1024):
        make_zfs_label(image, at)


@case("zfs, last label only")
def make_zfs_rest(image: Path) -> None:
    make_zfs_label(image, SIZE - 256 * 1024)


BCACHEFS_MAGIC = bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")


@case("bcachefs")
def make_bcachefs(image: Path) -> None:
    header = bytes(16) + struct.pack("<HH", 1024, 1024) + bytes(4) + BCACHEFS_MAGIC + UUID.bytes + UUID.bytes
    for sector in (8, SIZE // 512 - 2048):
        write(image, sector * 512, header.ljust(752, b"\0") + noise("fields", 256))


@case("drbd metadata at the end")
def make_drbd(image: Path) -> None:
    write(image, -4096, struct.pack(">QQQQQQIIII", SIZE // 512, 1, 2, 3, 4, 5, 0, 0x8374026D, 2048, 8))


@case("swap and an md superblock", needs=["mkswap"])
def make_swap_and_md(image: Path) -> None:
    """Write two layers that contradict each other."""
    run("mkswap", "-q", image)
    write(image, place_md("1.0"), make_md_1("1.0"))


@case("ceph bluestore")
def make_bluestore(image: Path) -> None:
    write(image, 0, b"bluestore block device\n" + str(UUID).encode() + b"\n" + noise("bluestore", 200))


@case("oracle asm disk")
def make_asm(image: Path) -> None:
    write(image, 32, b"ORCLDISKVOL1")


@case("vmware vmfs member")
def make_vmfs(image: Path) -> None:
    write(image, MIB, struct.pack("<I", 0xC001D00D) + bytes(4) + noise("vmfs", 500))


@case("stratis member")
def make_stratis(image: Path) -> None:
    write(image, 512, struct.pack("<I", 0) + b"!Stra0tis\x86\xff\x02^\x41rh" + noise("stratis", 400))


@case("bitlocker")
def make_bitlocker(image: Path) -> None:
    write(image, 0, b"\xeb\x58\x90-FVE-FS-" + noise("bitlocker", 490) + b"\x55\xaa")
