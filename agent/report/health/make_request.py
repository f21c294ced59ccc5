"""What is to be sampled of a volume, by what the board says of it."""

from __future__ import annotations

from agent.core.model import Condition
from agent.node.sampling.values import SampleRequest
from agent.report.board.volume_status import VolumeStatus


def make_request(status: VolumeStatus, *, may_write: bool = False) -> SampleRequest | None:
    """Return what to sample of a volume; None while it has no device, or is being prepared.

    What the policy does not name is asked for its statistics, which touches nothing, and for nothing else.
    """
    if status.volume_id is None or status.device is None or status.condition is Condition.PREPARING:
        return None
    is_used = status.name is not None and status.condition in {
        Condition.READY,
        Condition.DEGRADED,
        Condition.FAILED,
    }
    is_mounted = is_used and status.fstype is not None
    return SampleRequest(
        status.volume_id,
        status.device,
        status.path if is_mounted else None,
        may_read=is_used,
        may_write=may_write and is_mounted and not status.wants_read_only,
    )
