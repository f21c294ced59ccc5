"""The volumes of a cluster, as Kubernetes asks for them."""

from __future__ import annotations

from agent.cloud.aws.call import Make
from agent.controller.attaching.attachments import AskedOfVolumes, Attachments
from agent.controller.calls import (
    AttachCall,
    CreateCall,
    ExpandCall,
    MadeVolume,
    ModifyCall,
    NodeId,
    Page,
    Pairs,
    PublishedVolume,
    UseQuestion,
)
from agent.controller.describing.describing import Describing
from agent.controller.making.create import Creating
from agent.controller.making.known_volumes import KnownVolumes
from agent.controller.patience import Patience
from agent.controller.turns import Turns
from agent.controller.volumes.change import Changing
from agent.controller.volumes.delete import Deleting
from agent.controller.volumes.listing import KnowNodes, Listing
from agent.core.model import VolumeId


class ClusterVolumes:
    """Makes, deletes, attaches, changes and lists: ``agent.controller.calls.Volumes``."""

    def __init__(
        self,
        make: Make,
        describing: Describing,
        turns: Turns,
        region: str,
        cluster_id: str | None = None,
        know_nodes: KnowNodes = lambda: None,
        patience: Patience | None = None,
    ) -> None:
        patience = patience or Patience()
        known = KnownVolumes(describing, patience)
        asked = AskedOfVolumes(known.find, describing.find_checks, known.is_gone)
        self._attachments = Attachments(make, asked, turns.take, region, patience)
        sights = self._attachments.sights
        self._creating = Creating(make, describing, known, turns.take, patience, cluster_id)
        self._deleting = Deleting(make, known, sights, turns.take, patience, cluster_id)
        # That a volume is not there ends an expansion for good: it is looked for twice.
        self._changing = Changing(make, known.find_surely, describing.find_modification, turns.take, patience)
        self._listing = Listing(sights, describing.list_volumes, cluster_id, know_nodes)

    async def create(self, call: CreateCall) -> MadeVolume:
        """Return the volume of this name once it can be attached; one that differs is refused."""
        return await self._creating.create(call)

    async def delete(self, volume_id: VolumeId) -> None:
        """Return when the volume is deleted, or was before; one that a node has is refused."""
        await self._deleting.delete(volume_id)

    async def attach(self, call: AttachCall) -> Pairs:
        """Return what the node is to be told, once AWS says that the volume is attached to it."""
        return await self._attachments.attach(call)

    async def detach(self, volume_id: VolumeId, node: NodeId | None) -> None:
        """Return once AWS describes no attachment of the volume to the node; None: to any node."""
        await self._attachments.detach(volume_id, node)

    async def expand(self, call: ExpandCall) -> int:
        """Return the volume's size in bytes once it can be used."""
        return await self._changing.expand(call)

    async def modify(self, call: ModifyCall) -> None:
        """Return once the volume is as asked for."""
        await self._changing.modify(call)

    async def find(self, volume_id: VolumeId) -> PublishedVolume:
        """Return the volume and its nodes."""
        return await self._listing.find(volume_id)

    async def explain_misuse(self, question: UseQuestion) -> str | None:
        """Return why the volume cannot be used so; None: it can."""
        return await self._listing.explain_misuse(question)

    async def list_volumes(self, most: int | None, token: str | None) -> Page[PublishedVolume]:
        """Return the cluster's volumes, and all else that its nodes have attached."""
        return await self._listing.list_volumes(most, token)
