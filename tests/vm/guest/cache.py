"""The directory where images are kept between runs: each under a hash of what it was made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.guest.settings import CACHE

KEY_LENGTH = 16


def hash_parts(parts: Iterable[bytes | str]) -> str:
    """Return a short key that differs when any part, their order or their borders differ."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:KEY_LENGTH]


def hash_tree(top: Path) -> str:
    """Return a key of the names, modes and contents of the files beneath a directory."""
    parts: list[bytes | str] = []
    for path in sorted(top.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            parts += [str(path.relative_to(top)), str(path.stat().st_mode & 0o111), path.read_bytes()]
    return hash_parts(parts)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock file; a second process waits rather than build the same thing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_once(kind: str, key: str, build: Callable[[Path], None], *, keep: int = 2) -> Path:
    """Return the cached directory of a kind and key, built into it first when it is not there.

    It appears under its name only when complete, so an interrupted build is never mistaken for one. Of each
    kind the newest few are kept.
    """
    final = CACHE / f"{kind}-{key}"
    with hold_lock(CACHE / f"{kind}.lock"):
        if not final.is_dir():
            work = Path(tempfile.mkdtemp(prefix=f"{kind}.", suffix=".part", dir=CACHE))
            try:
                build(work)
                work.chmod(0o755)
                work.rename(final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        os.utime(final)
        remove_all_but_newest(kind, keep)
    return final


def remove_all_but_newest(kind: str, keep: int) -> None:
    """Remove the cached directories of a kind that were used longest ago."""
    made = [path for path in CACHE.glob(f"{kind}-*") if path.is_dir()]
    for path in sorted(made, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
        shutil.rmtree(path, ignore_errors=True)
