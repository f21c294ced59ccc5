"""A command of the command line on a terminal."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from tests.waiting import wait_until


class Screen:
    """A terminal with a command on it."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int) -> None:
        self.process = process
        self._ours = ours

    def resize(self, columns: int, lines: int) -> None:
        """Make it as large, as a window is."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait_for(self, is_shown: Callable[[str], bool], what: str) -> None:
        """Wait until what is written from now on is so, without its escape sequences."""
        shown = bytearray()

        def look() -> bool:
            with suppress(BlockingIOError):
                shown.extend(os.read(self._ours, 1 << 16))
            return is_shown(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace")))

        wait_until(look, what)


@contextmanager
def on_terminal(columns: int, *words: str) -> Iterator[Screen]:
    """Run a command of the command line on a terminal of so many columns."""
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    argv = [sys.executable, "-m", "agent", *words]
    hidden = ("EBS_AGENT", "COLUMNS", "LINES", "NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment["TERM"] = "xterm"
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        try:
            yield Screen(process, ours)
        finally:
            process.kill()
            os.close(ours)
