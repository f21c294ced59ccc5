"""The control socket's part for the cloud: orders in, progress out, one JSON object a line.

``{"text": …}`` while it goes on, with ``percent`` where it is known how far it is, then ``{"done": true, …}``
with what came of it, or ``{"error": …}`` with ``hint`` and ``exit_code``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from agent.cloud.orders.context import Answer, NodeOrderContext, NodeSide, Order, OrderContext, OrderRequest
from agent.cloud.orders.orphans import show_orphan
from agent.cloud.orders.release.everything import release_all
from agent.cloud.orders.release.one_volume import NODE_ORDERS
from agent.cloud.orders.request_fields import (
    check_request,
    parse_snapshot_id,
    read_modification,
    read_new_volume,
)
from agent.cloud.orders.runner import Follower, Report
from agent.cloud.orders.snapshots import show_snapshot
from agent.cloud.plan.decisions import NodeView
from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import VolumeId
from agent.core.quoting import quote
from agent.core.suggestions import hint_at_known
from agent.core.units import parse_size
from agent.policy import Policy, PolicyFile
from agent.report import api
from agent.report.board.board import Board
from agent.report.control.json_lines import GOES_ON, open_lines
from agent.report.http.app import App
from agent.report.http.messages import Request

PrepareOrders = Callable[[Report], Awaitable[tuple[Follower, Callable[[], NodeView]]]]
"""Returns what carries orders out, or raises AgentError where AWS is switched off."""


def add_cloud_routes(app: App, taker: OrderTaker) -> None:
    """Let the control socket take orders for the cloud: ``POST /v1/cloud/ORDER`` with a JSON object.

    Where ``taker`` has a node's side it takes ``POST /v1/release`` as well.
    """
    app.add("POST", "/v1/cloud/{order}", taker.take_order)
    app.add("POST", "/v1/release", taker.take_release)


class OrderTaker(Struct, frozen=True):
    """Takes orders, and answers each with its progress and with what came of it."""

    board: Board
    prepare: PrepareOrders
    keep: Callable[[VolumeId], None]
    policy: Callable[[], Policy]
    policy_file: PolicyFile | None = None
    node: NodeSide | None = None
    """Does by itself what of an order needs no AWS."""

    async def take_order(self, http: Request) -> None:
        name, request = http.words["order"], _read_request(http)

        async def carry_out(report: Report) -> Answer:
            order = _find_order(name)
            check_request(name, request)
            context = self.open_node_context(report)
            if context is not None and name in NODE_ORDERS:
                return await NODE_ORDERS[name](context, request, order)
            return await order(await self._open_aws(report), request)

        await _answer(http, carry_out)

    async def take_release(self, http: Request) -> None:
        request = _read_request(http)

        async def carry_out(report: Report) -> Answer:
            context = self.open_node_context(report)
            if context is None or request.keys() != {"all"} or request["all"] is not True:
                raise InvalidValueError("What is to be released is not said.", 'The words are {"all": true}.')
            return await release_all(context)

        await _answer(http, carry_out)

    async def _open_aws(self, report: Report) -> OrderContext:
        follower, view = await self.prepare(report)
        return OrderContext(follower, view, self.board, self.keep, self.policy, self.policy_file)

    def open_node_context(self, report: Report) -> NodeOrderContext | None:
        """Return what carries orders out on the node first; None where there is no node to do that."""
        if self.node is None:
            return None
        return NodeOrderContext(self.board, self.node, self.keep, report, lambda: self._open_aws(report))


async def _answer(http: Request, carry_out: Callable[[Report], Awaitable[Answer]]) -> None:
    """Answer with lines: what is told meanwhile, and last what came of it, which may hold an error."""
    async with open_lines(http) as lines:

        async def report(text: str | None, percent: float | None = None) -> None:
            far = {} if percent is None else {"percent": percent}
            await lines.write({**(GOES_ON if text is None else {"text": text}), **far})

        try:
            answer = await carry_out(report)
        except AgentError as error:
            await lines.write(api.show_error(error), is_last=True)
        else:
            await lines.write(answer if "error" in answer else {"done": True, **answer}, is_last=True)


def _read_request(http: Request) -> dict[str, Any]:
    try:
        request = json.loads(http.body or b"{}")
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise InvalidValueError("An order is a JSON object.")
    return request


# -- Orders --------------------------------------------------------------------------------------------------


async def _attach(context: OrderContext, request: OrderRequest) -> Answer:
    volume_id = context.read_volume(request)
    try:
        await context.volumes.attach(volume_id)
    finally:  # not before: the loop would be woken, and ask for the same attachment beside this order
        context.keep(volume_id)
    return {"volume_id": volume_id}


async def _detach(context: OrderContext, request: OrderRequest) -> Answer:
    volume_id = context.read_volume(request)
    await context.volumes.detach(volume_id, is_forced=request.get("force") is True)
    return {"volume_id": volume_id}


async def _create(context: OrderContext, request: OrderRequest) -> Answer:
    return {"volume_id": await context.volumes.create(read_new_volume(request))}


async def _restore(context: OrderContext, request: OrderRequest) -> Answer:
    snapshot_id = parse_snapshot_id(request.get("snapshot"))
    volume_id = await context.volumes.restore(read_new_volume({**request, "from": snapshot_id}))
    context.keep(volume_id)  # also where everything else was taken away from this node
    return {"volume_id": volume_id, "snapshot_id": snapshot_id}


async def _expand(context: OrderContext, request: OrderRequest) -> Answer:
    volume_id = context.read_volume(request)
    await context.volumes.expand(volume_id, parse_size(str(request.get("size", ""))))
    return {"volume_id": volume_id}


async def _modify(context: OrderContext, request: OrderRequest) -> Answer:
    volume_id = context.read_volume(request)
    await context.volumes.modify(read_modification(volume_id, request))
    return {"volume_id": volume_id}


async def _snapshot(context: OrderContext, request: OrderRequest) -> Answer:
    is_frozen, is_awaited = request.get("freeze") is not False, request.get("wait") is True
    taken = await context.snapshots.take(
        context.read_volume(request), is_frozen=is_frozen, is_awaited=is_awaited
    )
    return show_snapshot(taken)


async def _list_snapshots(context: OrderContext, request: OrderRequest) -> Answer:
    found = await context.snapshots.list(context.read_volume(request) if "volume" in request else None)
    return {"snapshots": [show_snapshot(snapshot) for snapshot in found]}


async def _delete_snapshot(context: OrderContext, request: OrderRequest) -> Answer:
    snapshot_id = parse_snapshot_id(request.get("snapshot"))
    await context.snapshots.delete(snapshot_id)
    return {"snapshot_id": snapshot_id}


async def _list_orphans(context: OrderContext, _request: OrderRequest) -> Answer:
    return {"orphans": [show_orphan(orphan) for orphan in await context.orphans.find()]}


async def _delete_orphan(context: OrderContext, request: OrderRequest) -> Answer:
    volume_id = context.read_volume(request)
    await context.orphans.delete(volume_id)
    return {"volume_id": volume_id}


ORDERS: Mapping[str, Order] = {
    "attach": _attach,
    "detach": _detach,
    "create": _create,
    "restore": _restore,
    "expand": _expand,
    "modify": _modify,
    "snapshot": _snapshot,
    "snapshots": _list_snapshots,
    "delete-snapshot": _delete_snapshot,
    "orphans": _list_orphans,
    "delete-orphan": _delete_orphan,
}


def _find_order(name: str) -> Order:
    if name in ORDERS:
        return ORDERS[name]
    known = hint_at_known(name, ORDERS, "The orders are")
    raise InvalidValueError(f"There is no order {quote(name, 40)}.", known)
