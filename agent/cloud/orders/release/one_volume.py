"""The orders that take a volume away from this node and give it back, as far as the node goes without AWS.

What is mounted is the node's own affair: it is unmounted, flushed and left so whether or not AWS can be
asked. What was done then and what was not is said, and a released volume that is still here comes back
without AWS.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from agent.cloud.orders.context import Answer, NodeOrderContext, Order, OrderRequest
from agent.cloud.orders.request_fields import read_volume
from agent.cloud.orders.runner import release
from agent.cloud.orders.volumes import describe_one
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import VolumeId

DETACH_YOURSELF = (
    "Whoever attached it detaches it: `aws sagemaker detach-cluster-node-volume` on HyperPod, `aws ec2"
    " detach-volume` on EC2."
)


async def attach(context: NodeOrderContext, request: OrderRequest, order: Order) -> Answer:
    """Give a released volume that is still here back to the policy; have AWS attach any other."""
    volume_id = read_volume(context.board, request)
    if volume_id in context.node.released and volume_id in context.node.list_devices():
        context.keep(volume_id)
        await context.report(f"{volume_id} is here, and the policy's again.")
        return {"volume_id": volume_id}
    return await order(await context.open_aws(), request)


async def detach(context: NodeOrderContext, request: OrderRequest, order: Order) -> Answer:
    """Have a volume unmounted, flushed and detached; without AWS all but the last of it.

    AWS is asked about the volume first, since its tags may say that it is the CSI driver's.
    """
    volume_id = read_volume(context.board, request)
    try:
        aws = await context.open_aws()
        await describe_one(aws.follower, volume_id)
    except AgentError as unreachable:
        if volume_id not in context.node.list_devices():
            raise  # there is nothing that the node could do
        await context.report(f"Unmounting and flushing {volume_id}.")
        await context.node.note_by_hand(volume_id)
        await release(context.node, volume_id, is_forced=request.get("force") is True)
        raise explain_attached(volume_id, unreachable) from unreachable
    try:
        return await order(aws, request)
    except AgentError as error:
        # Where letting go is what failed it is the policy's again, or was not touched.
        if volume_id not in context.node.released or volume_id not in context.node.list_devices():
            raise
        raise explain_attached(volume_id, error) from error


NODE_ORDERS: Mapping[str, Callable[[NodeOrderContext, OrderRequest, Order], Awaitable[Answer]]] = {
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
