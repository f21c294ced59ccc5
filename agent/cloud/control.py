"""The control socket's part for the cloud: orders in, progress out, one JSON object a line.

``{"text": …}`` while it goes on, then ``{"done": true, …}`` with what came of it, or ``{"error": …}`` with
``hint`` and ``exit_code``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from aiohttp import web
from pydantic import ValidationError

from agent.cloud.calls import ModifyVolume
from agent.cloud.decisions import NodeView
from agent.cloud.following import Follower, Tell
from agent.cloud.named import NewVolume
from agent.cloud.orders import VolumeOrders
from agent.cloud.orphan_orders import OrphanOrders, show_orphan
from agent.cloud.snapshot_orders import SnapshotOrders, show_snapshot
from agent.cloud.words import check_words
from agent.errors import AgentError, ExitCode
from agent.model import VolumeId, parse_volume_id
from agent.policy import Policy
from agent.policy.checks import check_class, find_size_fault
from agent.policy.entries import VolumeClass, VolumeType
from agent.policy.fields import MAX_COUNT
from agent.quoting import quote
from agent.report import api
from agent.report.board import Board
from agent.report.events import EventName
from agent.units import GIB, parse_size

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

    @property
    def volumes(self) -> VolumeOrders:
        return VolumeOrders(self.follower, self.view)

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
) -> None:
    """Let the control socket take orders for the cloud: ``POST /v1/cloud/ORDER`` with a JSON object."""

    async def take(request: web.Request) -> web.StreamResponse:
        words = await _read_words(request)
        stream = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await stream.prepare(request)

        async def tell(text: str) -> None:
            await _write(stream, {"text": text})

        try:
            order = _find_order(request.match_info["order"])
            check_words(request.match_info["order"], words)
            follower, view = await prepare(tell)
            answer = await order(Desk(follower, view, board, keep, policy), words)
        except AgentError as error:
            await _write(stream, api.show_error(error))
        else:
            await _write(stream, {"done": True, **answer})
        return stream

    app.router.add_post("/v1/cloud/{order}", take)


async def _read_words(request: web.Request) -> dict[str, Any]:
    try:
        words = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, dict):
        raise AgentError("An order is a JSON object.", retryable=False, exit_code=ExitCode.USAGE)
    return words


async def _write(stream: web.StreamResponse, line: Mapping[str, Any]) -> None:
    await stream.write(json.dumps(line, default=str).encode() + b"\n")


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
    desk.board.record(EventName.VOLUME_DELETED, volume_id, by="order")
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
    raise _wrong(f"There is no order {quote(name, 40)}.", f"The orders are {', '.join(ORDERS)}.")


# -- Their words ---------------------------------------------------------------------------------------------


def find_volume(board: Board, text: str) -> VolumeId:
    """Return the volume a person means: by the policy's name, by device, or by ID, known here or not."""
    status = board.find(text)
    if status is not None and status.volume_id is not None:
        return status.volume_id
    return parse_volume_id(text)


def parse_snapshot_id(text: object) -> str:
    """Return ``text`` as a snapshot ID, or raise: ``snap-`` and 8 or 17 hexadecimal digits."""
    if isinstance(text, str) and re.fullmatch(r"snap-(?:[0-9a-f]{8}|[0-9a-f]{17})", text, re.ASCII):
        return text
    raise AgentError(
        f"{quote(str(text))} is not an EBS snapshot ID.",
        hint="An ID is snap- followed by 8 or 17 hexadecimal digits, as in snap-0123456789abcdef0.",
        retryable=False,
        exit_code=ExitCode.USAGE,
    )


def read_new_volume(words: Mapping[str, Any]) -> NewVolume:
    """Return the volume that was asked for; raises AgentError where its words contradict each other."""
    size = words.get("size")
    size_bytes = None if size is None else parse_size(str(size))
    if size_bytes is None and words.get("from") is None:
        raise _wrong(
            "A new volume needs a size, or a snapshot to be made from.", "Add --size 500GiB or --from snap-…."
        )
    if size_bytes is not None and (size_bytes <= 0 or size_bytes % GIB):
        raise _wrong("A volume's size is whole GiB.")
    volume_class = _read_class(words)
    fault = None if size_bytes is None else find_size_fault(size_bytes, volume_class.type)
    if fault is not None:
        raise _wrong(fault)
    return NewVolume(
        size_gib=None if size_bytes is None else size_bytes // GIB,
        type=volume_class.type,
        iops=volume_class.iops,
        throughput=volume_class.throughput,
        is_encrypted=True if volume_class.kms_key_id else volume_class.encrypted,
        kms_key_id=volume_class.kms_key_id,
        snapshot_id=None if words.get("from") is None else parse_snapshot_id(words["from"]),
        name=words.get("name"),
    )


def read_modification(volume_id: VolumeId, words: Words) -> ModifyVolume:
    """Return the modification that was asked for; raises AgentError where its words say none."""
    kind = words.get("type")
    if kind is not None and kind not in get_args(VolumeType):
        raise _wrong(
            f"{quote(kind, 20)} is no type of EBS volume.", f"Choose from {', '.join(get_args(VolumeType))}."
        )
    iops, throughput = _read_count(words, "iops"), _read_count(words, "throughput")
    if kind is iops is throughput is None:
        raise _wrong("A modification needs something to change.", "Add --type, --iops or --throughput.")
    if kind is not None:
        _read_class({"type": kind, "iops": iops, "throughput": throughput})
    return ModifyVolume(volume_id, type=kind, iops=iops, throughput=throughput)


def _read_class(words: Mapping[str, Any]) -> VolumeClass:
    """Return the words as a class of the policy file, held to the same rules."""
    names = ("type", "iops", "throughput", "encrypted", "kms_key_id")
    try:
        volume_class = VolumeClass.model_validate(
            {name: words[name] for name in names if words.get(name) is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise _wrong(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for finding in check_class(volume_class):
        raise _wrong(finding.message, finding.hint)
    return volume_class


def _wrong(message: str, hint: str | None = None) -> AgentError:
    return AgentError(message, hint, retryable=False, exit_code=ExitCode.USAGE)


def _read_count(words: Mapping[str, Any], name: str) -> int | None:
    value = words.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_COUNT):
        return value
    raise _wrong(f"{name} is not a number of at least 1 and at most {MAX_COUNT}.")
