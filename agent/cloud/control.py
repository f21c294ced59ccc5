"""The control socket's part for the cloud: orders in, progress out, one JSON object a line.

``{"text": …}`` while it goes on, then ``{"done": true}`` or ``{"error": …, "hint": …, "exit_code": …}``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web

from agent.cloud.calls import ModifyVolume
from agent.cloud.orders import NewVolume, Orders
from agent.errors import AgentError, ExitCode
from agent.model import VolumeId, parse_volume_id
from agent.report import api
from agent.report.board import Board
from agent.units import GIB, parse_size

PrepareOrders = Callable[[], Awaitable[Orders]]


class Keeper(Protocol):
    """What gives a released volume back to the policy."""

    def keep(self, volume_id: VolumeId) -> None:
        """Have the volume used again as the policy says."""


def add_cloud_routes(app: web.Application, board: Board, prepare: PrepareOrders, keeper: Keeper) -> None:
    """Let the control socket take orders for the cloud: ``POST /v1/cloud/ORDER`` with a JSON object."""

    async def take(request: web.Request) -> web.StreamResponse:
        words = await _read_words(request)
        stream = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await stream.prepare(request)
        try:
            orders = await prepare()
            async for text in _begin(request.match_info["order"], words, orders, board, keeper):
                await _write(stream, {"text": text})
        except AgentError as error:
            await _write(stream, api.show_error(error))
        else:
            await _write(stream, {"done": True})
        return stream

    app.router.add_post("/v1/cloud/{order}", take)


async def _read_words(request: web.Request) -> dict[str, Any]:
    try:
        words = json.loads(await request.read() or b"{}")
    except ValueError:
        words = None
    if not isinstance(words, dict):
        raise AgentError("An order is a JSON object.", retryable=False, exit_code=ExitCode.USAGE)
    return words


async def _write(stream: web.StreamResponse, line: Mapping[str, Any]) -> None:
    await stream.write(json.dumps(line, default=str).encode() + b"\n")


def _begin(
    order: str, words: Mapping[str, Any], orders: Orders, board: Board, keeper: Keeper
) -> AsyncIterator[str]:
    """Return the progress of an order; raises AgentError where it is not one."""
    if order == "create":
        return orders.create(_read_new_volume(words))
    if order == "delete-snapshot":
        return orders.delete_snapshot(str(words["snapshot"]))
    volume_id = find_volume(board, str(words.get("volume", "")))
    if order == "attach":
        keeper.keep(volume_id)
        return orders.attach(volume_id)
    if order == "detach":
        return orders.detach(volume_id, is_forced=bool(words.get("force")))
    if order == "expand":
        return orders.expand(volume_id, parse_size(str(words.get("size", ""))))
    if order == "modify":
        changes = (words.get("type"), _read_count(words, "iops"), _read_count(words, "throughput"))
        kind, iops, throughput = changes
        return orders.modify(ModifyVolume(volume_id, type=kind, iops=iops, throughput=throughput))
    if order == "snapshot":
        is_frozen = bool(words.get("freeze", True))
        return orders.snapshot(volume_id, is_frozen=is_frozen, is_awaited=bool(words.get("wait")))
    if order == "snapshots":
        return orders.list_snapshots(volume_id)
    raise AgentError(f"There is no order {order!r:.40}.", retryable=False, exit_code=ExitCode.USAGE)


def find_volume(board: Board, text: str) -> VolumeId:
    """Return the volume a person means: by the policy's name, by device, or by ID, known here or not."""
    status = board.find(text)
    if status is not None and status.volume_id is not None:
        return status.volume_id
    return parse_volume_id(text)


def _read_new_volume(words: Mapping[str, Any]) -> NewVolume:
    size = words.get("size")
    size_bytes = None if size is None else parse_size(str(size))
    if size_bytes is None and words.get("from") is None:
        raise AgentError(
            "A new volume needs a size, or a snapshot to be made from.",
            hint="Add --size 500GiB or --from snap-….",
            retryable=False,
            exit_code=ExitCode.USAGE,
        )
    if size_bytes is not None and (size_bytes <= 0 or size_bytes % GIB):
        raise AgentError("A volume's size is whole GiB.", retryable=False, exit_code=ExitCode.USAGE)
    return NewVolume(
        size_gib=None if size_bytes is None else size_bytes // GIB,
        type=str(words.get("type") or "gp3"),
        iops=_read_count(words, "iops"),
        throughput=_read_count(words, "throughput"),
        is_encrypted=words.get("encrypted"),
        kms_key_id=words.get("kms_key_id"),
        snapshot_id=words.get("from"),
        name=words.get("name"),
    )


def _read_count(words: Mapping[str, Any], name: str) -> int | None:
    value = words.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise AgentError(f"{name} is not a number of at least 1.", retryable=False, exit_code=ExitCode.USAGE)
