"""Partition tables, whole and in remains."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.corpus.case import MIB, add, case
from tests.corpus.tools import each, run, tool, wipe, write

ONE = "start=1MiB, size=8MiB\n"
TWO = f"{ONE}start=12MiB, size=8MiB\n"


def table(label: str, partitions: str) -> tuple[str, ...]:
    return (f"label: {label}\n{partitions}",)


for label in ("gpt", "dos", "sun", "sgi"):
    for words, partitions in (("without partitions", ""), ("one partition", ONE), ("two partitions", TWO)):
        # sgi and sun place partitions by cylinders of their own.
        if label in {"sun", "sgi"} and partitions:
            continue
        script = f"label: {label}\n{partitions}"
        add(f"{label} table, {words}", tool("sfdisk", "-q", text=script), needs=["sfdisk"])

GPT = tool("sfdisk", "-q", text=f"label: gpt\n{TWO}")
add("gpt, backup table only", each(GPT, wipe(0, 34 * 512)), needs=["sfdisk"])
add("gpt, first MiB gone", each(GPT, wipe(0, MIB)), needs=["sfdisk"])
add("gpt, protective mbr gone", each(GPT, wipe(0, 512)), needs=["sfdisk"])
add("gpt, backup table gone", each(GPT, wipe(-33 * 512, 33 * 512)), needs=["sfdisk"])
add("gpt, backup header only", each(GPT, wipe(0, MIB), wipe(-33 * 512, 32 * 512)), needs=["sfdisk"])
add(
    "dos table, logical partitions",
    tool("sfdisk", "-q", text="label: dos\nstart=1MiB,size=24MiB,type=5\nstart=2MiB,size=4MiB\n"),
    needs=["sfdisk"],
)
add("dos boot code alone", lambda image: write(image, 0, b"\xeb\x63\x90" + bytes(300) + b"GRUB " + bytes(10)))
add("dos signature alone", lambda image: write(image, 510, b"\x55\xaa"))


@case("bsd label")
def make_bsd(image: Path) -> None:
    """Write a disklabel as ``sys/disklabel.h`` has it, in the second sector, with its checksum."""
    raw = bytearray(148 + 8 * 16)
    struct.pack_into("<IHH16s16s", raw, 0, 0x82564557, 4, 0, b"ebs", b"")
    struct.pack_into("<IIIIII", raw, 40, 512, 63, 255, 4, 63 * 255, 65536)
    struct.pack_into("<IHH", raw, 132, 0x82564557, 0, 8)
    struct.pack_into("<IIIBBH", raw, 148, 65536 - 16, 16, 1024, 7, 8, 1)
    total = 0
    for (word,) in struct.iter_unpack("<H", raw):
        total ^= word
    struct.pack_into("<H", raw, 136, total)
    write(image, 512, bytes(raw))


@case("mac partition map")
def make_mac(image: Path) -> None:
    write(image, 0, struct.pack(">2sHI", b"ER", 512, 65536))
    write(image, 512, struct.pack(">2sHIII32s32s", b"PM", 0, 1, 1, 63, b"Apple", b"Apple_partition_map"))


@case("whole filesystem behind a table", needs=["sfdisk", "mkfs.ext4"])
def make_partitioned(image: Path) -> None:
    """Make a partition with a filesystem, whose table the kernel of the test machine may not read."""
    part = image.with_suffix(".part")
    with part.open("wb") as file:
        file.truncate(8 * MIB)
    run("mkfs.ext4", "-q", "-F", part)
    run("sfdisk", "-q", image, text=f"label: gpt\n{TWO}")
    write(image, MIB, part.read_bytes())
