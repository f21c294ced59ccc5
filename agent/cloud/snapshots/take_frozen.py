"""Takes one snapshot, or makes another such call, with the filesystem frozen for the instant of the call.

A freeze holds nothing up but that one call: it begins when all that comes before is done, and lasts no longer
than ``FREEZE_LIMIT_S``. What the node takes to get there is bounded too: calls for other volumes have to wait
for this one's turn to be over.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import anyio

from agent.base.log import get_logger
from agent.cloud.aws.call import Change, Make
from agent.cloud.aws.calls import CreateSnapshot, CreateTags
from agent.cloud.aws.models import TAG_FROZEN, CloudSnapshot
from agent.cloud.errors.explain import WOULD_SUCCEED, CloudError
from agent.cloud.view.cloud_report import FREEZE_LIMIT_S
from agent.core.errors import OccupiedError
from agent.core.model import Reason, VolumeId
from agent.core.replace import replace

T = TypeVar("T")

Freeze = Callable[[VolumeId], AbstractAsyncContextManager[bool]]

READY_LIMIT_S = 45.0
"""For the node to hold writes: what is under way with the volume ends first, and what is dirty is flushed."""
_LATE = f"A snapshot that began too late carries the tag {TAG_FROZEN}=no and is not counted."

log = get_logger(__name__)


async def take_snapshot(make: Make, freeze: Freeze | None, call: CreateSnapshot) -> CloudSnapshot:
    """Take a snapshot, frozen where ``freeze`` is given and a filesystem is mounted; returns it as begun.

    Raises CloudError; the filesystem is thawed by then.
    """
    if freeze is None:
        begun: CloudSnapshot = await make(call)
        _log(call, begun)
        return begun
    unproven = replace(call, tags=(*call.tags, (TAG_FROZEN, "no")))
    await rehearse(make, replace(unproven, is_dry_run=True))
    snapshot, is_frozen = await make_held(make, freeze, call.volume_id, unproven, "begin the snapshot", _LATE)
    proof = "yes" if is_frozen else "unmounted"
    _log(unproven, snapshot)
    await make(CreateTags(snapshot.snapshot_id, ((TAG_FROZEN, proof),)))
    return replace(snapshot, tags=(*call.tags, (TAG_FROZEN, proof)))


async def make_held(
    make: Make, freeze: Freeze, volume_id: VolumeId, call: Change[T], what: str, late: str = ""
) -> tuple[T, bool]:
    """Make the call while the volume's filesystem is frozen; returns its answer and whether one was mounted.

    ``what`` says what AWS is to do within ``FREEZE_LIMIT_S``, ``late`` what becomes of what it does later.
    Raises CloudError, or OccupiedError where the node does not get to hold writes.
    """
    was_frozen = False
    is_ready = False

    @asynccontextmanager
    async def hold_writes() -> AsyncIterator[None]:
        nonlocal was_frozen, is_ready
        is_ready = False
        with anyio.fail_after(READY_LIMIT_S) as getting_ready:
            async with freeze(volume_id) as was_frozen:
                is_ready, getting_ready.deadline = True, math.inf
                # Counted from here: getting ready to freeze holds no writer up.
                with anyio.fail_after(FREEZE_LIMIT_S):
                    yield

    try:
        answer: T = await make(call, within=hold_writes)
    except TimeoutError:
        if not is_ready:
            raise OccupiedError(
                f"{volume_id}: writes could not be held in {READY_LIMIT_S:.0f} s, so AWS did not {what}.",
                hint="It is tried again. `ebs-agent status` tells what is being done with the volume.",
                reason=Reason.TOO_SLOW,
            ) from None
        raise CloudError(
            message=f"{volume_id}: AWS did not {what} within {FREEZE_LIMIT_S:.0f} s; "
            "the filesystem is thawed.",
            hint=f"It is tried again. {late}".strip(),
            reason=Reason.WAITING_FOR_CLOUD,
            operation=call.operation,
            retry_after_s=300.0,
        ) from None
    return answer, was_frozen


async def rehearse(make: Make, call: Change[Any]) -> None:
    """Have AWS check the call, a dry run, without making it.

    What it would refuse is then refused with nothing frozen, and the call itself finds the worker running,
    its credentials fresh and its connection open.
    """
    try:
        await make(call)
    except CloudError as error:
        if error.code != WOULD_SUCCEED:
            raise


def _log(call: CreateSnapshot, snapshot: CloudSnapshot) -> None:
    log.info("cloud.called", operation=call.operation, what=call.describe(), snapshot=snapshot.snapshot_id)
