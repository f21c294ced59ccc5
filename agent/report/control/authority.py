"""Who may give orders at the control socket: root, at the one that is root's. The group looks at another.

Who connected is the kernel's word (SO_PEERCRED), as it was when they did.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from agent.core.errors import ExitCode
from agent.report.http.app import Guard
from agent.report.http.messages import NotPermittedError, Request
from agent.report.serving.sockets import GROUP

READING: Mapping[str, frozenset[str]] = {
    "/v1/wait": frozenset(),
    "/v1/cloud/{order}": frozenset({"snapshots", "orphans"}),
}
"""What changes nothing though it is asked by POST, and of these the orders that do not."""


def guard_orders(request: Request) -> None:
    """Raise NotPermittedError for an order from anyone but root, or, in development, the agent's own user."""
    uid = request.peer.uid
    if not may_order(uid) and not is_reading(request):
        who = "an unknown user" if uid is None else _name_user(uid)
        raise NotPermittedError(
            f"Only root may give the agent orders: {request.method} {request.path} was asked by {who}.",
            hint=f"Run the command as root (sudo). The group {GROUP} may look: status, plan, explain, events,"
            " snapshots, orphans, wait.",
            retryable=False,
            exit_code=ExitCode.REFUSED,
        )


def make_looking_guard(orders_at: Path) -> Guard:
    """Return what raises NotPermittedError for an order from anybody, where people only look."""

    def guard(request: Request) -> None:
        guard_orders(request)
        if not is_reading(request):
            raise NotPermittedError(
                f"This socket is for looking, and {request.method} {request.path} is an order.",
                hint=f"Orders are taken at {orders_at}, from root.",
                retryable=False,
                exit_code=ExitCode.REFUSED,
            )

    return guard


def may_order(uid: int | None) -> bool:
    """Whether this user's word changes anything."""
    return uid in {0, os.geteuid()}


def is_reading(request: Request) -> bool:
    """Whether it changes nothing; of what is not known to be so it is not taken for granted."""
    if request.method in {"GET", "HEAD"}:
        return True
    orders = None if request.route is None else READING.get(request.route)
    return orders is not None and ("order" not in request.words or request.words["order"] in orders)


def _name_user(uid: int) -> str:
    try:
        return f"{pwd.getpwuid(uid).pw_name} (user ID {uid})"
    except KeyError:
        return f"user ID {uid}"
