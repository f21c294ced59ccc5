"""Finds the ARN of a HyperPod cluster, of which a node's ID has no more than the cluster's."""

from __future__ import annotations

import asyncio

from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import GetCallerIdentity


class ClusterArns:
    """Those of one region and the account of the controller's role."""

    def __init__(self, make: Make, region: str) -> None:
        self._make = make
        self._region = region
        self._owner: tuple[str, str] | None = None
        self._asking = asyncio.Lock()

    async def find_arn(self, cluster_id: str) -> str:
        """Return the ARN of a cluster; the partition is that of the role, as in ``aws-us-gov``."""
        async with self._asking:
            if self._owner is None:
                account, role = await self._make(GetCallerIdentity())
                self._owner = role.split(":")[1], account
        partition, account = self._owner
        return f"arn:{partition}:sagemaker:{self._region}:{account}:cluster/{cluster_id}"
