"""The registry of the corpus: what a case is, and how one is added.

    @case("jfs", needs=("mkfs.jfs",))
    def make_jfs(image: Path) -> None:
        run("mkfs.jfs", "-q", image)

The function gets an image file of zeros and writes to it what shall not be lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tiers import SBIN_PATH

MIB = 1 << 20
GIB = 1 << 30

Make = Callable[[Path], object]


@dataclass(frozen=True)
class Kept:
    """A file inside a filesystem that the agent may mount: it must read the same afterwards."""

    type: str
    path: str
    content: bytes


@dataclass(frozen=True)
class Case:
    """One content of a volume. ``needs`` are programs; ``kept`` is set where the agent may mount it."""

    name: str
    make: Make
    size_bytes: int
    needs: tuple[str, ...] = ()
    kept: Kept | None = None
    may_be_damaged: bool = False
    """The agent may know it for a damaged filesystem, which is Failed and as untouched as Refused."""

    def build(self, image: Path) -> None:
        """Make the image file."""
        with image.open("wb") as file:
            file.truncate(self.size_bytes)
        self.make(image)
        assert image.stat().st_size == self.size_bytes, f"{self.name} changed the size of its image"


CASES: dict[str, Case] = {}


def add(
    name: str,
    make: Make,
    *,
    size_bytes: int = 32 * MIB,
    needs: Sequence[str] = (),
    kept: Kept | None = None,
    may_be_damaged: bool = False,
) -> None:
    """Add a case."""
    assert name not in CASES, f"two cases are called {name}"
    CASES[name] = Case(name, make, size_bytes, tuple(needs), kept, may_be_damaged)


def case(
    name: str, *, size_bytes: int = 32 * MIB, needs: Sequence[str] = (), kept: Kept | None = None
) -> Callable[[Make], Make]:
    """Add the decorated function as a case."""

    def register(make: Make) -> Make:
        add(name, make, size_bytes=size_bytes, needs=needs, kept=kept)
        return make

    return register


def find_missing(needs: Sequence[str]) -> list[str]:
    """Return those of the programs that are not installed."""
    return [program for program in needs if shutil.which(program, path=SBIN_PATH) is None]
