"""The control socket's part for the cloud: orders in, progress out, one JSON object a line.

``{"text": …}`` while it goes on, then ``{"done": true, …}`` with what came of it, or ``{"error": …}`` with
``hint`` and ``exit_code``.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from agent.cloud.orders.against_policy import PolicyGuard
from agent.cloud.orders.orphans import OrphanOrders, show_orphan
from agent.cloud.orders.release_all import release_all
from agent.cloud.orders.release_volume import NODE_ORDERS, NodeDesk, NodeSide
from agent.cloud.orders.request_fields import (
    check_words,
    find_volume,
    parse_snapshot_id,
    read_modification,
    read_new_volume,
    refuse_words,
)
from agent.cloud.orders.runner import Follower, Tell
from agent.cloud.orders.snapshots import SnapshotOrders, show_snapshot
from agent.cloud.orders.volumes import VolumeOrders
from agent.cloud.plan.decisions import NodeView
from agent.core.errors import AgentError, ExitCode
from agent.core.model import VolumeId
from agent.core.quoting import quote
from agent.core.units import parse_size
from agent.policy import Policy, PolicyFile
from agent.report import api
from agent.report.board.board import Board
from agent.report.serving.json_lines import open_lines

Words = Mapping[str, Any]
Answer = dict[str, Any]
"""What came of an order: which volume or snapshot it was about, or which there are."""
Order = Callable[["Desk", Words], Awaitable[Answer]]


@dataclass(frozen=True)
class Desk:
    """What orders are carried out with, and what their words are understood by."""

    follower: Follower
    view: Callable[[], NodeView]
    board: Board
    keep: Callable[[VolumeId], None]
    """Gives a released volume back to the policy."""
    policy: Callable[[], Policy]
    policy_file: PolicyFile | None = None

    @property
    def volumes(self) -> VolumeOrders:
        guard = PolicyGuard(self.policy(), self.view(), self.policy_file)
        return VolumeOrders(self.follower, self.view, guard)

    @property
    def snapshots(self) -> SnapshotOrders:
        return SnapshotOrders(self.follower)

    @property
    def orphans(self) -> OrphanOrders:
        return OrphanOrders(self.follower, self.view(), self.policy())

    def read_volume(self, words: Words) -> VolumeId:
        return find_volume(self.board, str(words.get("volume", "")))


PrepareOrders = Callable[[Tell], Awaitable[tuple[Follower, Callable[[], NodeView]]]]
"""Returns what carries orders out, or raises AgentError where AWS is switched off."""


def add_cloud_routes(
    app: web.Application,
    board: Board,
    prepare: PrepareOrders,
    keep: Callable[[VolumeId], None],
    policy: Callable[[], Policy],
    policy_file: PolicyFile | None = None,
    node: NodeSide | None = None,
) -> None:
    """Let the control socket take orders for the cloud: ``POST /v1/cloud/ORDER`` with a JSON object.

    ``node``: does by itself what of an order needs no AWS, and takes ``POST /v1/release``.
    """
    clerk = Clerk(board, prepare, keep, policy, policy_file, node)
    app.router.add_post("/v1/cloud/{order}", clerk.take_order)
    app.router.add_post("/v1/release", clerk.take_release)


@dataclass(frozen=True)
class Clerk:
    """Takes orders, and answers each with its progress and with what came of it."""

    board: Board
    prepare: PrepareOrders
    keep: Callable[[VolumeId], None]
    policy: Callable[[], Policy]
    policy_file: PolicyFile | None
    node: NodeSide | None

    async def take_order(self, request: web.Request) -> web.StreamResponse:
        name, words = request.match_info["order"], await _read_words(request)

        async def carry_out(tell: Tell) -> Answer:
            order = _find_order(name)
            check_words(name, words)
            desk = self.open_node_desk(tell)
            if desk is not None and name in NODE_ORDERS:
                return await NODE_ORDERS[name](desk, words, order)
            return await order(await self._open_desk(tell), words)

        return await _answer(request, carry_out)

    async def take_release(self, request: web.Request) -> web.StreamResponse:
        words = await _read_words(request)

        async def carry_out(tell: Tell) -> Answer:
            desk = self.open_node_desk(tell)
            if desk is None or words.keys() != {"all"} or words["all"] is not True:
                raise refuse_words("What is to be released is not said.", 'The words are {"all": true}.')
            return await release_all(desk)

        return await _answer(request, carry_out)

    async def _open_desk(self, tell: Tell) -> Desk:
        follower, view = await self.prepare(tell)
        return Desk(follower, view, self.board, self.keep, self.policy, self.policy_file)

    def open_node_desk(self, tell: Tell) -> NodeDesk | None:
        """Return what carries orders out on the node first; None where there is no node to do that."""
        if self.node is None:
            return None
        return NodeDesk(self.board, self.node, self.keep, tell, lambda: self._open_desk(tell))


async def _answer(request: web.Request, carry_out: Callable[[Tell], Awaitable[Answer]]) -> web.StreamResponse:
    """Answer with lines: what is told meanwhile, and last what came of it, which may hold an error."""
    async with open_lines(request) as lines:

        async def tell(text: str) -> None:
            await lines.write({"text": text})

        try:
            answer = await carry_out(tell)
        except AgentError as error:
            await lines.write(api.show_error(error))
        else:
            await lines.write(answer if "error" in answer else {"done": True, **answer})
    return lines.stream


async def _read_words(request: web.Request) -> dict[str, Any]:
    try:
        words = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, dict):
        raise AgentError("An order is a JSON object.", retryable=False, exit_code=ExitCode.USAGE)
    return words


# -- Orders --------------------------------------------------------------------------------------------------


async def _attach(desk: Desk, words: Words) -> Answer:
    volume_id = desk.read_volume(words)
    try:
        await desk.volumes.attach(volume_id)
    finally:  # not before: the loop would be woken, and ask for the same attachment beside this order
        desk.keep(volume_id)
    return {"volume_id": volume_id}


async def _detach(desk: Desk, words: Words) -> Answer:
    volume_id = desk.read_volume(words)
    await desk.volumes.detach(volume_id, is_forced=words.get("force") is True)
    return {"volume_id": volume_id}


async def _create(desk: Desk, words: Words) -> Answer:
    return {"volume_id": await desk.volumes.create(read_new_volume(words))}


async def _restore(desk: Desk, words: Words) -> Answer:
    snapshot_id = parse_snapshot_id(words.get("snapshot"))
    volume_id = await desk.volumes.restore(read_new_volume({**words, "from": snapshot_id}))
    desk.keep(volume_id)  # also where everything else was taken away from this node
    return {"volume_id": volume_id, "snapshot_id": snapshot_id}


async def _expand(desk: Desk, words: Words) -> Answer:
    volume_id = desk.read_volume(words)
    await desk.volumes.expand(volume_id, parse_size(str(words.get("size", ""))))
    return {"volume_id": volume_id}


async def _modify(desk: Desk, words: Words) -> Answer:
    volume_id = desk.read_volume(words)
    await desk.volumes.modify(read_modification(volume_id, words))
    return {"volume_id": volume_id}


async def _snapshot(desk: Desk, words: Words) -> Answer:
    is_frozen, is_awaited = words.get("freeze") is not False, words.get("wait") is True
    taken = await desk.snapshots.take(desk.read_volume(words), is_frozen=is_frozen, is_awaited=is_awaited)
    return show_snapshot(taken)


async def _list_snapshots(desk: Desk, words: Words) -> Answer:
    found = await desk.snapshots.list(desk.read_volume(words) if "volume" in words else None)
    return {"snapshots": [show_snapshot(snapshot) for snapshot in found]}


async def _delete_snapshot(desk: Desk, words: Words) -> Answer:
    snapshot_id = parse_snapshot_id(words.get("snapshot"))
    await desk.snapshots.delete(snapshot_id)
    return {"snapshot_id": snapshot_id}


async def _list_orphans(desk: Desk, _words: Words) -> Answer:
    return {"orphans": [show_orphan(orphan) for orphan in await desk.orphans.find()]}


async def _delete_orphan(desk: Desk, words: Words) -> Answer:
    volume_id = desk.read_volume(words)
    await desk.orphans.delete(volume_id)
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
    raise refuse_words(f"There is no order {quote(name, 40)}.", f"The orders are {', '.join(ORDERS)}.")
