"""Tells whoever orders a volume by hand what this instance has no room or no use for, before AWS is asked.

Told, not refused: EC2 itself knows what it has no room for. Only what would make a volume that surely has no
place is refused, since a volume is billed. Where AWS does not say what the instance type can do, nothing is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct

from agent.cloud.aws.call import Make
from agent.cloud.aws.instance_types import DescribeInstanceTypes, InstanceLimits
from agent.cloud.limits.attachment_room import find_little_room, find_no_room
from agent.cloud.limits.instance_speed import PAID_TYPES, find_burst_only, find_too_fast
from agent.cloud.plan.decisions import AttachApi, NodeView
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import Provisioned, VolumeId


class OrderWarnings(Struct, frozen=True):
    """What is known of this instance and its volumes, and who is told."""

    make: Make
    tell: Callable[[str], Awaitable[None]]
    provisioned: Mapping[VolumeId, Provisioned]
    """What the volumes here are given, as AWS described them last."""

    async def warn(
        self, name: str, type_: str | None, given: Provisioned, node: NodeView, *, is_refused: bool = False
    ) -> None:
        """Tell what of a volume this instance has no room or no use for.

        ``name``: what it is called in a sentence. ``is_refused``: RefusedError where it surely has no room.
        """
        limits = await self._ask(node)
        if limits is None:
            return
        await self._warn_of_room(name, limits, len(node.devices), is_refused=is_refused)
        if type_ in PAID_TYPES:
            await self._warn_of_speed(name, given, limits)

    async def _ask(self, node: NodeView) -> InstanceLimits | None:
        type_ = node.identity.instance_type
        if type_ is None or node.api is AttachApi.NONE:
            return None
        try:
            found: tuple[InstanceLimits, ...] = await self.make(DescribeInstanceTypes((type_,)))
        except AgentError:
            return None
        return next((one for one in found if one.instance_type == type_), None)

    async def _warn_of_room(
        self, name: str, limits: InstanceLimits, attached: int, *, is_refused: bool
    ) -> None:
        none = find_no_room(f"attach {name}", attached, limits)
        if none is not None and is_refused:
            raise RefusedError(
                none.message, none.hint, none.reason, retryable=False, exit_code=ExitCode.REFUSED
            )
        if none is not None:
            await self.tell(
                f"This instance has no room for {name}: {attached} volumes are attached, and "
                f"{limits.instance_type} takes {limits.attachments}. AWS is asked all the same."
            )
        little = find_little_room(attached, limits)
        if little is not None:
            await self.tell(f"This instance may have no room for {name}: {little}.")

    async def _warn_of_speed(self, name: str, given: Provisioned, limits: InstanceLimits) -> None:
        """Tell what of its speed is of no use here, by itself, or else together with what is here."""
        others = {str(volume_id): one for volume_id, one in self.provisioned.items()}
        for volumes in ({name: given}, {**others, name: given}):
            told = [notice.message for notice in find_too_fast(volumes, limits).values()]
            told += find_burst_only(volumes, limits)
            if told:
                for sentence in told:
                    await self.tell(sentence)
                return
