"""Finds volumes and snapshots that Kubernetes does not know any more, and lists them; never deletes anything.

An account may have several clusters, so that of volumes only those are this one's that are attached to a node
of it, or carry its ID: tag ``kubernetes.io/cluster/<ID>``, where the ID is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias

import anyio
from msgspec import Struct

from agent.base.log import get_logger
from agent.cloud.aws.answer_fields import split
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import DescribeSnapshots, DescribeVolumes
from agent.cloud.aws.models import CloudSnapshot, CloudVolume
from agent.controller.care.proofs import parse_provider_id
from agent.controller.care.settings import CareSettings
from agent.controller.care.snapshot_orphans import list_unknown_snapshots
from agent.controller.care.tell_events import About, Teller
from agent.controller.cluster.api import FORBIDDEN, NOT_FOUND, ClusterApi, ClusterError
from agent.controller.cluster.objects import Node, PersistentVolume, VolumeAttachment, VolumeSnapshotContent
from agent.controller.cluster.watched import Watched
from agent.controller.name_tags import TAG_SNAPSHOT_NAME, TAG_VOLUME_NAME, write_name
from agent.core.errors import AgentError

LOOK_S = 600.0
REASON = "OrphanFound"
VOLUME, ATTACHMENT, SNAPSHOT = KINDS = ("volume", "VolumeAttachment", "snapshot")
_HINT = (
    " Nothing deletes it by itself: look at what is on it, then delete it, or make a PersistentVolume of it."
)
_SNAPSHOT_HINT = (
    " Nothing deletes it by itself: two controllers may have taken it at the same moment. Delete it, or make "
    "a VolumeSnapshotContent of it."
)
_MADE = (("tag-key", (TAG_VOLUME_NAME,)),)
_TAKEN = (("tag-key", (TAG_SNAPSHOT_NAME,)),)

NoteOrphans: TypeAlias = "Callable[[Mapping[str, int] | None], None]"
"""Is told how many there are of each kind; None: nobody looks here any more."""

log = get_logger(__name__)


class Orphan(Struct, frozen=True, order=True):
    """Something that Kubernetes does not know."""

    kind: str
    """One of ``KINDS``."""
    name: str
    of: str
    """The PersistentVolume that is gone, or the name under which a snapshot was taken."""

    def describe(self) -> str:
        """Return what it is, and what is to be done."""
        if self.kind == SNAPSHOT:
            return f"{self.kind} {self.name} was taken as {self.of}, and no VolumeSnapshotContent has it." + (
                _SNAPSHOT_HINT
            )
        return f"{self.kind} {self.name} is left of PersistentVolume {self.of}, which is gone.{_HINT}"


def find_orphans(
    volumes: Iterable[CloudVolume],
    attachments: Iterable[VolumeAttachment],
    known: Collection[PersistentVolume],
    instance_ids: Collection[str],
    cluster_id: str | None,
) -> frozenset[Orphan]:
    """Return what has no PersistentVolume; ``known`` was listed after ``volumes`` and ``attachments``.

    ``instance_ids`` are those of the cluster's nodes.
    """
    names = {found.metadata.name for found in known}
    tags = {write_name(name) for name in names}
    handles = {found.spec.csi.volume_handle for found in known if found.spec.csi is not None}
    mark = f"kubernetes.io/cluster/{cluster_id}"
    orphans = {
        Orphan(ATTACHMENT, found.metadata.name, name)
        for found in attachments
        if (name := found.spec.source.persistent_volume_name) and name not in names
    }
    for volume in volumes:
        name = volume.tag(TAG_VOLUME_NAME) or ""
        is_known = name in tags or volume.volume_id in handles
        is_ours = (cluster_id is not None and volume.tag(mark) is not None) or any(
            found.instance_id in instance_ids for found in volume.attachments
        )
        if is_ours and not is_known and not volume.is_gone:
            orphans.add(Orphan(VOLUME, volume.volume_id, name))
    return frozenset(orphans)


class Orphans:
    """What is left, where two looks in turn find it: a volume is there before Kubernetes knows it."""

    def __init__(
        self,
        api: ClusterApi,
        make: Make,
        teller: Teller,
        settings: CareSettings,
        nodes: Watched[Node],
        attachments: Watched[VolumeAttachment],
        note: NoteOrphans = lambda _: None,
    ) -> None:
        self._api = api
        self._make = make
        self._teller = teller
        self._driver = settings.driver
        self._nodes = nodes
        self._attachments = attachments
        self._cluster_id = settings.cluster_id
        self._note = note
        self._seen: frozenset[Orphan] = frozenset()
        self.listed: frozenset[Orphan] = frozenset()

    async def tend(self) -> None:
        """Look every ten minutes; never returns."""
        try:
            while True:
                await anyio.sleep(LOOK_S)
                try:
                    await self.look()
                except AgentError as error:
                    log.info("care.orphans_not_listed", error=error.message, hint=error.hint)
        finally:
            self._note(None)

    async def look(self) -> None:
        """List what was left at the last look and still is; raises AgentError where an answer is missing."""
        found = await self._find_volumes() | await self._find_snapshots()
        listed, self._seen = found & self._seen, found
        for orphan in sorted(listed - self.listed):
            log.warning("care.orphan", kind=orphan.kind, name=orphan.name, of=orphan.of)
        self.listed = listed
        counts = Counter(orphan.kind for orphan in listed)
        self._note({kind: counts[kind] for kind in KINDS})
        about = About("CSIDriver", self._driver, api_version="storage.k8s.io/v1")
        for orphan in sorted(listed):
            await self._teller.warn(about, REASON, orphan.describe())

    async def _find_volumes(self) -> frozenset[Orphan]:
        volumes, _ = split(await self._make(DescribeVolumes(_MADE)))
        ours = [one for one in self._attachments.known.values() if one.spec.attacher == self._driver]
        _, known = await self._api.list_all(PersistentVolume)
        ids = (parse_provider_id(node.spec.provider_id) for node in self._nodes.known.values())
        instance_ids = {node_id.instance_id for node_id in ids if node_id is not None}
        return find_orphans(volumes, ours, known, instance_ids, self._cluster_id)

    async def _find_snapshots(self) -> frozenset[Orphan]:
        """Return what is left of snapshots; nothing where Kubernetes shows none of its own."""
        snapshots, _ = split(await self._make(DescribeSnapshots(_TAKEN)))
        if not snapshots:
            return frozenset()
        try:
            _, known = await self._api.list_all(VolumeSnapshotContent)
        except ClusterError as error:
            if error.status not in {NOT_FOUND, FORBIDDEN}:
                raise
            if error.status == FORBIDDEN:  # which volumes are left can be told all the same
                log.info("care.snapshots_not_listed", error=error.message, hint=error.hint)
            return frozenset()
        found = list_unknown_snapshots(snapshots, known, self._cluster_id)
        return frozenset(map(_note_snapshot, found))


def _note_snapshot(snapshot: CloudSnapshot) -> Orphan:
    return Orphan(SNAPSHOT, snapshot.snapshot_id, snapshot.tag(TAG_SNAPSHOT_NAME) or "")
