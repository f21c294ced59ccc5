"""Asks AWS what this node's instance type can do with volumes: once for a process, since it never changes.

Attaching never waits for the answer; making a volume, which is billed, does. Where asking is denied or fails
it rests, nothing is said, and all goes on as if there were no limit: AWS itself refuses what has no room.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from agent.base.log import get_logger
from agent.cloud.aws.call import Change, Make
from agent.cloud.aws.calls import AttachClusterNodeVolume, AttachVolume
from agent.cloud.aws.instance_types import DescribeInstanceTypes, InstanceLimits
from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume
from agent.cloud.errors.explain import CloudError
from agent.cloud.limits.attachment_room import find_little_room, find_no_room, list_places
from agent.cloud.limits.instance_speed import PAID_TYPES, find_burst_only, find_too_fast
from agent.cloud.plan.claims.find_or_make import find_claimed
from agent.cloud.plan.decisions import AttachApi, NodeView
from agent.cloud.view.retry_pauses import BackOffs
from agent.core.errors import AgentError
from agent.core.model import Provisioned, Reason, VolumeId
from agent.core.steps import Wait

if TYPE_CHECKING:
    from typing import Any

    from agent.cloud.view.cloud_state import CloudState
    from agent.policy.entries import VolumeEntry

log = get_logger(__name__)

INSTANCE_TYPE = "(instance type)"
"""What asking rests under; no entry can be named so."""
UNKNOWN_TYPE_CODE = "InvalidInstanceType"


class TypeLimits:
    """What the instance type of this node can do, as far as AWS told."""

    def __init__(self, make: Make, rests: BackOffs) -> None:
        self._make = make
        self._rests = rests
        self._known: dict[str, InstanceLimits | None] = {}
        """By instance type; None is one that AWS does not know, which is not asked again."""
        self._asking = anyio.Lock()
        self._warned: set[VolumeId] = set()

    def get(self, node: NodeView) -> InstanceLimits | None:
        """Return what is known by now."""
        return self._known.get(node.identity.instance_type or "")

    async def find(self, node: NodeView) -> InstanceLimits | None:
        """Return what is known, asking for it where that was not done. Never raises for AWS."""
        name = node.identity.instance_type
        if name is None or node.api is AttachApi.NONE:
            return None
        async with self._asking:
            if name not in self._known and self._rests.find(INSTANCE_TYPE) is None:
                await self._ask(name)
        return self._known.get(name)

    async def _ask(self, name: str) -> None:
        try:
            found = await self._make(DescribeInstanceTypes((name,)))
        except AgentError as error:
            if isinstance(error, CloudError) and error.code == UNKNOWN_TYPE_CODE:
                self._known[name] = None
            is_news = self._rests.note_failure(INSTANCE_TYPE, error)
            if is_news and error.reason is not Reason.PERMISSION_DENIED:
                log.warning("cloud.failed", error=error.message, hint=error.hint)
            return
        self._rests.forget(INSTANCE_TYPE)
        self._known[name] = next((one for one in found if one.instance_type == name), None)

    async def hold_back(self, name: str, call: Change[Any], look: CloudState) -> Wait | None:
        """Return why a call that brings or makes an entry's volume is not made; None: it is."""
        attached = len(look.list_here())
        if isinstance(call, (AttachVolume, AttachClusterNodeVolume)):
            limits, coming = self.get(look.node), len(look.coming - {call.volume_id})
            refusal = find_no_room(call.describe(), attached, limits, coming)
            little = None if refusal else find_little_room(attached + coming, limits)
            if little is not None and call.volume_id not in self._warned:
                self._warned.add(call.volume_id)
                log.warning("cloud.little_room", volume_id=call.volume_id, why=little)
            if refusal is None:
                look.coming.add(call.volume_id)
            return refusal
        if not isinstance(call, (CreateVolume, CopyVolumes)):
            return None
        limits = await self.find(look.node)
        refusal = find_no_room(call.describe(), attached, limits, len(look.coming | _find_made(look)))
        if refusal is None:
            look.coming.add(name)  # the volume has no ID yet, and a place of its own all the same
        return refusal

    async def tend(self, look: CloudState) -> None:
        """Say what of this look's volumes the instance has no use for. Never raises for AWS."""
        limits = await self.find(look.node)
        look.places = list_places(look.list_here(), limits)
        if limits is None:
            return
        given = {entry.name: one for entry in look.entries if (one := _find_given(entry, look)) is not None}
        for name, notice in find_too_fast(given, limits).items():
            look.note(name, notice)
        look.remarks = find_burst_only(given, limits)


def _find_made(look: CloudState) -> set[VolumeId]:
    """Return the volumes of this node's claims that are made and attached nowhere yet."""
    return {
        volume.volume_id
        for wanted in look.list_wanted()
        for volume in find_claimed(wanted, look.list_volumes())
        if not volume.attachments and not volume.is_gone and not look.has_device(volume.volume_id)
    }


def _find_given(entry: VolumeEntry, look: CloudState) -> Provisioned | None:
    """Return what an entry's volume is given, or is to be by its class; None where none is here, or paid."""
    meant = look.find_meant(entry)
    volume = None if meant is None or not look.has_device(meant) else look.volumes.get(meant)
    if volume is None or volume.type not in PAID_TYPES:
        return None
    iops, throughput = volume.iops, volume.throughput
    if entry.claim is not None:
        with suppress(AgentError):  # told of the claim itself
            wanted = look.want(entry.name, entry.claim)
            iops, throughput = wanted.iops or iops, wanted.throughput or throughput
    return Provisioned(iops, throughput)
