"""The terminal that this process was started from, if it was: whether it is still there."""

from __future__ import annotations

import os


class Terminal:
    """As it is when this is made; a service has none."""

    def __init__(self) -> None:
        self._was_there = _is_there()

    @property
    def has_closed(self) -> bool:
        """Tell whether there was one and it has hung up, which is when a SIGHUP is no wish of anybody's."""
        return self._was_there and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False  # tty(4): ENXIO where the process has none
    return True
