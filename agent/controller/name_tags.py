"""The tags by which things are found: a name's, and that of the cluster whose they are. Pure.

A name is written as it is where EC2 takes it, else as its digest; what is written so is written to itself.

Several clusters may share an account. One that is restored from another's backup knows that one's volumes by
their IDs, and has PersistentVolumes of the same names: what it deletes would be the other's.
"""

from __future__ import annotations

import hashlib
import re

from agent.cloud.aws.models import Tags
from agent.core.errors import RefusedError

TAG_VOLUME_NAME = "CSIVolumeName"
TAG_SNAPSHOT_NAME = "CSIVolumeSnapshotName"
"""The tags of AWS's driver, whose volumes and snapshots are found by them, too."""

_CLUSTER_PREFIX = "kubernetes.io/cluster/"
_TAKEN = re.compile(r"[\w +\-=.:/@]{1,256}")
"""Letters and digits of any script, spaces and some signs. Source: the EC2 guide, "Tag restrictions"."""


def write_name(name: str) -> str:
    """Return the tag's value for a name of any length and script."""
    if _TAKEN.fullmatch(name) and name == name.strip():
        return name
    return f"sha256-{hashlib.sha256(name.encode()).hexdigest()}"


def name_cluster_tag(cluster_id: str) -> str:
    """Return the tag that everything has that is made for a cluster."""
    return _CLUSTER_PREFIX + cluster_id


def find_other_cluster(tags: Tags, cluster_id: str | None) -> str | None:
    """Return the cluster whose it is, by its tags, and not of the one with this ID.

    None: it is that one's, or carries no cluster's tag, or there is no ID to compare.
    """
    named = [key.removeprefix(_CLUSTER_PREFIX) for key, _ in tags if key.startswith(_CLUSTER_PREFIX)]
    return named[0] if named and cluster_id is not None and cluster_id not in named else None


def require_own(what: str, tags: Tags, cluster_id: str | None) -> None:
    """Raise RefusedError where something is another cluster's by its tags."""
    other = find_other_cluster(tags, cluster_id)
    if other is not None:
        raise RefusedError(
            f"{what} is cluster {other}'s, as its tags say, and is not deleted for cluster {cluster_id}.",
            hint="Does a restored cluster delete what the old one has? If it has been handed over, tag it "
            f"{name_cluster_tag(str(cluster_id))}=owned, too.",
        )
