"""What is read of Kubernetes' objects: the members that something is decided by, and nothing else.

A Node is 20 KB as the API server sends it, mostly names of images. What is not declared here is skipped when
an object is read, so that a thousand nodes and four thousand volumes take a few MB.
Shapes: Kubernetes' API, ``core/v1`` and ``storage.k8s.io/v1``.
"""

from __future__ import annotations

import msgspec
from lightkube.core import resource

TAINT_OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""Has Kubernetes end the node's pods and detach its volumes at once, since nothing of it runs any more."""
MARK_RELEASED = "ebs-agent/out-of-service"
"""On a node that the controller has put out of service: its ``spec.providerID`` then."""


class _Part(msgspec.Struct, rename="camel", kw_only=True):
    """Part of an object, its members under Kubernetes' names."""


class Owner(_Part):
    """An object that another one goes with."""

    kind: str
    uid: str


class Annotations(_Part):
    """Those annotations that the controller makes."""

    released: str | None = msgspec.field(name=MARK_RELEASED, default=None)


class Metadata(_Part):
    """Which object it is, in which version."""

    name: str
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 -- lightkube reads it by this name
    annotations: Annotations | None = None
    owner_references: tuple[Owner, ...] = ()


class Taint(_Part):
    """What keeps pods away from a node."""

    key: str
    effect: str
    value: str = ""


class Condition(_Part):
    """One condition of a node; ``status`` is True, False or Unknown."""

    type: str
    status: str


class NodeSpec(_Part):
    """What a node is to be."""

    provider_id: str = msgspec.field(name="providerID", default="")
    taints: tuple[Taint, ...] = ()


class NodeStatus(_Part):
    """What a node is."""

    conditions: tuple[Condition, ...] = ()


class Node(resource.GlobalResource, _Part):
    """A node of the cluster."""

    _api_info = resource.ApiInfo(
        resource.ResourceDef("", "v1", "Node"), "nodes", ["get", "list", "watch", "patch"]
    )
    metadata: Metadata
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    @property
    def is_ready(self) -> bool:
        """Its kubelet says that it is, and was heard of lately."""
        return any(found.type == "Ready" and found.status == "True" for found in self.status.conditions)

    @property
    def released(self) -> str | None:
        """Which instance it was when the controller put it out of service; None: it did not."""
        return None if self.metadata.annotations is None else self.metadata.annotations.released

    def has_taint(self, key: str) -> bool:
        return any(taint.key == key for taint in self.spec.taints)


class Driver(_Part):
    """A driver on a node, as kubelet registered it, with all it knows of it at once."""

    name: str
    node_id: str = msgspec.field(name="nodeID", default="")
    """What the driver itself calls the node."""


class CsiNodeSpec(_Part):
    """The drivers of a node."""

    drivers: tuple[Driver, ...] = ()


class CsiNode(resource.GlobalResource, _Part):
    """What a node's kubelet tells of its drivers."""

    _api_info = resource.ApiInfo(
        resource.ResourceDef("storage.k8s.io", "v1", "CSINode"), "csinodes", ["list", "watch"]
    )
    metadata: Metadata
    spec: CsiNodeSpec = msgspec.field(default_factory=CsiNodeSpec)

    def is_of(self, node: Node) -> bool:
        """Return whether it is this node's, and not an earlier one's of the same name."""
        return any(owner.uid == node.metadata.uid for owner in self.metadata.owner_references)

    def serves(self, driver: str) -> bool:
        """Return whether the driver is registered.

        kubelet writes it in one update with the count of volumes that the node takes, where the driver told
        one (pkg/volume/csi/nodeinfomanager). A count that is missing may never come, as where AWS denies it.
        """
        return any(found.name == driver for found in self.spec.drivers)

    def find_node_id(self, driver: str) -> str | None:
        """Return what the driver calls the node; None: it is not registered."""
        return next((found.node_id for found in self.spec.drivers if found.name == driver), None)


class AttachmentSource(_Part):
    """What is attached."""

    persistent_volume_name: str = ""


class AttachmentSpec(_Part):
    """What is to be attached where, by which driver."""

    attacher: str
    node_name: str
    source: AttachmentSource = msgspec.field(default_factory=AttachmentSource)


class AttachError(_Part):
    """Why the last attempt failed, in the driver's words."""

    message: str = ""


class AttachmentStatus(_Part):
    """What became of it."""

    attached: bool = False
    attach_error: AttachError | None = None


class VolumeAttachment(resource.GlobalResource, _Part):
    """That a volume is to be attached to a node."""

    _api_info = resource.ApiInfo(
        resource.ResourceDef("storage.k8s.io", "v1", "VolumeAttachment"),
        "volumeattachments",
        ["list", "watch"],
    )
    metadata: Metadata
    spec: AttachmentSpec
    status: AttachmentStatus = msgspec.field(default_factory=AttachmentStatus)


class VolumeHandle(_Part):
    """Which volume it is, of which driver."""

    driver: str
    volume_handle: str


class ClaimReference(_Part):
    """The claim that has a volume."""

    name: str = ""
    namespace: str = ""
    uid: str = ""


class PersistentVolumeSpec(_Part):
    """A volume, and the claim that has it."""

    csi: VolumeHandle | None = None
    claim_ref: ClaimReference | None = None


class PersistentVolume(resource.GlobalResource, _Part):
    """A volume as Kubernetes knows it."""

    _api_info = resource.ApiInfo(
        resource.ResourceDef("", "v1", "PersistentVolume"), "persistentvolumes", ["get", "list"]
    )
    metadata: Metadata
    spec: PersistentVolumeSpec = msgspec.field(default_factory=PersistentVolumeSpec)


class SnapshotSource(_Part):
    """What a VolumeSnapshotContent was made for: a snapshot that was there before, or a volume."""

    snapshot_handle: str | None = None


class SnapshotContentSpec(_Part):
    """Which snapshot it is to be."""

    source: SnapshotSource = msgspec.field(default_factory=SnapshotSource)


class SnapshotContentStatus(_Part):
    """Which snapshot it is."""

    snapshot_handle: str | None = None


class VolumeSnapshotContent(resource.GlobalResource, _Part):
    """A snapshot as Kubernetes knows it, where its types for snapshots are declared."""

    _api_info = resource.ApiInfo(
        resource.ResourceDef("snapshot.storage.k8s.io", "v1", "VolumeSnapshotContent"),
        "volumesnapshotcontents",
        ["list"],
    )
    metadata: Metadata
    spec: SnapshotContentSpec = msgspec.field(default_factory=SnapshotContentSpec)
    status: SnapshotContentStatus | None = None

    @property
    def handle(self) -> str | None:
        """The snapshot's ID; None: it is being taken."""
        told = None if self.status is None else self.status.snapshot_handle
        return told or self.spec.source.snapshot_handle
