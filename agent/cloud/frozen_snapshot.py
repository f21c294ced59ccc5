"""Takes one snapshot, with the filesystem frozen for the instant of the call.

A freeze holds nothing up but that one call: it begins when all that comes before is done, and lasts no longer
than ``FREEZE_LIMIT_S``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace

import anyio

from agent.cloud.call import Make, Within
from agent.cloud.calls import CreateSnapshot, CreateTags
from agent.cloud.errors import WOULD_SUCCEED, CloudError
from agent.cloud.findings import FREEZE_LIMIT_S
from agent.cloud.values import TAG_FROZEN, CloudSnapshot
from agent.log import get_logger
from agent.model import Reason, VolumeId

Freeze = Callable[[VolumeId], AbstractAsyncContextManager[bool]]

log = get_logger(__name__)


async def take_snapshot(make: Make, freeze: Freeze | None, call: CreateSnapshot) -> CloudSnapshot:
    """Take a snapshot, frozen where ``freeze`` is given and a filesystem is mounted; returns it as begun.

    Raises CloudError; the filesystem is thawed by then.
    """
    if freeze is None:
        return await _begin(make, call, nullcontext)
    unproven = replace(call, tags=(*call.tags, (TAG_FROZEN, "no")))
    await _rehearse(make, unproven)
    proof = "unmounted"

    @asynccontextmanager
    async def hold_writes() -> AsyncIterator[None]:
        nonlocal proof
        async with freeze(call.volume_id) as is_frozen:
            proof = "yes" if is_frozen else "unmounted"
            # Counted from here: getting ready to freeze holds nobody up.
            with anyio.fail_after(FREEZE_LIMIT_S):
                yield

    try:
        snapshot = await _begin(make, unproven, hold_writes)
    except TimeoutError:
        raise CloudError(
            message=f"{call.volume_id}: AWS did not begin the snapshot within {FREEZE_LIMIT_S:.0f} s; "
            "the filesystem is thawed.",
            hint="It is tried again. A snapshot that began too late carries the tag "
            f"{TAG_FROZEN}=no and is not counted.",
            reason=Reason.WAITING_FOR_CLOUD,
            operation=call.operation,
            retry_after_s=300.0,
        ) from None
    await make(CreateTags(snapshot.snapshot_id, ((TAG_FROZEN, proof),)))
    return replace(snapshot, tags=(*call.tags, (TAG_FROZEN, proof)))


async def _rehearse(make: Make, call: CreateSnapshot) -> None:
    """Have AWS check the call without making it.

    What it would refuse is then refused with nothing frozen, and the call itself finds the worker running,
    its credentials fresh and its connection open.
    """
    try:
        await make(replace(call, is_dry_run=True))
    except CloudError as error:
        if error.code != WOULD_SUCCEED:
            raise


async def _begin(make: Make, call: CreateSnapshot, within: Within) -> CloudSnapshot:
    snapshot: CloudSnapshot = await make(call, within=within)
    log.info("cloud.called", operation=call.operation, what=call.describe(), snapshot=snapshot.snapshot_id)
    return snapshot
