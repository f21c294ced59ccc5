"""The objects that a migration reads and makes, whole: what is not known of them is carried over.

Shapes: Kubernetes' API, ``core/v1``, ``apps/v1``, ``storage.k8s.io/v1`` and ``snapshot.storage.k8s.io/v1``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightkube.core.resource import ApiInfo, ResourceDef
from lightkube.generic_resource import GenericGlobalResource, GenericNamespacedResource

Object = Mapping[str, Any]
"""An object as the API server sends it."""


class PersistentVolume(GenericGlobalResource):
    """A volume as Kubernetes knows it."""

    _api_info = ApiInfo(
        ResourceDef("", "v1", "PersistentVolume"),
        "persistentvolumes",
        ["get", "list", "post", "patch", "delete"],
    )


class PersistentVolumeClaim(GenericNamespacedResource):
    """What a pod names to have a volume."""

    _api_info = ApiInfo(
        ResourceDef("", "v1", "PersistentVolumeClaim"),
        "persistentvolumeclaims",
        ["get", "post", "delete"],
    )


class Pod(GenericNamespacedResource):
    """A pod, which may name claims."""

    _api_info = ApiInfo(ResourceDef("", "v1", "Pod"), "pods", ["list"])


class StatefulSet(GenericNamespacedResource):
    """What makes pods, and a claim for each where there is none."""

    _api_info = ApiInfo(ResourceDef("apps", "v1", "StatefulSet"), "statefulsets", ["list"])


class VolumeAttachment(GenericGlobalResource):
    """That a volume is to be attached to a node."""

    _api_info = ApiInfo(
        ResourceDef("storage.k8s.io", "v1", "VolumeAttachment"), "volumeattachments", ["list"]
    )


class CsiDriver(GenericGlobalResource):
    """A driver that the cluster has."""

    _api_info = ApiInfo(ResourceDef("storage.k8s.io", "v1", "CSIDriver"), "csidrivers", ["get"])


class CsiNode(GenericGlobalResource):
    """Which drivers a node has."""

    _api_info = ApiInfo(ResourceDef("storage.k8s.io", "v1", "CSINode"), "csinodes", ["list"])


class VolumeSnapshotClass(GenericGlobalResource):
    """How snapshots are taken, and by which driver."""

    _api_info = ApiInfo(
        ResourceDef("snapshot.storage.k8s.io", "v1", "VolumeSnapshotClass"), "volumesnapshotclasses", ["list"]
    )


class VolumeSnapshot(GenericNamespacedResource):
    """A snapshot of a claim's volume."""

    _api_info = ApiInfo(
        ResourceDef("snapshot.storage.k8s.io", "v1", "VolumeSnapshot"), "volumesnapshots", ["get", "post"]
    )


KINDS = (
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    StatefulSet,
    VolumeAttachment,
    CsiDriver,
    CsiNode,
    VolumeSnapshotClass,
    VolumeSnapshot,
)


def read(thing: Object | None, *path: str) -> Any:
    """Return what is at a path of members; None where any of them is not there."""
    found: Any = thing
    for member in path:
        found = found.get(member) if isinstance(found, Mapping) else None
    return found


def read_list(thing: Object | None, *path: str) -> Sequence[Any]:
    """Return the list at a path of members; empty where there is none."""
    return read(thing, *path) or ()


def name_of(thing: Object | None) -> str:
    """Return an object's name; empty where there is no object."""
    return str(read(thing, "metadata", "name") or "")


def uid_of(thing: Object | None) -> str:
    """Return an object's UID; empty where there is no object."""
    return str(read(thing, "metadata", "uid") or "")


def is_going(thing: Object | None) -> bool:
    """Its end was asked for, and waits for somebody."""
    return bool(read(thing, "metadata", "deletionTimestamp"))


def list_finalizers(thing: Object | None) -> Sequence[str]:
    """Return whom an object's end waits for."""
    return read_list(thing, "metadata", "finalizers")
