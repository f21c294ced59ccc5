"""Chooses the block device names under which EC2 attaches volumes to instances.

Several volumes that come to one instance at once never get one name from here. Another replica may give the
same one; EC2 refuses it then, and the next is tried.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Sequence

from msgspec import Struct, field

from agent.cloud.aws.answer_fields import split
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.plan.device_names import choose_device_name, list_attached_names
from agent.controller.describing.batches import WINDOW_S, Batches
from agent.core.errors import AgentError
from agent.core.reasons import Reason

MOST_INSTANCES = 8192
"""Instances whose names are remembered; of one that is not, AWS is asked again."""


class _Instance(Struct):
    used: set[str] | None = None
    """Names that a volume has, or had when AWS was asked last; None: it was not asked yet."""
    pending: Counter[str] = field(default_factory=Counter)
    """Names in calls that AWS has not answered."""
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class BlockNames:
    """The names of every instance that volumes were attached to lately."""

    def __init__(self, make: Make, window_s: float = WINDOW_S) -> None:
        self._make = make
        self._asking: Batches[str, frozenset[str]] = Batches(self._describe, window_s)
        self._instances: OrderedDict[str, _Instance] = OrderedDict()

    async def take(self, instance_id: str) -> str:
        """Return a name that is free on the instance, as far as is known, and is not given again.

        Raises AgentError where every name is taken.
        """
        instance = self._instances.setdefault(instance_id, _Instance())
        self._instances.move_to_end(instance_id)
        self._forget_the_oldest()
        async with instance.asking:
            if instance.used is None:
                instance.used = set(await self._asking.find(instance_id))
            name = choose_device_name(instance.used | set(instance.pending))
            if name is None:  # names of volumes that have left meanwhile are free again
                instance.used = set(await self._asking.find(instance_id))
                name = choose_device_name(instance.used | set(instance.pending))
        if name is None:
            raise AgentError(
                f"Every block device name of {instance_id} is taken.",
                hint="Detach a volume, or use another node.",
                reason=Reason.ATTACHMENT_LIMIT,
            )
        instance.used.add(name)
        instance.pending[name] += 1
        return name

    def settle(self, instance_id: str, name: str, *, is_free: bool) -> None:
        """Take note that AWS has answered a call with this name; ``is_free``: it was not used."""
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        instance.pending -= Counter((name,))
        if is_free and instance.used is not None:
            instance.used.discard(name)

    async def _describe(self, instance_ids: Sequence[str]) -> dict[str, frozenset[str] | AgentError]:
        """Return the names in use on each; that of a volume which cannot be read, EC2 itself refuses."""
        described = await self._make(DescribeVolumes((("attachment.instance-id", tuple(instance_ids)),)))
        volumes, _ = split(described)
        return {one: list_attached_names(volumes, one) for one in instance_ids}

    def _forget_the_oldest(self) -> None:
        while len(self._instances) > MOST_INSTANCES:
            oldest, instance = next(iter(self._instances.items()))
            if instance.pending or instance.asking.locked():
                return
            del self._instances[oldest]
