"""Asks AWS, before another last snapshot of a volume is taken, whether the volume could be deleted then."""

from __future__ import annotations

from collections.abc import Sequence

from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import CreateSnapshot, DeleteVolume
from agent.cloud.aws.models import CloudSnapshot
from agent.cloud.plan.decisions import Decision, Do
from agent.cloud.snapshots.take_frozen import rehearse


async def check_worth(make: Make, decision: Decision | None, taken: Sequence[CloudSnapshot]) -> None:
    """Raise CloudError where a decision is for one more than those ``taken``, for a deletion AWS denies.

    Only a process that is restarted, or another node, would decide so again and again. The first is taken in
    any case: what it is for may be allowed by the time it is complete.
    """
    call = decision.call if isinstance(decision, Do) else None
    if isinstance(call, CreateSnapshot) and taken:
        await rehearse(make, DeleteVolume(call.volume_id, is_dry_run=True))
