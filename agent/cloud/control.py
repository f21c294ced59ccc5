"""The control socket's part for the cloud: orders in, progress out, one JSON object a line.

``{"text": …}`` while it goes on, then ``{"done": true}`` or ``{"error": …, "hint": …, "exit_code": …}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Protocol

from aiohttp import web
from pydantic import ValidationError

from agent.cloud.calls import ModifyVolume
from agent.cloud.orders import NewVolume, Orders
from agent.errors import AgentError, ExitCode
from agent.model import VolumeId, parse_volume_id
from agent.policy.checks import check_class
from agent.policy.entries import VolumeClass
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
        return orders.create(read_new_volume(words))
    if order == "delete-snapshot":
        return orders.delete_snapshot(parse_snapshot_id(words.get("snapshot")))
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


def parse_snapshot_id(text: object) -> str:
    """Return ``text`` as a snapshot ID, or raise: ``snap-`` and 8 or 17 hexadecimal digits."""
    if isinstance(text, str) and re.fullmatch(r"snap-(?:[0-9a-f]{8}|[0-9a-f]{17})", text, re.ASCII):
        return text
    raise AgentError(
        f"{str(text)!r:.60} is not an EBS snapshot ID.",
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
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise _wrong(f"{name} is not a number of at least 1.")
