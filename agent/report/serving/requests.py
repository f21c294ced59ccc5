"""What holds for every request, whatever it asks: when it began and ended, who pays for it, what went wrong.

Imported with aiohttp, when somebody first asks.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Collection
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware
from typing_extensions import override

from agent.report.serving.connections import Connections
from agent.report.serving.flood_log import Outcome, Tally


def watch_requests(connections: Connections) -> Middleware:
    """Return what tells ``connections`` of each request and its end."""

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = connections.begin_answer(request.transport)
        try:
            return await handler(request)
        finally:
            if connection is not None:
                connections.end_answer(connection)

    return watch


# -- The host that is asked ----------------------------------------------------------------------------------


def refuse_other_hosts(tally: Tally, names: Collection[str] | None = None) -> Middleware:
    """Return what refuses requests to this machine's own address under a name that is not this machine's.

    A browser asks so where a page's host name was turned to 127.0.0.1, to read what only this node may
    (DNS rebinding). Numbers cannot be turned. At an address that others reach, any name may be ours.
    """
    known = {"localhost", *(name.lower() for name in (list_own_names() if names is None else names))}

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get(hdrs.HOST)
        if host is None or not _is_local(request) or _is_number(_strip_port(host)):
            return await handler(request)
        name = _strip_port(host).lower().rstrip(".")
        if name in known or name.endswith(".localhost"):
            return await handler(request)
        tally.note(Outcome.MISDIRECTED)
        text = "This agent does not answer under that name. Ask 127.0.0.1, or this node by its host name.\n"
        return web.Response(text=text, status=HTTPStatus.MISDIRECTED_REQUEST)

    return refuse


def list_own_names() -> tuple[str, ...]:
    """Return this node's host name, with and without its domain, as far as it is known without asking."""
    name = socket.gethostname()
    return name, name.partition(".")[0]


def _is_local(request: web.Request) -> bool:
    own = None if request.transport is None else request.transport.get_extra_info("sockname")
    return isinstance(own, tuple) and _is_loopback(own[0])


def _is_loopback(address: str) -> bool:
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


# -- What aiohttp would log ----------------------------------------------------------------------------------


def make_logger(tally: Tally) -> logging.Logger:
    """Return what aiohttp is to log with: requests that are none are counted, mistakes of ours are told."""
    logger = logging.getLogger(f"{__name__}.{tally.face}")
    logger.setLevel(logging.DEBUG)  # as which it tells of what is not even a method
    logger.propagate = False
    logger.handlers[:] = [_Counting(tally)]
    return logger


class _Counting(logging.Handler):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self._tally = tally

    @override
    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (HttpProcessingError, web.RequestPayloadError)):
            self._tally.note(Outcome.MALFORMED)
        elif isinstance(error, ConnectionError):
            return  # whoever asked went away
        elif record.levelno >= logging.WARNING:
            self._tally.note(Outcome.FAILED, error, what=record.getMessage())
