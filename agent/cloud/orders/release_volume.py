"""The orders that take a volume away from this node and give it back, as far as the node goes without AWS.

What is mounted is the node's own affair: it is unmounted, flushed and left so whether or not AWS can be
asked. What was done then and what was not is said, and a released volume that is still here comes back
without AWS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agent.cloud.orders.request_fields import find_volume
from agent.cloud.orders.runner import Tell, release
from agent.cloud.orders.volumes import describe_one
from agent.cloud.view.cloud_report import Hands
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import VolumeId
from agent.report.board.board import Board

if TYPE_CHECKING:
    from agent.cloud.orders.routes import Desk

Words = Mapping[str, Any]
AwsOrder = Callable[["Desk", Words], Awaitable[dict[str, Any]]]

DETACH_YOURSELF = (
    "Whoever attached it detaches it: `aws sagemaker detach-cluster-node-volume` on HyperPod, `aws ec2"
    " detach-volume` on EC2."
)


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


@dataclass(frozen=True)
class NodeDesk:
    """What an order is carried out with, first on the node and then at AWS."""

    board: Board
    node: NodeSide
    keep: Callable[[VolumeId], None]
    """Gives a released volume back to the policy."""
    tell: Tell
    open_desk: Callable[[], Awaitable[Desk]]
    """Returns what asks AWS, or raises AgentError where the policy says not to."""


async def attach(desk: NodeDesk, words: Words, order: AwsOrder) -> dict[str, Any]:
    """Give a released volume that is still here back to the policy; have AWS attach any other."""
    volume_id = find_volume(desk.board, str(words.get("volume", "")))
    if volume_id in desk.node.released and volume_id in desk.node.list_devices():
        desk.keep(volume_id)
        await desk.tell(f"{volume_id} is here, and the policy's again.")
        return {"volume_id": volume_id}
    return await order(await desk.open_desk(), words)


async def detach(desk: NodeDesk, words: Words, order: AwsOrder) -> dict[str, Any]:
    """Have a volume unmounted, flushed and detached; without AWS all but the last of it.

    AWS is asked about the volume first, since its tags may say that it is the CSI driver's.
    """
    volume_id = find_volume(desk.board, str(words.get("volume", "")))
    try:
        aws = await desk.open_desk()
        await describe_one(aws.follower, volume_id)
    except AgentError as unreachable:
        if volume_id not in desk.node.list_devices():
            raise  # there is nothing that the node could do
        await desk.tell(f"Unmounting and flushing {volume_id}.")
        await desk.node.note_by_hand(volume_id)
        await release(desk.node, volume_id, is_forced=words.get("force") is True)
        raise explain_attached(volume_id, unreachable) from unreachable
    try:
        return await order(aws, words)
    except AgentError as error:
        # Where letting go is what failed it is the policy's again, or was not touched.
        if volume_id not in desk.node.released or volume_id not in desk.node.list_devices():
            raise
        raise explain_attached(volume_id, error) from error


NODE_ORDERS: Mapping[str, Callable[[NodeDesk, Words, AwsOrder], Awaitable[dict[str, Any]]]] = {
    "attach": attach,
    "detach": detach,
}
"""By name, the orders of which the node does a part; each is given what does AWS's."""


def explain_attached(volume_id: VolumeId, error: AgentError) -> AgentError:
    """Return an error of detaching as what it says of a volume that was let go."""
    is_aws = not isinstance(error, RefusedError)
    return AgentError(
        f"{volume_id} is unmounted and flushed, and stays so; it is still attached: {error.message}",
        hint=error.hint if is_aws and error.hint else DETACH_YOURSELF,
        reason=error.reason,
        retryable=error.retryable,
        exit_code=ExitCode.NOT_READY if error.exit_code is ExitCode.NOT_READY else ExitCode.FAILED,
    )
