"""Whole filesystems of every kind there is a tool for."""

from __future__ import annotations

from pathlib import Path

from tests.corpus.case import MIB, Kept, add, case
from tests.corpus.tools import copy_into, run, scratch_directory, tool

XFS_BYTES = 320 * MIB
"""mkfs.xfs makes none smaller than 300 MiB."""
BTRFS_BYTES = 128 * MIB

WEIGHTS = b"weights that took a month to train\n"
UUID = "0a1b2c3d-0a1b-4c3d-8e5f-0a1b2c3d4e5f"


def make_ext(kind: str, *options: str) -> None:
    add(" ".join([kind, *options]), tool(f"mkfs.{kind}", "-q", "-F", *options), needs=[f"mkfs.{kind}"])


# Policies of the test want ext4, unless the case may be mounted: then they want what it is.
make_ext("ext2")
make_ext("ext3")
make_ext("ext4", "-O", "journal_dev")
make_ext("ext2", "-b", "1024")
make_ext("ext2", "-O", "^sparse_super,^resize_inode")


def make_ext4_with_file(image: Path) -> None:
    with scratch_directory() as directory:
        (directory / "weights").write_bytes(WEIGHTS)
        run("mkfs.ext4", "-q", "-F", "-d", directory, image)


for options in ((), ("-b", "1024"), ("-O", "^has_journal"), ("-O", "bigalloc"), ("-O", "encrypt,verity")):
    add(
        " ".join(["ext4", *options]),
        lambda image, options=options: (  # type: ignore[misc]  # a default keeps the loop's value
            run("mkfs.ext4", "-q", "-F", *options, image),
            run("debugfs", "-w", "-R", f"write {_write_weights(image)} weights", image),
        ),
        needs=("mkfs.ext4", "debugfs"),
        kept=Kept("ext4", "weights", WEIGHTS),
    )
add("ext4 made from a directory", make_ext4_with_file, kept=Kept("ext4", "weights", WEIGHTS))


def _write_weights(image: Path) -> Path:
    path = image.with_suffix(".weights")
    path.write_bytes(WEIGHTS)
    return path


def make_xfs(image: Path) -> None:
    """Make an XFS filesystem with a file in it, by a prototype (mkfs.xfs(8))."""
    proto = image.with_suffix(".proto")
    proto.write_text(f"/nothing\n0 0\nd--755 0 0\nweights ---644 0 0 {_write_weights(image)}\n$\n")
    run("mkfs.xfs", "-q", "-f", "-p", proto, image)


add("xfs", make_xfs, size_bytes=XFS_BYTES, needs=["mkfs.xfs"], kept=Kept("xfs", "weights", WEIGHTS))
add("xfs -m crc=0", tool("mkfs.xfs", "-q", "-f", "-m", "crc=0"), size_bytes=XFS_BYTES, needs=["mkfs.xfs"])
add(
    "xfs with its log elsewhere",
    lambda image: (
        image.with_suffix(".log").write_bytes(bytes(80 * MIB)),
        run("mkfs.xfs", "-q", "-f", "-l", f"logdev={image.with_suffix('.log')},size=64m", image),
    ),
    size_bytes=XFS_BYTES,
    needs=["mkfs.xfs"],
)


def make_btrfs(image: Path) -> None:
    with scratch_directory() as directory:
        (directory / "weights").write_bytes(WEIGHTS)
        run("mkfs.btrfs", "-q", "-f", "--rootdir", directory, image)


add("btrfs", make_btrfs, size_bytes=BTRFS_BYTES, needs=["mkfs.btrfs"], kept=Kept("btrfs", "weights", WEIGHTS))
add(
    "btrfs --mixed",
    tool("mkfs.btrfs", "-q", "-f", "--mixed"),
    size_bytes=BTRFS_BYTES,
    needs=["mkfs.btrfs"],
)


def make_btrfs_of_two(image: Path) -> None:
    other = image.with_suffix(".other")
    with other.open("wb") as file:
        file.truncate(BTRFS_BYTES)
    run("mkfs.btrfs", "-q", "-f", image, other)
    other.unlink()


add("btrfs, one of two devices", make_btrfs_of_two, size_bytes=BTRFS_BYTES, needs=["mkfs.btrfs"])

SIMPLE: dict[str, tuple[tuple[str, ...], int]] = {
    "f2fs": (("mkfs.f2fs", "-q", "-f"), 64 * MIB),
    "vfat 12": (("mkfs.vfat", "-F", "12"), 2 * MIB),
    "vfat 16": (("mkfs.vfat", "-F", "16"), 32 * MIB),
    "vfat 32": (("mkfs.vfat", "-F", "32"), 64 * MIB),
    "exfat": (("mkfs.exfat",), 32 * MIB),
    "ntfs": (("mkfs.ntfs", "-F", "-q", "-f"), 32 * MIB),
    "udf": (("mkudffs",), 32 * MIB),
    "udf of a hard disk": (("mkudffs", "--media-type=hd"), 32 * MIB),
    "jfs": (("mkfs.jfs", "-q"), 32 * MIB),
    "reiserfs": (("mkfs.reiserfs", "-q", "-f", "-f"), 64 * MIB),
    "nilfs2": (("mkfs.nilfs2", "-q"), 160 * MIB),
    "minix": (("mkfs.minix",), 32 * MIB),
    "minix 3": (("mkfs.minix", "-3"), 32 * MIB),
    "bfs": (("mkfs.bfs",), 8 * MIB),
    "ocfs2": (("mkfs.ocfs2", "-q", "-M", "local", "--fs-features=local"), 256 * MIB),
    "gfs2": (("mkfs.gfs2", "-q", "-O", "-p", "lock_nolock"), 256 * MIB),
    "reiser4": (("mkfs.reiser4", "-y", "-f"), 64 * MIB),
    "apfs": (("mkapfs",), 1024 * MIB),
}
for name, (argv, size_bytes) in SIMPLE.items():
    add(name, tool(*argv), size_bytes=size_bytes, needs=argv[:1])


@case("squashfs", needs=["mksquashfs"])
def make_squashfs(image: Path) -> None:
    packed = image.with_suffix(".squashfs")
    with scratch_directory() as directory:
        run("mksquashfs", directory, packed, "-quiet", "-no-progress", "-noappend")
    copy_into(image, packed)


@case("erofs", needs=["mkfs.erofs"])
def make_erofs(image: Path) -> None:
    packed = image.with_suffix(".erofs")
    with scratch_directory() as directory:
        run("mkfs.erofs", "--quiet", packed, directory)
    copy_into(image, packed)


@case("cramfs", needs=["mkfs.cramfs"])
def make_cramfs(image: Path) -> None:
    packed = image.with_suffix(".cramfs")
    with scratch_directory() as directory:
        run("mkfs.cramfs", directory, packed)
    copy_into(image, packed)


@case("iso9660", needs=["genisoimage"])
def make_iso9660(image: Path) -> None:
    packed = image.with_suffix(".iso")
    with scratch_directory() as directory:
        run("genisoimage", "-quiet", "-R", "-J", "-o", packed, directory)
    copy_into(image, packed)


@case("iso9660 that boots as a disk", needs=["xorriso"])
def make_hybrid(image: Path) -> None:
    packed = image.with_suffix(".iso")
    with scratch_directory() as directory:
        run("xorriso", "-as", "mkisofs", "-quiet", "-r", "-o", packed, "--gpt_disk_guid", UUID, directory)
    copy_into(image, packed)


def make_ext4_with_errors(image: Path) -> None:
    """Make one that records errors, which e2fsck mends by itself where nothing is broken."""
    make_ext4_with_file(image)
    run("debugfs", "-w", "-R", "set_super_value state 2", image)


add("ext4 that records errors", make_ext4_with_errors, kept=Kept("ext4", "weights", WEIGHTS))
