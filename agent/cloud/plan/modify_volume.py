"""Decides whether a volume is to be modified: bigger, another type, other IOPS or throughput, other tags.

Sends nothing that changes nothing, never shrinks, and leaves a volume alone while it is being modified.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from agent.cloud.aws.calls import CreateTags, ModifyVolume
from agent.cloud.aws.models import CloudVolume, Modification
from agent.cloud.plan.claims.wanted_volume import WantedVolume
from agent.cloud.plan.class_drift import aim, ask, find_shape_differences, find_tag_differences, tell_drift
from agent.cloud.plan.decisions import Do
from agent.core.model import Reason, VolumeId
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait
from agent.core.units import find_time

FAILED_PAUSE = timedelta(hours=6)
"""After a modification that failed: AWS takes four in 24 hours, and says of few failures that they pass."""


def plan_modify(
    volume: CloudVolume,
    wanted: WantedVolume,
    modification: Modification | None,
    now: datetime | None = None,
) -> Do | Wait | Refuse | None:
    """Decide what to change about a claim's volume; None: nothing, or AWS is at it.

    ``now``: without it a modification that failed is not tried again.
    """
    if volume.state not in {"available", "in-use"}:
        return None
    change = _find_change(aim(volume, modification), wanted)
    if change is None:
        differences = ask(find_shape_differences(volume, wanted, modification))
        return tell_drift(volume, wanted.name, differences)
    waiting = wait_for(volume.volume_id, modification)
    return waiting or _wait_after_failure(volume, wanted, modification, now) or Do(change)


def plan_tags(volume: CloudVolume, wanted: WantedVolume) -> Do | None:
    """Decide which tags of a claim's volume to set; None: none. They count against no quota."""
    tags = tuple((one.part, one.wanted) for one in find_tag_differences(volume, wanted))
    return Do(CreateTags(volume.volume_id, tags)) if tags and not volume.is_gone else None


def _find_change(volume: CloudVolume, wanted: WantedVolume) -> ModifyVolume | None:
    larger = wanted.size_gib if (wanted.size_gib or 0) > volume.size_gib else None
    return find_change(
        volume,
        ModifyVolume(volume.volume_id, larger, wanted.type, wanted.iops, wanted.throughput),
    )


def find_change(volume: CloudVolume, wanted: ModifyVolume) -> ModifyVolume | None:
    """Return what of a modification changes anything; None where nothing does."""
    kind = None if wanted.type == volume.type else wanted.type
    # A new type keeps none of the old one's numbers, so all that are wanted are said.
    iops = None if wanted.iops == volume.iops and kind is None else wanted.iops
    throughput = None if wanted.throughput == volume.throughput and kind is None else wanted.throughput
    size_gib = None if wanted.size_gib == volume.size_gib else wanted.size_gib
    change = ModifyVolume(volume.volume_id, size_gib, kind, iops, throughput)
    return None if change == ModifyVolume(volume.volume_id) else change


def wait_for(volume_id: VolumeId, modification: Modification | None) -> Wait | None:
    """Return the wait for a modification under way; None where there is none."""
    if modification is None or not modification.is_under_way:
        return None
    return Wait(
        Reason.WAITING_FOR_CLOUD,
        f"{volume_id} is {modification.state}, {modification.progress_percent} % done; "
        "the next modification has to wait for the end of this one.",
    )


def _wait_after_failure(
    volume: CloudVolume, wanted: WantedVolume, modification: Modification | None, now: datetime | None
) -> Wait | None:
    """Return the wait after this very change failed at AWS; None where it did not, or long ago."""
    if modification is None or modification.state != "failed":
        return None
    tried = aim(volume, replace(modification, state="modifying"))
    if _find_change(tried, wanted) is not None:
        return None  # something else failed
    began = find_time(modification.started_at)
    if now is not None and began is not None and now - began >= FAILED_PAUSE:
        return None
    why = modification.message or "it gives no reason"
    return Wait(
        Reason.CLOUD_ERROR,
        f"AWS failed to modify {volume.volume_id}: {why.rstrip('.')}.",
        hint=f"It is tried again after {FAILED_PAUSE.total_seconds() / 3600:g} hours. `ebs-agent modify` or "
        "`expand`, with what the class says, tries it at once.",
    )


def is_growing(modification: Modification | None) -> bool:
    """Return whether a size asked for is not usable yet."""
    return modification is not None and modification.state == "modifying"


def plan_expand(
    volume: CloudVolume, size_gib: int, modification: Modification | None
) -> ModifyVolume | Wait | Refuse | None:
    """Decide how a volume becomes ``size_gib`` large; None: it is. A smaller size is refused."""
    if size_gib < volume.size_gib:
        return Refuse(
            Reason.NOT_GROWN,
            f"{volume.volume_id} has {volume.size_gib} GiB and cannot become {size_gib} GiB: volumes never "
            "shrink.",
            hint="Say the size it has, or copy its contents to a new, smaller volume.",
        )
    if size_gib == volume.size_gib:
        return wait_for(volume.volume_id, modification) if is_growing(modification) else None
    return wait_for(volume.volume_id, modification) or ModifyVolume(volume.volume_id, size_gib=size_gib)
