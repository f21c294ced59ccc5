"""Whether the host that is asked for is this node: another's page may have a browser ask for any name."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from http import HTTPStatus

from agent.report.http.app import Guard
from agent.report.http.messages import TEXT, Answer, Request

_MISDIRECTED = Answer(
    b"This agent does not answer under that name. Ask 127.0.0.1, or this node by its host name.\n",
    HTTPStatus.MISDIRECTED_REQUEST,
    TEXT,
)


def refuse_other_hosts(names: Collection[str] | None = None) -> Guard:
    """Return what refuses requests to this machine's own address under a name that is not this machine's.

    A browser asks so where a page's host name was turned to 127.0.0.1, to read what only this node may
    (DNS rebinding). Numbers cannot be turned. At an address that others reach, any name may be ours.
    """
    known = {"localhost", *(name.lower() for name in (list_own_names() if names is None else names))}

    def refuse(request: Request) -> Answer | None:
        host = request.headers.get("host")
        if host is None or not _is_loopback(request.peer.our_address) or _is_number(_strip_port(host)):
            return None
        name = _strip_port(host).lower().rstrip(".")
        return None if name in known or name.endswith(".localhost") else _MISDIRECTED

    return refuse


def list_own_names() -> tuple[str, ...]:
    """Return this node's host name, with and without its domain, as far as it is known without asking."""
    name = socket.gethostname()
    return name, name.partition(".")[0]


def _is_loopback(address: str | None) -> bool:
    if address is None:
        return False
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def _strip_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
