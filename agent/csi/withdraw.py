"""Takes the agent's driver off kubelet for good, where the agent has been stopped and comes back no more.

kubelet lets go of a driver when its registration socket is removed: the node's CSINode loses it, and pods
that need it are started elsewhere. An agent that is only stopped leaves its sockets, since it may come back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from agent.core.errors import AgentError
from agent.csi.sockets.bind import remove_stale
from agent.csi.sockets.kubelet_root import Places


def remove_sockets(kubelet_root: str, drivers: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Remove the sockets of these drivers that nobody answers at, the registration's first.

    Returns those that were removed, and a sentence for each that stays, as another plugin's does.
    """
    removed: list[Path] = []
    left: list[str] = []
    root = os.path.realpath(kubelet_root)
    for driver in dict.fromkeys(drivers):
        places = Places(root, driver)
        for path in (places.registration, places.endpoint):
            if os.path.lexists(path):
                fault = _remove(path)
                removed += [path] if fault is None else []
                left += [] if fault is None else [f"{path} stays: {fault}"]
        with suppress(OSError):  # somebody else has something in it
            places.endpoint.parent.rmdir()
    return removed, left


def _remove(path: Path) -> str | None:
    """Remove a socket that nobody answers at; return why it stays."""
    try:
        remove_stale(path)
    except AgentError as error:
        return error.message
    except OSError as error:
        return f"{error.strerror}."
    return None
