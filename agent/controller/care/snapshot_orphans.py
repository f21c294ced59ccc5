"""Finds snapshots that were taken for Kubernetes, and that it does not know; never deletes anything.

EC2 takes a second snapshot under the name of the first: where two replicas take one at the same moment, or
one is described late, there are two, and Kubernetes is told of one. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from agent.cloud.aws.models import CloudSnapshot
from agent.controller.cluster.objects import VolumeSnapshotContent
from agent.controller.name_tags import TAG_SNAPSHOT_NAME, find_other_cluster, name_cluster_tag

_CONTENT = "snapcontent-"
_LONGEST_UID = 36


def list_unknown_snapshots(
    snapshots: Collection[CloudSnapshot], known: Iterable[VolumeSnapshotContent], cluster_id: str | None
) -> Iterator[CloudSnapshot]:
    """Yield those that no VolumeSnapshotContent has; ``known`` was listed after ``snapshots``.

    An account may have several clusters: one is this cluster's that carries its ID, or that was taken of the
    same volume under the same name as one that this cluster knows. Of what is being taken none is yielded.
    """
    contents = tuple(known)
    handles = {one.handle for one in contents if one.handle is not None}
    pending = {_find_uid(one.metadata.name) for one in contents if one.handle is None}
    named = {_name(one) for one in snapshots if one.snapshot_id in handles}
    for one in snapshots:
        name = one.tag(TAG_SNAPSHOT_NAME)
        if name is None or one.snapshot_id in handles or name[-_LONGEST_UID:] in pending:
            continue
        if find_other_cluster(one.tags, cluster_id) is not None:
            continue
        is_marked = cluster_id is not None and one.tag(name_cluster_tag(cluster_id)) is not None
        if is_marked or _name(one) in named:
            yield one


def _find_uid(content: str) -> str:
    """Return what the name of a VolumeSnapshotContent and its snapshot's name end with."""
    return content.removeprefix(_CONTENT)[-_LONGEST_UID:]


def _name(snapshot: CloudSnapshot) -> tuple[str | None, str]:
    return snapshot.tag(TAG_SNAPSHOT_NAME), snapshot.volume_id
