"""Another user of the node who keeps thousands of slow connections to the agent, in a process of its own."""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NoReturn

NOBODY = 65534
MANY = 2000
BYTE_EVERY_S = 1.0
HEAD = b"GET /metrics HTTP/1.1\r\nX: "
"""Sent a byte at a time and never ended: each keeps its connection busy with nothing."""


@contextmanager
def flooding(port: int, many: int = MANY) -> Iterator[int]:
    """Have another user keep ``many`` slow connections to a port of loopback, each opened again when closed.

    Gives the process. The caller's own processes are not touched: it is forked, since not every user can read
    this Python.
    """
    with forked(lambda: _keep_open(port, many), is_alone=True) as pid:
        yield pid


@contextmanager
def forked(run: Callable[[], NoReturn], *, is_alone: bool = False) -> Iterator[int]:
    """Have another user run something in a process of its own until the block ends; gives the process.

    ``is_alone`` has it keep nothing of what is open here.
    """
    pid = os.fork()
    if pid == 0:
        _be_nobody(run, is_alone=is_alone)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be_nobody(run: Callable[[], NoReturn], *, is_alone: bool) -> NoReturn:
    try:
        if is_alone:
            os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        run()
    finally:
        os._exit(1)


def _keep_open(port: int, many: int) -> NoReturn:
    selector = selectors.DefaultSelector()
    missing = many
    due = monotonic()
    while True:
        for _ in range(min(missing, 200)):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            selector.register(sock, selectors.EVENT_READ, list(HEAD))
            missing -= 1
        for key, _ in selector.select(timeout=0.05):
            selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]  # all of them are sockets
            missing += 1
        if monotonic() >= due:
            due = monotonic() + BYTE_EVERY_S
            for key in list(selector.get_map().values()):
                _send_next(key.fileobj, key.data)  # type: ignore[arg-type]  # all of them are sockets


def _send_next(sock: socket.socket, rest: list[int]) -> None:
    """Send one byte more of the head, or of its last field once it has all."""
    try:
        sock.send(bytes(rest[:1] or b"x"))
    except OSError:
        return  # not connected yet, or closed: that is read
    del rest[:1]
