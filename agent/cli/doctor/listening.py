"""Who answers where monitoring asks: the agent, or somebody who was there first."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from agent.cli.client import connect_to_agent
from agent.cli.doctor.findings import Finding, Grade
from agent.node.isolate.unprivileged import NOBODY_UID, find_uid
from agent.node.kernel.tcp_listeners import Listener, find_listener

if TYPE_CHECKING:
    from agent.policy import Policy

SUBJECT = "metrics and page"
WEB_USER = "ebs-agent-web"
"""Whose the socket is where a unit opened it for the agent."""
DEFAULT_ADDRESS = "127.0.0.1", 9842
_UCRED = struct.Struct("iII")
"""struct ucred of unix(7): process, user and group."""


def find_agent(path: Path) -> int | None:
    """Return the process that listens at the control socket, None where none does."""
    try:
        with connect_to_agent(path, 1.0) as probe:
            pid, _, _ = _UCRED.unpack(probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError:
        return None
    return int(pid)


def find_parent(pid: int | None) -> int | None:
    """Return the parent of a process: the agent is that of what answers in its place, on its own socket."""
    try:
        return None if pid is None else psutil.Process(pid).ppid()
    except psutil.Error:
        return None


def examine_listener(
    policy: Policy | None,
    path: Path,
    find: Callable[[str, int], Listener | None] = find_listener,
) -> Finding:
    """Tell who listens at the policy's address; ``path`` is the control socket's."""
    host, port = DEFAULT_ADDRESS if policy is None else (policy.agent.http.host, policy.agent.http.port)
    where = f"{host}:{port}"
    agent, listener = find_agent(path), find(host, port)
    if listener is None and agent is None:
        return Finding(SUBJECT, Grade.OK, f"{where} is free for the agent")
    if listener is None:
        mend = "Why, is in the log: journalctl -u ebs-agent -g http.unavailable."
        return Finding(SUBJECT, Grade.WARNING, f"nobody listens at {where}, though an agent runs", mend)
    if agent is not None and agent in {listener.pid, find_parent(listener.pid), *listener.others}:
        return Finding(SUBJECT, Grade.OK, f"the agent listens at {where}")
    if listener.pid is None and listener.uid in {0, find_uid(WEB_USER)} - {NOBODY_UID}:
        mend = "Run as root, which is told whose it is: sudo ebs-agent doctor."
        return Finding(SUBJECT, Grade.WARNING, f"{listener.describe()} listens at {where}", mend)
    found = f"{listener.describe()} listens at {where}, and answers there in the agent's place"
    mend = "End that, or set agent.http.listen in the policy to a free address and reload it."
    return Finding(SUBJECT, Grade.FAILURE, found, mend)
