"""A process that answers once, and can do next to nothing else: for large libraries, and what others wrote.

It is forked by the zygote, imports its function with the daemon's rights, since that is the daemon's own
code, and gives them up before it sees the first byte of the request. From then on the kernel does nothing for
it but take the answer and give it memory, whoever it is: the daemon's unit may make nobody of no process. A
request is bytes until the end of the stream, and so is the answer; the daemon holds the answer to a schema of
its own, and ends the process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any

from agent.base.seal import drop_capabilities, prctl, seal
from agent.node.isolate import unprivileged

_PR_SET_PDEATHSIG = 1
_CHUNK_BYTES = 64 << 10
_LIMITS = {
    resource.RLIMIT_AS: 1 << 30,
    resource.RLIMIT_CPU: 60,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 64,
    resource.RLIMIT_NPROC: 0,
}


def serve_once(sock: socket.socket, name: str) -> None:
    """Read a request from ``sock`` until its end, and answer it by what is called ``package.module:name``.

    That function makes bytes of bytes; one that fails answers nothing, and one that is asked nothing is not
    called. Its module may have a function
    ``prepare`` beside it, called while there are rights yet.
    """
    parent_pid = os.getppid()
    function = find_function(name)
    give_up_rights()
    # The kernel forgets it of whoever becomes another user.
    die_with_parent()
    if os.getppid() != parent_pid:
        return
    seal_off()
    parts = []
    while part := sock.recv(_CHUNK_BYTES):
        parts.append(part)
    if parts:  # or whoever was about to ask has ended
        sock.sendall(function(b"".join(parts)))


def find_function(name: str) -> Callable[[bytes], bytes]:
    """Import what is called ``package.module:name``, and have it prepared."""
    place, _, word = name.partition(":")
    module: Any = importlib.import_module(place)
    if hasattr(module, "prepare"):
        module.prepare()
    function: Callable[[bytes], bytes] = getattr(module, word)
    return function


def give_up_rights() -> None:
    """Be nobody, where this may become another user, without a capability, and write no file."""
    unprivileged.be_killed_first()
    if os.geteuid() == 0:
        with contextlib.suppress(PermissionError):  # the first thing that is refused is to leave all groups
            unprivileged.become(unprivileged.NOBODY_UID)
    drop_capabilities()
    unprivileged.give_up_privileges()
    unprivileged.hide_memory()
    unprivileged.limit_resources(_LIMITS)


def seal_off() -> None:
    """Have all else refused by the kernel; OSError where it cannot and this is root still.

    root owns files and devices without any capability.
    """
    try:
        seal()
    except OSError:
        if os.geteuid() == 0:
            raise


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
