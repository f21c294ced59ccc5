"""Who listens at a TCP address of this node, by what the kernel shows: for a person to whom it is taken.

Reads ``/proc`` only, and imports little. Of a process in a namespace that is out of sight its user is told.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

_LISTEN = "0A"
"""TCP_LISTEN of include/net/tcp_states.h, as proc_net_tcp.rst has it."""
_WORD_BYTES = 4


class Listener(Struct, frozen=True):
    """Who listens: the user for certain, and the process where it can be seen."""

    uid: int
    pid: int | None = None
    command: str | None = None
    others: frozenset[int] = frozenset()
    """Further processes that hold the socket."""

    def describe(self) -> str:
        """Return it as a clause: ``python3 (process 77) of user bob``."""
        try:
            user = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            user = str(self.uid)
        who = "a process" if self.pid is None else f"{self.command} (process {self.pid})"
        return f"{who} of user {user}"


def find_listener(host: str, port: int, proc: str = "/proc") -> Listener | None:
    """Return who listens where ``host`` and ``port`` would, None where nobody does or it is not told."""
    for table in ("net/tcp", "net/tcp6"):
        for uid, inode in _list_sockets(Path(proc, table), host, port):
            holders = tuple(_find_holders(Path(proc), inode))
            if not holders:
                return Listener(uid)
            command = _read_command(Path(proc, str(holders[0])))
            return Listener(uid, holders[0], command, frozenset(holders[1:]))
    return None


def _list_sockets(table: Path, host: str, port: int) -> Iterator[tuple[int, str]]:
    """Yield user and inode of each socket in a table that listens there."""
    try:
        lines = table.read_text("ascii", "replace").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        address, _, number = fields[1].partition(":")
        if fields[3] == _LISTEN and int(number, 16) == port and _is_same(host, _parse_address(address)):
            yield int(fields[7]), fields[9]


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address of the table: 32-bit words, each as this machine keeps a number."""
    raw = bytes.fromhex(text)
    words = [raw[at : at + _WORD_BYTES] for at in range(0, len(raw), _WORD_BYTES)]
    found = ipaddress.ip_address(
        b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    )
    return getattr(found, "ipv4_mapped", None) or found


def _is_same(host: str, found: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether one who listens at ``found`` is in the way of one who would at ``host``."""
    try:
        wanted = ipaddress.ip_address(host)
    except ValueError:
        return True  # a name, which may be any of them
    return found == wanted or found.is_unspecified or wanted.is_unspecified


def _find_holders(proc: Path, inode: str) -> Iterator[int]:
    sought = f"socket:[{inode}]"
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        # It may end, or not be ours to look at, at any moment.
        with contextlib.suppress(OSError):
            if any(_read_link(descriptor) == sought for descriptor in (process / "fd").iterdir()):
                yield int(process.name)


def _read_link(descriptor: Path) -> str | None:
    try:
        return os.readlink(descriptor)  # noqa: PTH115 -- it leads to no file
    except OSError:
        return None


def _read_command(process: Path) -> str:
    """Return the name of a process. Whoever runs it chose it."""
    try:
        name = (process / "comm").read_text("utf-8", "replace").rstrip("\n")
    except OSError:
        return "a process"
    return "".join(character if character.isprintable() else "?" for character in name)
