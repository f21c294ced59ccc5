"""The small process that freezes a filesystem and thaws it, whatever becomes of the daemon that started it.

Imports what freezing takes and nothing else: a snapshot waits for it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

from agent.core.errors import AgentError
from agent.core.model import DeviceNumber
from agent.node.filesystem import change_mount
from agent.node.kernel import mount_api

FROZEN_BY_OTHERS = "frozen by others"
"""Said in place of having frozen it."""


def main(argv: list[str]) -> int:
    """Freeze, wait for the word, the end of the pipe or the limit, and thaw."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        return _hold(*argv)
    except AgentError as error:
        # Said, and not died of: then the daemon would thaw what was never frozen here.
        _say(error.message)
        return 0


def _hold(path: str, major: str, minor: str, limit_s: str) -> int:
    with (
        change_mount.open_mount(path, DeviceNumber(int(major), int(minor))) as (mount_fd, _),
        change_mount.open_root(mount_fd) as root_fd,
    ):
        try:
            mount_api.freeze(root_fd)
        except OSError as error:
            # Of a type that cannot be frozen, or frozen by somebody else, who is to thaw it.
            _say(FROZEN_BY_OTHERS if error.errno == errno.EBUSY else f"{error.strerror}")
            return 0
        try:
            _say("frozen")
            is_asked = bool(select.select([0], [], [], float(limit_s))[0]) and os.read(0, 16) == b"thaw\n"
        finally:
            mount_api.thaw(root_fd)
    _say("thawed" if is_asked else "it was thawed before the end")
    return 0


def _say(words: str) -> None:
    try:
        os.write(1, words.encode() + b"\n")
    except BrokenPipeError:
        return  # nobody is left to hear it; what matters is to go on to the thaw


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
