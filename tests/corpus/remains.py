"""Half-written and half-wiped filesystems: what people leave who thought a volume was empty, or not."""

from __future__ import annotations

from pathlib import Path

from tests.corpus.case import GIB, MIB, Make, add, case
from tests.corpus.filesystems import BTRFS_BYTES, XFS_BYTES, make_btrfs, make_ext4_with_file, make_xfs
from tests.corpus.tools import copy_into, each, noise, run, scratch_directory, tool, wipe, write

WIPES: dict[str, tuple[int, int]] = {
    "first 512 bytes gone": (0, 512),
    "first 4 KiB gone": (0, 4096),
    "first 64 KiB gone": (0, 64 * 1024),
    "first MiB gone": (0, MIB),
}
WHOLE: dict[str, tuple[Make, int, str]] = {
    "ext4": (make_ext4_with_file, 64 * MIB, "mkfs.ext4"),
    "xfs": (make_xfs, XFS_BYTES, "mkfs.xfs"),
    "btrfs": (make_btrfs, BTRFS_BYTES, "mkfs.btrfs"),
}
for fs_name, (make, size_bytes, program) in WHOLE.items():
    for words, (offset, length) in WIPES.items():
        # The first 512 bytes of ext4, and 64 KiB of btrfs, hold nothing of the filesystem.
        if (fs_name, words) == ("ext4", "first 512 bytes gone") or (
            fs_name == "btrfs" and "MiB" not in words
        ):
            continue
        add(f"{fs_name}, {words}", each(make, wipe(offset, length)), size_bytes=size_bytes, needs=[program])
    add(
        f"{fs_name}, wiped by wipefs",
        each(make, tool("wipefs", "-q", "-a")),
        size_bytes=size_bytes,
        needs=[program, "wipefs"],
    )

add(
    "ext4, a backup superblock is all that is left",
    each(tool("mkfs.ext4", "-q", "-F", "-b", "1024"), wipe(0, 8193 * 1024), wipe(8194 * 1024, 23 * MIB)),
    needs=["mkfs.ext4"],
)
add(
    "xfs, the headers of the last group are all that is left",
    each(make_xfs, wipe(0, 3 * XFS_BYTES // 4)),
    size_bytes=XFS_BYTES,
    needs=["mkfs.xfs"],
)
add(
    "btrfs, the second superblock is all that is left",
    each(make_btrfs, wipe(0, 64 * MIB), wipe(64 * MIB + 68 * 1024, 32 * MIB)),
    size_bytes=BTRFS_BYTES,
    needs=["mkfs.btrfs"],
)
add(
    "ext4, superblock damaged",
    each(make_ext4_with_file, lambda image: write(image, 1024 + 24, b"\xff\xff")),
    needs=["mkfs.ext4"],
)
add(
    "xfs, superblock damaged",
    each(make_xfs, lambda image: write(image, 100, b"\xff\xff")),
    size_bytes=XFS_BYTES,
    needs=["mkfs.xfs"],
)
add(
    "btrfs, superblock damaged",
    each(make_btrfs, lambda image: write(image, 65536 + 200, b"\xff\xff")),
    size_bytes=BTRFS_BYTES,
    needs=["mkfs.btrfs"],
)


@case("ext4 and squashfs at once", needs=["mkfs.ext4", "mksquashfs"])
def make_two_signatures(image: Path) -> None:
    """Make a filesystem that leaves the first KiB alone, where another one has its superblock."""
    packed = image.with_suffix(".squashfs")
    run("mkfs.ext4", "-q", "-F", image)
    with scratch_directory() as directory:
        run("mksquashfs", directory, packed, "-quiet", "-no-progress", "-noappend")
    write(image, 0, packed.read_bytes()[:1024])


@case("xfs over ext4", size_bytes=XFS_BYTES, needs=["mkfs.ext4", "mkfs.xfs"])
def make_xfs_over_ext4(image: Path) -> None:
    """Make one filesystem over another, whose backups stay behind, then lose the new one's head."""
    run("mkfs.ext4", "-q", "-F", "-b", "1024", image)
    run("mkfs.xfs", "-q", "-f", image)
    write(image, 0, bytes(4096))


@case("ext4 copied to 4 KiB further on", size_bytes=64 * MIB, needs=["mkfs.ext4"])
def make_shifted(image: Path) -> None:
    source = image.with_suffix(".source")
    with source.open("wb") as file:
        file.truncate(32 * MIB)
    make_ext4_with_file(source)
    copy_into(image, source, 4096)


@case("ext4 whose mkfs wrote no superblock yet", needs=["mkfs.ext4"])
def make_unfinished(image: Path) -> None:
    """Make what a power loss in the midst of mkfs leaves: tables and directories, no superblock."""
    run("mkfs.ext4", "-q", "-F", image)
    write(image, 1024, bytes(1024))


@case("database whose first page was zeroed", size_bytes=2 * GIB)
def make_beheaded_database(image: Path) -> None:
    for page in range(1, 64):
        write(image, page * 8192, noise(f"page {page}", 8192))
