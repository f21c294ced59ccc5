"""Finds what is left of volumes that Kubernetes does not know any more, and lists it; never deletes anything.

An account may have several clusters, so that of volumes only those are this one's that are attached to a node
of it, or carry its ID: tag ``kubernetes.io/cluster/<ID>``, where the ID is known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import anyio

from agent.base.log import get_logger
from agent.cloud.aws.answer_fields import split
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.aws.models import CloudVolume
from agent.controller.care.proofs import parse_provider_id
from agent.controller.care.tell_events import About, Teller
from agent.controller.cluster.api import ClusterApi
from agent.controller.cluster.objects import Node, PersistentVolume, VolumeAttachment
from agent.controller.cluster.watched import Watched
from agent.controller.name_tags import TAG_VOLUME_NAME, write_name
from agent.core.errors import AgentError

LOOK_S = 600.0
REASON = "OrphanFound"
_HINT = (
    " Nothing deletes it by itself: look at what is on it, then delete it, or make a PersistentVolume of it."
)
_MADE = (("tag-key", (TAG_VOLUME_NAME,)),)

log = get_logger(__name__)


@dataclass(frozen=True, order=True)
class Orphan:
    """Something whose PersistentVolume is gone."""

    kind: str
    """volume | VolumeAttachment"""
    name: str
    persistent_volume: str

    def describe(self) -> str:
        return f"{self.kind} {self.name} is left of PersistentVolume {self.persistent_volume}, which is gone."


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
        Orphan("VolumeAttachment", found.metadata.name, name)
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
            orphans.add(Orphan("volume", volume.volume_id, name))
    return frozenset(orphans)


class Orphans:
    """What is left, where two looks in turn find it: a volume is there before Kubernetes knows it."""

    def __init__(
        self,
        api: ClusterApi,
        make: Make,
        teller: Teller,
        driver: str,
        nodes: Watched[Node],
        attachments: Watched[VolumeAttachment],
        cluster_id: str | None,
    ) -> None:
        self._api = api
        self._make = make
        self._teller = teller
        self._driver = driver
        self._nodes = nodes
        self._attachments = attachments
        self._cluster_id = cluster_id
        self._seen: frozenset[Orphan] = frozenset()
        self.listed: frozenset[Orphan] = frozenset()

    async def tend(self) -> None:
        """Look every ten minutes; never returns."""
        while True:
            await anyio.sleep(LOOK_S)
            try:
                await self.look()
            except AgentError as error:
                log.info("care.orphans_not_listed", error=error.message, hint=error.hint)

    async def look(self) -> None:
        """List what was left at the last look and still is; raises AgentError where an answer is missing."""
        volumes, _ = split(await self._make(DescribeVolumes(_MADE)))
        ours = [one for one in self._attachments.known.values() if one.spec.attacher == self._driver]
        _, known = await self._api.list_all(PersistentVolume)
        ids = (parse_provider_id(node.spec.provider_id) for node in self._nodes.known.values())
        instance_ids = {node_id.instance_id for node_id in ids if node_id is not None}
        found = find_orphans(volumes, ours, known, instance_ids, self._cluster_id)
        listed, self._seen = found & self._seen, found
        for orphan in sorted(listed - self.listed):
            log.warning("care.orphan", kind=orphan.kind, name=orphan.name, of=orphan.persistent_volume)
        self.listed = listed
        about = About("CSIDriver", self._driver, api_version="storage.k8s.io/v1")
        for orphan in sorted(listed):
            await self._teller.warn(about, REASON, orphan.describe() + _HINT)
