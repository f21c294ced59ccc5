"""Everything leaves a node whose end is near, in the time that is left: flushed, and who is in the way told.

What is let go for this is not written down: an agent that is started anew on the same instance, stopped and
started again, uses its volumes as the policy says.
"""

from __future__ import annotations

from collections.abc import Collection

import anyio

from agent.base.log import get_logger
from agent.cloud.orders.context import NodeOrderContext
from agent.cloud.orders.runner import release
from agent.cloud.orders.volumes import VolumeOrders
from agent.cloud.view.describe_all import is_searchable
from agent.core.errors import AgentError, OccupiedError
from agent.core.model import Reason, VolumeId
from agent.core.replace import replace
from agent.policy import Policy
from agent.report.board.board import Board
from agent.report.board.events import EventName

AGAIN_S = 2.0
"""Before a volume that somebody uses is tried again: those who are ended meanwhile let go of it."""
LEAST_S = 10.0
"""However late it is heard of: what can be flushed in this time is."""

log = get_logger(__name__)


async def release_before_end(
    context: NodeOrderContext, why: str, left_s: float, *, only: Collection[VolumeId] | None = None
) -> None:
    """Unmount, flush and detach every volume, each by itself; return when all are gone, or time is up.

    ``why``: a clause for the status of each. One that somebody uses is flushed under them, told, and tried
    again until they let go. ``only``: the others are left as they are, mounted and attached.
    """
    withdrawn = await context.node.withdraw_all(why)
    here = [volume_id for volume_id in withdrawn if only is None or volume_id in only]
    left = set(here)

    async def take_away(volume_id: VolumeId) -> None:
        if await _release(context, volume_id) and await _detach(context, volume_id):
            left.discard(volume_id)

    with anyio.move_on_after(max(LEAST_S, left_s)):
        async with anyio.create_task_group() as tasks:
            for volume_id in here:
                tasks.start_soon(take_away, volume_id)
    context.board.record(EventName.INSTANCE_LEFT, volumes=len(here), left=sorted(left))


def find_returning(board: Board, policy: Policy) -> frozenset[VolumeId]:
    """Return the volumes that the agent attaches again by itself, once this instance is started anew.

    An entry that goes by a device name, a size or a type is for what somebody else attached: it finds no
    volume that is detached.
    """
    finders = {
        entry.name for entry in policy.volumes if entry.claim or entry.volume_id or is_searchable(entry)
    }
    here = {status.volume_id for status in board.statuses() if status.name in finders}
    return frozenset(volume_id for volume_id in here if volume_id is not None)


async def _release(context: NodeOrderContext, volume_id: VolumeId) -> bool:
    """Unmount and flush one volume, as soon as nobody uses it or works on it; False where it cannot be."""
    told = None
    while (error := await _try_release(context, volume_id)) is not None:
        if error.message != told:
            context.board.record(EventName.VOLUME_NOT_LET_GO, volume_id, error=error.message)
        told = error.message
        if error.reason is Reason.DEVICE_BUSY:
            await _flush(context, volume_id)
        elif not isinstance(error, OccupiedError):
            return False
        await anyio.sleep(AGAIN_S)
    return True


async def _try_release(context: NodeOrderContext, volume_id: VolumeId) -> AgentError | None:
    """Unmount and flush a volume; return why it could not be."""
    try:
        await release(context.node, volume_id)
    except AgentError as error:
        return error
    return None


async def _flush(context: NodeOrderContext, volume_id: VolumeId) -> None:
    """Have on the device what was written to a volume that others go on using."""
    try:
        await context.node.flush(volume_id)
    except AgentError as error:
        log.warning("volume.unflushed", volume_id=volume_id, error=error.message)


async def _detach(context: NodeOrderContext, volume_id: VolumeId) -> bool:
    """Have AWS detach one volume that was let go; False where it does not."""
    try:
        aws = await context.open_aws()
        # Not a person's doing, so nothing is written down.
        await VolumeOrders(replace(aws.follower, note_by_hand=None), aws.view).detach(volume_id)
    except AgentError as error:
        context.board.record(EventName.VOLUME_NOT_DETACHED, volume_id, error=error.message, hint=error.hint)
        return False
    return True
