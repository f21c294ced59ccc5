"""A program that uses a volume all the time: appends blocks, syncs them, and reads back every one."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

BLOCK_BYTES = 64 * 1024
MAX_BLOCKS = 1024
"""Then it starts over: it must not fill the volume while someone watches."""
PAUSE_S = 0.02
STOP_TIMEOUT_S = 10.0


def make_block(number: int) -> bytes:
    """Return the block of this number: different for each, and the same whenever asked."""
    return hashlib.sha256(number.to_bytes(8, "little")).digest() * (BLOCK_BYTES // 32)


class Writer:
    """Writes in a thread of its own until told to stop.

    ``written`` and ``verified`` count blocks; ``error`` is what went wrong, if anything did.
    """

    def __init__(self, directory: Path) -> None:
        self.written = 0
        self.verified = 0
        self.error: str | None = None
        self._path = directory / "training.log"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write_until_over, name="demo writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop, having verified every block of the last file. Safe to call again, or before the start."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def _write_until_over(self) -> None:
        try:
            while not self._is_over.is_set():
                self._write_file()
                self._verify_file()
        except OSError as error:
            self.error = str(error)

    def _write_file(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            for number in range(MAX_BLOCKS):
                file.write(make_block(number))
                os.fsync(file.fileno())
                self.written += 1
                if self._is_over.wait(PAUSE_S):
                    break

    def _verify_file(self) -> None:
        with self._path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the volume, not from memory
            number = 0
            while block := file.read(BLOCK_BYTES):
                if block != make_block(number):
                    self.error = f"block {number} does not read back as it was written"
                    self._is_over.set()
                    return
                number += 1
                self.verified += 1
