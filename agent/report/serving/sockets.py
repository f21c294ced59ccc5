"""Binds what the agent is asked at: what can fail before anybody asks.

Nothing that serves is imported here.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from agent.base.off_loop import Aside
from agent.core.errors import AgentError, InvalidValueError
from agent.node.kernel.tcp_listeners import find_listener
from agent.report.serving.address import BACKLOG, listen_at
from agent.report.serving.certificates import Tls

DEFAULT_PORT = 9842
GROUP = "ebs-agent"
MAX_PATH_BYTES = 107
"""sockaddr_un(7) has room for no more."""


class AddressTakenError(AgentError):
    """Somebody else listens there."""


class Listen(Struct, frozen=True):
    """Where the read-only face is offered."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls: Tls | None = None

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port


# -- The read-only face --------------------------------------------------------------------------------------


def open_listener(listen: Listen) -> socket.socket:
    """Return a socket that listens there, or raise AgentError naming the address that cannot be had."""
    try:
        return listen_at(listen.host, listen.port)
    except OSError as error:
        raise explain_refusal(listen, error) from error


def explain_refusal(listen: Listen, error: OSError) -> AgentError:
    """Return what keeps an address from being listened on."""
    kind = AddressTakenError if error.errno == errno.EADDRINUSE else AgentError
    return kind(
        f"The address {listen.host}:{listen.port} cannot be listened on: {error.strerror or error}.",
        hint="Set agent.http.listen in the policy to a free address of this node.",
        retryable=False,
    )


async def name_taker(error: AgentError, listen: Listen, aside: Aside) -> AgentError:
    """Return the error, and where the address is another's, whose it is."""
    if not isinstance(error, AddressTakenError):
        return error
    try:
        taker = await aside(find_listener, listen.host, listen.port, subject="listening sockets")
    except (AgentError, OSError):
        return error
    if taker is None:
        return error
    return AddressTakenError(
        f"The address {listen.host}:{listen.port} is taken by {taker.describe()}, who answers there in the "
        "agent's place.",
        hint="End that, and the agent has its address within half a minute; or set agent.http.listen in the "
        "policy to a free one. ebs-agent status tells the truth meanwhile.",
        retryable=False,
    )


# -- The control socket --------------------------------------------------------------------------------------


def bind_control_socket(path: Path, *, for_group: bool = False) -> tuple[socket.socket, int]:
    """Return a socket listening at ``path``, and its inode: its owner's alone, mode 0600.

    ``for_group``: mode 0660, group ``ebs-agent`` if it exists.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise InvalidValueError(
            f"The control socket {path} cannot be made: its path has more than {MAX_PATH_BYTES} bytes.",
            hint="Choose a shorter --root DIR.",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale_socket(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old_umask = os.umask(0o177)  # closed to all until it has its group; the daemon has one thread
    try:
        bound.bind(os.fspath(path))
    except OSError as error:
        bound.close()
        raise AgentError(
            f"The control socket {path} cannot be made: {error.strerror or error}.",
            hint="Run the agent as root, or move its files with --root DIR.",
            retryable=False,
        ) from error
    finally:
        os.umask(old_umask)
    if for_group:
        if os.geteuid() == 0 and (group_id := _find_group()) is not None:
            os.chown(path, 0, group_id)
        path.chmod(0o660)
    bound.listen(BACKLOG)
    return bound, path.stat().st_ino


def remove_control_socket(path: Path, inode: int) -> None:
    """Remove our socket, and not the one another agent has put there since."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def _find_group() -> int | None:
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def _clear_stale_socket(path: Path) -> None:
    """Remove what a dead agent left; a live one answers and is left alone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise AgentError(
                f"The control socket {path} is in the way: {error.strerror or error}.",
                hint="Remove it if no agent runs here.",
                retryable=False,
            ) from error
    raise AgentError(
        f"Another agent already answers at {path}.",
        hint="Stop it first (systemctl stop ebs-agent), or give this one its own --root DIR.",
        retryable=False,
    )
