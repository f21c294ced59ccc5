"""Where a measurement works: a directory of its own, and an end to what a killed one has left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.agent_process import Scratch
from tests.leftovers import take_away_below

_PREFIX = "ebs-agent-bench-"
_LOCK = "in-use"
WITH_ME = ("setpriv", "--pdeathsig", "KILL")
"""What ends a program when the measurement that started it ends, however that ends."""


@contextmanager
def working_directory() -> Iterator[Path]:
    """Give a directory for the block; what is mounted in it or stands on its files is taken away then.

    What killed measurements have left, whose directories nobody holds any more, is taken away first.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), _held(left):
            clear(left)
    base = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (base / _LOCK).touch()
    with _held(base):
        try:
            yield base
        finally:
            clear(base)


@contextmanager
def _held(base: Path) -> Iterator[None]:
    """Hold a directory for the block; raises OSError where another process does, or nobody ever did."""
    fd = os.open(base / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def clear(base: Path) -> None:
    """Unmount what is mounted below a directory, detach what stands on its files, and remove it."""
    take_away_below(base)
    # Of a link in it only the link goes.
    shutil.rmtree(base)


def make_entry(scratch: Scratch, volume: str) -> dict[str, Any]:
    """Return the policy's entry that has a volume formatted and mounted."""
    return {
        "name": f"bench-{volume[-6:]}",
        "match": {"volume_id": volume},
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": str(scratch.data / volume)},
    }
