"""Asks AWS to attach a volume to a node, or to detach it: SageMaker for HyperPod's nodes, EC2 for all others.

What became of it is told by describing the volume, never by the answer alone.
"""

from __future__ import annotations

from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import (
    AttachClusterNodeVolume,
    AttachVolume,
    DetachClusterNodeVolume,
    DetachVolume,
)
from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError, is_let_through
from agent.controller.attaching.block_names import BlockNames
from agent.controller.calls import NodeId
from agent.controller.cluster_arns import ClusterArns
from agent.controller.describing.batches import WINDOW_S
from agent.core.errors import AgentError
from agent.core.model import VolumeId
from agent.core.reasons import Reason

MOST_NAMES = 8
"""Block device names that are tried in one attempt; others give names, too."""

NO_NODE_CODES = codes.UNKNOWN_NODE | {"InvalidInstanceID", "InvalidInstanceID.Malformed"}
"""With these AWS says that there is no such node, or cluster."""


class NodeCalls:
    """The calls for nodes of both kinds, in one region and the account of the controller's role."""

    def __init__(self, make: Make, region: str, window_s: float = WINDOW_S) -> None:
        self._make = make
        self._clusters = ClusterArns(make, region)
        self._names = BlockNames(make, window_s)

    async def attach(self, volume_id: VolumeId, node: NodeId) -> None:
        """Return once AWS has begun to attach the volume; raises AgentError."""
        if node.cluster_id is not None:
            cluster_arn = await self._clusters.find_arn(node.cluster_id)
            await self._make(AttachClusterNodeVolume(cluster_arn, node.instance_id, volume_id))
            return
        for _ in range(MOST_NAMES):
            if await self._attach_under_a_name(volume_id, node.instance_id):
                return
        raise AgentError(
            f"{MOST_NAMES} block device names in turn were taken on {node}, each before it could be used.",
            hint="It is tried again. Does something else attach volumes to this node all the time?",
            reason=Reason.WAITING_FOR_CLOUD,
        )

    async def detach(self, volume_id: VolumeId, node: NodeId) -> None:
        """Return once AWS has begun to detach the volume; raises CloudError."""
        if node.cluster_id is not None:
            cluster_arn = await self._clusters.find_arn(node.cluster_id)
            await self._make(DetachClusterNodeVolume(cluster_arn, node.instance_id, volume_id))
        else:
            await self._make(DetachVolume(node.instance_id, volume_id))

    async def _attach_under_a_name(self, volume_id: VolumeId, instance_id: str) -> bool:
        """Return whether AWS took the name that was chosen; False: another volume has it meanwhile."""
        name = await self._names.take(instance_id)
        is_free = False
        try:
            await self._make(AttachVolume(instance_id, volume_id, name))
        except CloudError as error:
            if error.code == codes.NAME_TAKEN:
                return False
            is_free = is_let_through(error.code)
            raise
        finally:
            self._names.settle(instance_id, name, is_free=is_free)
        return True
