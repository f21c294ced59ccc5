"""Admin commands: identify, log pages, features, events, abort, keep alive.

Each function answers one command of a controller, with bytes or with a result, or raises CommandError.
Nothing here waits or knows of connections.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.ebs import identify, logpage
from tests.ebs.errors import CommandError, Status
from tests.ebs.fabrics import Connect
from tests.ebs.nvm import NAMESPACE_ID
from tests.ebs.record import VolumeRecord
from tests.ebs.request import Request

GET_LOG_PAGE, IDENTIFY, ABORT, SET_FEATURES, GET_FEATURES, EVENT_REQUEST, KEEP_ALIVE = (
    *(0x02, 0x06, 0x08, 0x09, 0x0A),
    *(0x0C, 0x18),
)

CHANGED_NAMESPACES = 0x04
_MAX_LOG_BYTES = 4096
_RETAIN_EVENT = 1 << 15  # cdw10 of Get Log Page

_WRITE_CACHE, _QUEUES, _EVENTS, _KEEP_ALIVE, _HOST_ID = 0x06, 0x07, 0x0B, 0x0F, 0x81
_MAX_QUEUES = 64


@dataclass
class AdminState:
    """What a host has set on its controller, and what it has yet to be told."""

    connect: Connect
    keep_alive_ms: int
    enabled_events: int = 0
    has_changed_namespace: bool = False
    is_event_masked: bool = False
    event_requests: list[Request] = field(default_factory=list)


@dataclass(frozen=True)
class Reply:
    """What a command is answered with: ``page`` for commands that read, ``result`` for the others."""

    page: bytes | None = None
    result: int = 0


def answer_identify(request: Request, record: VolumeRecord, controller_id: int) -> Reply:
    page = identify.pack_page(
        record,
        controller_id,
        cns=request.cdw10 & 0xFF,
        namespace_id=request.namespace_id,
        dword11=request.cdw11,
    )
    return Reply(page)


def answer_get_log_page(request: Request, state: AdminState, pack_statistics: Callable[[], bytes]) -> Reply:
    """Return what the host asked for of a log page.

    Amazon's own tools ask page 0xD0 for one dword more than their buffer holds: what counts is the buffer.
    """
    page_id = request.cdw10 & 0xFF
    dwords = (request.cdw10 >> 16 | (request.cdw11 & 0xFFFF) << 16) + 1
    offset = request.cdw12 | request.cdw13 << 32
    if page_id == logpage.PAGE_ID:
        if request.namespace_id not in {NAMESPACE_ID, 0xFFFFFFFF}:
            raise CommandError(Status.INVALID_NAMESPACE)
        page = pack_statistics()
    elif page_id == CHANGED_NAMESPACES:
        page = struct.pack("<I", NAMESPACE_ID if state.has_changed_namespace else 0).ljust(4096, b"\0")
        if not request.cdw10 & _RETAIN_EVENT:
            state.has_changed_namespace = state.is_event_masked = False
    elif page_id in {0x01, 0x02, 0x03}:  # errors, health, firmware: nothing happened to this controller
        page = bytes(_MAX_LOG_BYTES)
    else:
        raise CommandError(Status.INVALID_LOG_PAGE)
    if offset > len(page) or offset % 4:
        raise CommandError(Status.INVALID_FIELD)
    return Reply(page[offset : offset + dwords * 4])


def answer_set_features(request: Request, state: AdminState) -> Reply:
    feature = request.cdw10 & 0xFF
    if feature == _QUEUES:
        submission, completion = request.cdw11 & 0xFFFF, request.cdw11 >> 16
        if 0xFFFF in {submission, completion}:
            raise CommandError(Status.INVALID_FIELD)
        return Reply(result=_pack_queues(min(submission, completion) + 1))
    if feature == _EVENTS:
        state.enabled_events = request.cdw11
        return Reply()
    if feature == _KEEP_ALIVE:
        state.keep_alive_ms = request.cdw11
        return Reply()
    if feature == _WRITE_CACHE:  # flushes are always needed; a host that hears otherwise would skip them
        if request.cdw11 & 1:
            return Reply()
        raise CommandError(Status.FEATURE_NOT_CHANGEABLE)
    raise CommandError(Status.INVALID_FIELD)


def answer_get_features(request: Request, state: AdminState) -> Reply:
    feature = request.cdw10 & 0xFF
    if feature == _HOST_ID:
        return Reply(state.connect.host_id)
    results = {
        _QUEUES: _pack_queues(_MAX_QUEUES),
        _EVENTS: state.enabled_events,
        _KEEP_ALIVE: state.keep_alive_ms,
        _WRITE_CACHE: 1,
    }
    try:
        return Reply(result=results[feature])
    except KeyError:
        raise CommandError(Status.INVALID_FIELD) from None


def take_event_request(request: Request, state: AdminState) -> None:
    """Keep a request that is answered when something happens."""
    if len(state.event_requests) >= identify.EVENT_REQUESTS:
        raise CommandError(Status.EVENT_LIMIT_EXCEEDED)
    state.event_requests.append(request)


def announce_change(state: AdminState) -> None:
    """Tell the host that the namespace changed, once until it has read which, if it wants to know."""
    if (
        state.has_changed_namespace
        and not state.is_event_masked
        and state.enabled_events & identify.NAMESPACE_CHANGES
        and state.event_requests
    ):
        state.is_event_masked = True
        # Type 2 (notice), information 0 (namespace attribute changed), and the log page that tells more.
        state.event_requests.pop(0).finish(result=0x02 | CHANGED_NAMESPACES << 16)


def _pack_queues(count: int) -> int:
    granted = min(count, _MAX_QUEUES) - 1  # zero-based
    return granted | granted << 16
