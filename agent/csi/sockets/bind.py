"""Makes listening sockets that are there at once or not at all, and takes away what was left of others."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from agent.core.errors import AgentError, RefusedError
from agent.csi.sockets.kubelet_root import Places

BACKLOG = 128
"""Calls wait here while the agent is started anew."""

MAX_PATH_BYTES = 107
"""sockaddr_un(7) has room for no more."""

_DIRECTORY_MODE = 0o750
"""As kubelet makes its own."""


def bind_socket(path: Path) -> socket.socket:
    """Return a socket that listens at ``path``, for its owner alone.

    It is bound beside, under a name that kubelet ignores, and then renamed: whoever sees it is answered.
    Raises AgentError, RefusedError where somebody else listens there.
    """
    beside = path.with_name(f".{path.name}")
    if len(os.fsencode(beside)) > MAX_PATH_BYTES:
        raise AgentError(
            f"The socket {path} cannot be made: its path has {MAX_PATH_BYTES} bytes or more.",
            hint="Choose a shorter agent.csi.driver, or give kubelet a shorter --root-dir.",
            retryable=False,
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
        remove_stale(path)
        beside.unlink(missing_ok=True)
        old_umask = os.umask(0o177)  # the daemon has one thread that makes files
        try:
            sock.bind(os.fspath(beside))
        finally:
            os.umask(old_umask)
        sock.listen(BACKLOG)
        beside.rename(path)
    except OSError as error:
        sock.close()
        raise AgentError(
            f"The socket {path} cannot be made: {error.strerror or error}.",
            hint="kubelet's root directory has to be writable; it is tried again by itself.",
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock


def find_path(sock: socket.socket) -> Path | None:
    """Return where a socket that ``bind_socket`` made was put; None for any other."""
    name = sock.getsockname()
    bound = Path(os.fsdecode(name)) if name else Path()
    return bound.with_name(bound.name[1:]) if bound.name.startswith(".") else None


def remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens at any more. Raises RefusedError where somebody does."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise RefusedError(f"{path} is in the way, and is no socket.", hint="Remove it.", retryable=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            raise AgentError(
                f"Whether somebody answers at {path} cannot be told: {error.strerror or error}.",
                hint="It is tried again by itself.",
            ) from error
    raise RefusedError(
        f"Another plugin answers at {path} already.",
        hint="Two plugins of one name cannot be on a node. Keep the other's DaemonSet off it, and the agent"
        " takes over by itself; or give the agent another name: agent.csi.driver in the policy.",
    )


def remove_left(given: str, driver: str) -> None:
    """Remove the sockets of a driver that nobody answers at; kubelet then lets go of it."""
    places = Places(os.path.realpath(given), driver)
    for path in (places.registration, places.endpoint):
        with suppress(AgentError, OSError):
            remove_stale(path)
