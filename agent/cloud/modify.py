"""Decides whether a volume is to be modified: bigger, another type, other IOPS or throughput, other tags.

Sends nothing that changes nothing, never shrinks, and leaves a volume alone while it is being modified.
"""

from __future__ import annotations

from agent.cloud.calls import CreateTags, ModifyVolume
from agent.cloud.decisions import Do
from agent.cloud.values import CloudVolume, Modification
from agent.cloud.wanted import WantedVolume
from agent.model import Reason, VolumeId
from agent.steps import Refuse, Wait


def plan_modify(
    volume: CloudVolume, wanted: WantedVolume, modification: Modification | None
) -> Do | Wait | Refuse | None:
    """Decide what to change about a claim's volume; None: nothing."""
    if volume.state not in {"available", "in-use"}:
        return None
    if wanted.size_gib is not None and wanted.size_gib < volume.size_gib and not is_growing(modification):
        return _refuse_shrinking(volume.volume_id, volume.size_gib, wanted.size_gib)
    change = _find_change(volume, wanted)
    if change is not None:
        waiting = wait_for(volume.volume_id, modification)
        return waiting or Do(change)
    tags = tuple(pair for pair in wanted.all_tags if volume.tag(pair[0]) != pair[1])
    return Do(CreateTags(volume.volume_id, tags)) if tags else None


def is_growing(modification: Modification | None) -> bool:
    """Return whether a size asked for is not usable yet."""
    return modification is not None and modification.state == "modifying"


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


def plan_expand(
    volume: CloudVolume, size_gib: int, modification: Modification | None
) -> ModifyVolume | Wait | Refuse | None:
    """Decide how a volume becomes ``size_gib`` large; None: it is. A smaller size is refused."""
    if size_gib < volume.size_gib:
        return _refuse_shrinking(volume.volume_id, volume.size_gib, size_gib)
    if size_gib == volume.size_gib:
        return wait_for(volume.volume_id, modification) if is_growing(modification) else None
    return wait_for(volume.volume_id, modification) or ModifyVolume(volume.volume_id, size_gib=size_gib)


def _refuse_shrinking(volume_id: VolumeId, from_gib: int, to_gib: int) -> Refuse:
    return Refuse(
        Reason.NOT_GROWN,
        f"{volume_id} has {from_gib} GiB and cannot become {to_gib} GiB: volumes never shrink.",
        hint="Say the size it has, or copy its contents to a new, smaller volume.",
    )
