"""Data without any signature: of applications, of databases, encrypted, and single bytes where it hurts."""

from __future__ import annotations

import random
import sqlite3
import tarfile
from pathlib import Path

from tests.corpus.case import GIB, MIB, add, case
from tests.corpus.tools import noise, put, scratch_directory, write

LARGE = 5 * GIB + 3 * MIB
"""Beyond 1 GiB a proof of blankness samples. Odd, so that no place is one by luck."""

for where, offset in (("the head", 0), ("200 MiB", 200 * MIB), ("the tail", -MIB)):
    add(f"application data at {where}", put(offset, noise(where, MIB)), size_bytes=256 * MIB)
add("application data at 200 MiB of a large volume", put(200 * MIB, noise("far", 8 * MIB)), size_bytes=LARGE)
add("text at the head", put(0, b"do not format me\n"))
add(
    "encrypted-looking noise, whole",
    lambda image: write(image, 0, noise("noise", 8 * MIB)),
    size_bytes=8 * MIB,
)
add("encrypted-looking noise behind a zeroed MiB", put(MIB, noise("noise", 4 * MIB)))
add("ones", lambda image: write(image, 0, b"\xff" * (4 * MIB)), size_bytes=4 * MIB)
add("one pattern repeated", lambda image: write(image, 0, b"\xde\xad\xbe\xef" * MIB), size_bytes=4 * MIB)

EDGES: dict[str, int] = {
    "first byte": 0,
    "last byte": -1,
    "last byte of the first 16 MiB": 16 * MIB - 1,
    "first byte of the last 16 MiB": LARGE - 16 * MIB,
    "ext4's first backup, 1 KiB blocks": (8192 + 1) * 1024 + 56,
    "ext4's first backup, 2 KiB blocks": 16384 * 2048 + 56,
    "ext4's first backup, 4 KiB blocks": 32768 * 4096 + 56,
    "ext4's backup in group 9, 4 KiB blocks": 9 * 32768 * 4096 + 56,
    "ext4's backup in group 25, 4 KiB blocks": 25 * 32768 * 4096 + 56,
    "xfs's second group of four": LARGE // 4 // 4096 * 4096,
    "xfs's last group of four": LARGE * 3 // 4 // 4096 * 4096,
    "btrfs's second superblock": 64 * MIB + 64,
    "a partition start at 32 MiB": 32 * MIB,
    "1 GiB": GIB,
    "2 GiB": 2 * GIB,
    "4 GiB": 4 * GIB,
}
for where, offset in EDGES.items():
    add(f"one byte: {where}", put(offset, b"\1"), size_bytes=LARGE)

add("one sector in the middle of a small volume", put(511 * MIB + 512, noise("sector", 512)), size_bytes=GIB)
add("one sector before 1 GiB", put(GIB - 512, noise("sector", 512)), size_bytes=GIB)


def scatter(image: Path) -> None:
    """Write 2600 pages, one in 500: 65536 are sampled, so all are missed once in 10 ** 57."""
    dice = random.Random(3)  # noqa: S311 -- any places will do
    for _ in range(2600):
        write(image, dice.randrange(LARGE // 4096) * 4096, b"page of an application")


add("pages of an application, here and there in a large volume", scatter, size_bytes=LARGE)


@case("sqlite database")
def make_sqlite(image: Path) -> None:
    path = image.with_suffix(".sqlite")
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("create table runs (id integer primary key, loss real)")
        database.executemany("insert into runs (loss) values (?)", [(1 / n,) for n in range(1, 1000)])
    database.close()
    write(image, 0, path.read_bytes())


@case("tar archive")
def make_tar(image: Path) -> None:
    path = image.with_suffix(".tar")
    with scratch_directory() as directory, tarfile.open(path, "w") as archive:
        archive.add(directory / "model", "model")
    write(image, 0, path.read_bytes())


@case("raw database with a zeroed header page", size_bytes=64 * MIB)
def make_raw_database(image: Path) -> None:
    for page in range(1, 4096, 64):
        write(image, page * 16384 % (64 * MIB), noise(f"page {page}", 16384))


@case("ring buffer whose head moved on", size_bytes=64 * MIB)
def make_ring(image: Path) -> None:
    write(image, 40 * MIB, noise("ring", 4 * MIB))


@case("redo log of fixed records")
def make_redo_log(image: Path) -> None:
    for number in range(4096):
        write(image, 4096 + number * 512, number.to_bytes(8, "little"))
