"""What the cases are made with: programs, bytes at places, and copies of one image in another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.corpus.case import Make
from tests.tiers import SBIN_PATH

TIMEOUT_S = 120
CHUNK_BYTES = 64 * 1024


def run(*argv: str | Path, text: str | None = None, check: Sequence[int] = (0,)) -> str:
    """Run a program and return what it wrote."""
    done = subprocess.run(
        [str(word) for word in argv],
        check=False,
        input=text,
        stdin=None if text is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={"PATH": SBIN_PATH, "LC_ALL": "C", "HOME": "/nonexistent"},
        timeout=TIMEOUT_S,
    )
    assert done.returncode in check, f"{argv} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


def write(image: Path, offset: int, content: bytes) -> None:
    """Write ``content`` at ``offset``; a negative one counts from the end."""
    with image.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(content)


def put(offset: int, content: bytes) -> Make:
    """Return a function that writes ``content`` at ``offset`` of an image."""
    return lambda image: write(image, offset, content)


def wipe(offset: int, size_bytes: int) -> Make:
    """Return a function that writes zeros."""
    return put(offset, bytes(size_bytes))


def each(*makes: Make) -> Make:
    """Return a function that does one after the other."""

    def make(image: Path) -> None:
        for part in makes:
            part(image)

    return make


def tool(*argv: str | Path, text: str | None = None) -> Make:
    """Return a function that runs a program with the image as its last word."""
    return lambda image: run(*argv, image, text=text)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Give a directory with some files in it, to be packed into images."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "model").mkdir()
        (directory / "model" / "weights").write_bytes(noise("weights", 64 * 1024))
        (directory / "readme").write_text("worth keeping\n")
        yield directory


def copy_into(image: Path, source: Path, offset: int = 0) -> None:
    """Copy one file into another, or a device, at ``offset``, leaving holes where it has zeros."""
    with image.open("r+b") as file:
        for place, chunk in read_chunks(source):
            file.seek(offset + place)
            file.write(chunk)


def noise(seed: str, size_bytes: int) -> bytes:
    """Return bytes that look random and are the same every time."""
    return hashlib.shake_256(seed.encode()).digest(size_bytes)


def digest(image: Path) -> str:
    """Return the SHA-256 of a file's size and of every 64 KiB that is not zero, with its place.

    Equal exactly where the contents are equal; quick for sparse files.
    """
    found = hashlib.sha256(str(image.stat().st_size).encode())
    for start, content in read_chunks(image):
        found.update(f"{start}:".encode() + content)
    return found.hexdigest()


def read_chunks(image: Path) -> Iterator[tuple[int, bytes]]:
    """Yield place and content of every 64 KiB of a file that is not all zero; its holes are not read."""
    with image.open("rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA) // CHUNK_BYTES * CHUNK_BYTES
            except OSError:
                return
            content = os.pread(file.fileno(), CHUNK_BYTES, start)
            if content.strip(b"\0"):
                yield start, content
            end = start + CHUNK_BYTES
