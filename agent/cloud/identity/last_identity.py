"""Who this node is, as last found out: asked again where that may be another one by now.

MoveClusterNodes takes a running node to another cluster under the same instance ID. What it was keeps it from
its volumes then: AWS answers that there is no such node in the cluster, or lists the cluster without it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent.cloud.errors import codes
from agent.cloud.errors.explain import CloudError
from agent.cloud.identity.cloud_identity import CloudIdentity
from agent.core.errors import AgentError
from agent.core.model import Reason
from agent.policy import Policy


class StrangerError(AgentError):
    """AWS's own list of where this node is known to be does not have it."""

    def __init__(self, place: str, instance_id: str) -> None:
        super().__init__(
            f"AWS's list of {place} does not have this node, {instance_id}, so nothing is proven by it.",
            hint="It may have been moved to another cluster: which one it is in is asked again by itself. "
            "`ebs-agent doctor` shows what each source says of it.",
            reason=Reason.WAITING_FOR_CLOUD,
        )


class KnownIdentity:
    """The identity of this node between the looks of one process."""

    def __init__(self, identify: Callable[[], Awaitable[CloudIdentity]]) -> None:
        self._identify = identify
        self._asked_under: Policy | None = None
        self._is_doubted = False
        self.last: CloudIdentity | None = None
        """As it was last found out."""

    async def find(self, policy: Policy) -> CloudIdentity:
        """Return who it is; asked anew under another policy, after a doubt, and until all sources agree."""
        is_old = self._asked_under is not policy or self._is_doubted
        if self.last is None or self.last.problems or is_old:
            self.last = await self._identify()
            self._asked_under, self._is_doubted = policy, False
        return self.last

    def doubt(self, error: BaseException | None) -> None:
        """Have it asked again where AWS knows no such node, cluster or instance, or lists all without it."""
        is_unknown = isinstance(error, CloudError) and error.code in codes.UNKNOWN_NODE
        self._is_doubted |= is_unknown or isinstance(error, StrangerError)
