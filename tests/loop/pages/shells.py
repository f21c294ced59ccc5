"""A shell that blocks of a page are pasted into, one after another, as a reader does.

What a block sets, later ones see. The first command that fails ends the shell, and the test with it.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_END = "=== this block is over ==="
_BLOCK_S = 120


class Shell:
    """A bash that stays; ``start`` is what to start it with, before the bash itself."""

    def __init__(
        self, start: Sequence[str], environment: Mapping[str, str], directory: Path, pasted: Path
    ) -> None:
        self._pasted = pasted
        """A file for what is pasted: commands that read their input would read the commands behind them."""
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *start, "bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=directory,
        )
        self.paste("set -euo pipefail")

    def paste(self, text: str) -> str:
        """Run a block to its end, and return what it printed; AssertionError where a command fails."""
        assert self._process.stdin is not None
        self._pasted.write_text(text)
        said = f"source {self._pasted} </dev/null\nprintf '%s\\n' '{_END}'\n"
        self._process.stdin.write(said.encode())
        self._process.stdin.flush()
        printed = self._read()
        assert printed.endswith(f"{_END}\n"), f"{text}\nfailed. It printed:\n{printed}"
        return printed.removesuffix(f"{_END}\n")

    def _read(self) -> str:
        assert self._process.stdout is not None
        printed = b""
        ends_at = time.monotonic() + _BLOCK_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not printed.endswith(f"{_END}\n".encode()):
                assert selector.select(ends_at - time.monotonic()), f"no end after {_BLOCK_S} s: {printed!r}"
                got = os.read(self._process.stdout.fileno(), 65536)
                if not got:
                    break
                printed += got
        return printed.decode()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
