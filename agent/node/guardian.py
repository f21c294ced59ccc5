"""The small process that freezes a filesystem and thaws it, whatever becomes of the daemon that started it.

Imports what freezing takes and nothing else: a snapshot waits for it.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from agent.model import DeviceNumber
from agent.node import mountapi, mounted


def main(argv: list[str]) -> int:
    """Freeze, wait for the word, the end of the pipe or the limit, and thaw."""
    path, major, minor, limit_s = argv
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with (
        mounted.open_mount(path, DeviceNumber(int(major), int(minor))) as (mount_fd, _),
        mounted.open_root(mount_fd) as root_fd,
    ):
        try:
            mountapi.freeze(root_fd)
        except OSError as error:
            _say(f"{error.strerror}")  # frozen by someone else already, or a type that cannot be
            return 0
        try:
            _say("frozen")
            is_asked = bool(select.select([0], [], [], float(limit_s))[0]) and os.read(0, 16) == b"thaw\n"
        finally:
            mountapi.thaw(root_fd)
    _say("thawed" if is_asked else "it was thawed before the end")
    return 0


def _say(words: str) -> None:
    try:
        os.write(1, words.encode() + b"\n")
    except BrokenPipeError:
        return  # nobody is left to hear it; what matters is to go on to the thaw


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
