"""What the orders are carried out with: AWS and the policy, and before them what the node does by itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from agent.cloud.limits.order_warnings import OrderWarnings
from agent.cloud.orders.against_policy import PolicyGuard
from agent.cloud.orders.orphans import OrphanOrders
from agent.cloud.orders.request_fields import read_volume
from agent.cloud.orders.runner import Follower, Report
from agent.cloud.orders.snapshots import SnapshotOrders
from agent.cloud.orders.volumes import VolumeOrders
from agent.cloud.plan.decisions import NodeView
from agent.cloud.view.cloud_report import Hands
from agent.core.model import VolumeId
from agent.policy import Policy, PolicyFile
from agent.report.board.board import Board

OrderRequest = Mapping[str, Any]
"""What an order says: its fields by name."""
Answer = dict[str, Any]
"""What came of an order: which volume or snapshot it was about, or which there are."""
Order = Callable[["OrderContext", OrderRequest], Awaitable[Answer]]


class OrderContext(Struct, frozen=True):
    """What orders are carried out with, and what their words are understood by."""

    follower: Follower
    view: Callable[[], NodeView]
    board: Board
    keep: Callable[[VolumeId], None]
    """Gives a released volume back to the policy."""
    policy: Callable[[], Policy]
    policy_file: PolicyFile | None = None

    @property
    def volumes(self) -> VolumeOrders:
        guard = PolicyGuard(self.policy(), self.view(), self.policy_file)
        warnings = OrderWarnings(self.follower.make, self.follower.say, self.board.provisioned)
        return VolumeOrders(self.follower, self.view, guard, warnings)

    @property
    def snapshots(self) -> SnapshotOrders:
        return SnapshotOrders(self.follower)

    @property
    def orphans(self) -> OrphanOrders:
        return OrphanOrders(self.follower, self.view(), self.policy())

    def read_volume(self, request: OrderRequest) -> VolumeId:
        return read_volume(self.board, request)


class NodeSide(Hands, Protocol):
    """What the node does of an order by itself."""

    async def note_by_hand(self, volume_id: VolumeId) -> None:
        """Have it on disk that a person takes the volume away, before anything is let go."""

    async def note_all_by_hand(self) -> tuple[VolumeId, ...]:
        """Have it on disk that a person takes everything away; return what is here and to be let go."""

    async def withdraw_all(self, why: str) -> tuple[VolumeId, ...]:
        """Leave everything alone, without a note of it; return what is here and to be let go."""

    async def flush(self, volume_id: VolumeId) -> None:
        """Flush what can be flushed of a volume that others use."""

    async def write_released(self) -> bool:
        """Have on disk what is released by now; False where a restart would not know of it."""


class NodeOrderContext(Struct, frozen=True):
    """What an order is carried out with, first on the node and then at AWS."""

    board: Board
    node: NodeSide
    keep: Callable[[VolumeId], None]
    """Gives a released volume back to the policy."""
    report: Report
    open_aws: Callable[[], Awaitable[OrderContext]]
    """Returns what asks AWS, or raises AgentError where the policy says not to."""
