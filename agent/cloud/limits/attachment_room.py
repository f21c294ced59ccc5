"""Tells whether another volume has room on this instance, before AWS is asked to attach or make one. Pure.

Where a limit is shared, network interfaces and the instance store take places that nothing here counts for
certain: refused is only what surely has no room, and what may have none is tried.
"""

from __future__ import annotations

from agent.cloud.aws.instance_types import InstanceLimits
from agent.core.model import AttachmentPlaces, Attachments, Reason, VolumeId
from agent.core.replace import replace
from agent.core.steps import Wait

_INTERFACES_AT_LEAST = 1

HINT = (
    "Detach a volume (ebs-agent detach VOLUME), take an entry out of the policy, or use an instance type "
    "with more attachments. Network interfaces may share the limit."
)


def list_places(attached: frozenset[VolumeId], limits: InstanceLimits | None) -> AttachmentPlaces | None:
    """Return the instance's places and who has one, None where it is not known how many it has."""
    if limits is None or not limits.attachments:
        return None
    return AttachmentPlaces(limits.instance_type, limits.attachments, limits.is_shared, attached)


def count_attachments(attached: int, limits: InstanceLimits | None) -> Attachments | None:
    """Return how many of the instance's places are taken, None where it is not known how many it has."""
    places = list_places(frozenset(), limits)
    return None if places is None else replace(places.count(()), used=attached)


def find_no_room(what: str, attached: int, limits: InstanceLimits | None, coming: int = 0) -> Wait | None:
    """Return why ``what`` surely has no room, None where it has, or may have.

    ``attached``: volumes that are attached here. ``coming``: that were promised a place before it.
    """
    places = count_attachments(attached + coming, limits)
    if places is None or places.used < places.most:
        return None
    others = f" and {coming} more on the way" if coming else ""
    return Wait(
        Reason.ATTACHMENT_LIMIT,
        f"Not done, since this instance has no room for it: {what}. {attached} volumes are attached{others}, "
        f"and {places.instance_type} takes {places.most}.",
        hint=HINT,
    )


def find_little_room(attached: int, limits: InstanceLimits | None) -> str | None:
    """Return a clause that tells why one more volume may have no room; None where it has, or is refused."""
    places = count_attachments(attached, limits)
    if limits is None or places is None or not places.is_shared:
        return None
    taken = limits.store_disks + _INTERFACES_AT_LEAST
    if not places.most - taken <= places.used < places.most:
        return None
    disks = f" and {limits.store_disks} disks of the instance store" if limits.store_disks else ""
    return f"{places.describe()}, which network interfaces{disks} may share"
