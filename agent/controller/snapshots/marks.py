"""The tags that a snapshot is found by, and without which it is never deleted. Pure.

They are those of AWS's driver, so that its managed policy reaches, and either may take over from the other.
"""

from __future__ import annotations

from agent.cloud.aws.models import MADE_BY, TAG_MADE_BY, CloudSnapshot, Tags
from agent.cloud.plan.snapshot_schedule import TAG_FAST
from agent.controller.calls import SnapshotCall
from agent.controller.name_tags import TAG_SNAPSHOT_NAME, name_cluster_tag, require_own, write_name
from agent.core.errors import RefusedError

TAG_DRIVER = "ebs.csi.aws.com/cluster"


def make_tags(call: SnapshotCall, cluster_id: str | None) -> Tags:
    """Return all tags of a new snapshot; what the class says changes none of the controller's own."""
    marks = {TAG_SNAPSHOT_NAME: write_name(call.name), TAG_DRIVER: "true", TAG_MADE_BY: MADE_BY}
    if cluster_id is not None:
        marks[name_cluster_tag(cluster_id)] = "owned"
    if call.fast_restore_zones:
        marks[TAG_FAST] = ",".join(call.fast_restore_zones)
    return tuple(sorted({**dict(call.tags), **marks}.items()))


def list_fast_zones(snapshot: CloudSnapshot) -> tuple[str, ...]:
    """Return the zones in which the snapshot was to be fast to restore."""
    return tuple(filter(None, (snapshot.tag(TAG_FAST) or "").split(",")))


def is_of_cluster(snapshot: CloudSnapshot, cluster_id: str | None) -> bool:
    """Return whether a snapshot was taken for the cluster; None: for any."""
    key = TAG_SNAPSHOT_NAME if cluster_id is None else name_cluster_tag(cluster_id)
    return snapshot.tag(key) is not None


def require_marks(snapshot: CloudSnapshot, cluster_id: str | None) -> None:
    """Raise RefusedError unless the snapshot was taken for a cluster, by this controller or AWS's driver.

    ``cluster_id``: it must not be another one's; None: of whichever cluster it is.
    """
    is_made = snapshot.is_made_by_agent or snapshot.tag(TAG_DRIVER) == "true"
    if not is_made or snapshot.tag(TAG_SNAPSHOT_NAME) is None:
        raise RefusedError(
            f"{snapshot.snapshot_id} was not taken for Kubernetes, as its tags say, and is not deleted.",
            hint="Give its VolumeSnapshotContent the deletionPolicy Retain. Or tag the snapshot "
            f"{TAG_DRIVER}=true and {TAG_SNAPSHOT_NAME}=<any name>; then it may be deleted.",
        )
    require_own(snapshot.snapshot_id, snapshot.tags, cluster_id)
