"""Who may give orders at the control socket: root. Whoever may open it may look.

Who connected is the kernel's word (SO_PEERCRED), as it was when they did.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from agent.core.errors import ExitCode, RefusedError
from agent.report.serving.peer import read_peer_uid
from agent.report.serving.sockets import GROUP

READING: Mapping[str, frozenset[str]] = {
    "/v1/wait": frozenset(),
    "/v1/cloud/{order}": frozenset({"snapshots", "orphans"}),
}
"""What changes nothing though it is asked by POST, and of these the orders that do not."""


class NotPermittedError(RefusedError):
    """Whoever asks may look, and not give orders."""


@web.middleware
async def refuse_orders_of_others(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Raise NotPermittedError for an order from anyone but root, or, in development, the agent's own user."""
    uid = read_uid(request)
    if not may_order(uid) and not is_reading(request):
        who = "an unknown user" if uid is None else _name_user(uid)
        raise NotPermittedError(
            f"Only root may give the agent orders: {request.method} {request.path} was asked by {who}.",
            hint=f"Run the command as root (sudo). The group {GROUP} may look: status, plan, explain, events,"
            " snapshots, orphans, wait.",
            retryable=False,
            exit_code=ExitCode.REFUSED,
        )
    return await handler(request)


def read_uid(request: web.Request) -> int | None:
    """Return the user of the process that connected; None where there is no telling."""
    sock = None if request.transport is None else request.transport.get_extra_info("socket")
    return None if sock is None else read_peer_uid(sock)


def may_order(uid: int | None) -> bool:
    """Whether this user's word changes anything."""
    return uid in {0, os.geteuid()}


def is_reading(request: web.Request) -> bool:
    """Whether it changes nothing; of what is not known to be so it is not taken for granted."""
    if request.method in {hdrs.METH_GET, hdrs.METH_HEAD}:
        return True
    resource = request.match_info.route.resource
    orders = None if resource is None else READING.get(resource.canonical)
    return orders is not None and ("order" not in request.match_info or request.match_info["order"] in orders)


def _name_user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (user ID {uid})"
    except KeyError:
        return f"user ID {uid}"
