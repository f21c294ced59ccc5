"""What a person asks of volumes through the agent: attach, detach, create, restore, expand, modify.

Every order looks before each call and stops at the first thing that cannot be; asking again takes it up where
it stands. The same planners decide as in the loop.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.cloud.aws.calls import ModifyVolume
from agent.cloud.aws.models import CloudVolume
from agent.cloud.errors.explain import require_read
from agent.cloud.identity.whoami import require_identity
from agent.cloud.limits.order_warnings import OrderWarnings
from agent.cloud.orders.against_policy import PolicyGuard
from agent.cloud.orders.named_volumes import NewVolume, Place, find_or_make
from agent.cloud.orders.runner import Follower, Sighting
from agent.cloud.plan.attach_volume import plan_attach, plan_detach
from agent.cloud.plan.claims.wanted_volume import check_kms_key
from agent.cloud.plan.decisions import AttachApi, Decision, NodeView, Release
from agent.cloud.plan.modify_volume import find_change, plan_expand, wait_for
from agent.cloud.view.describe_all import describe_known, describe_modifications
from agent.core.errors import AgentError, ExitCode, InvalidValueError, RefusedError
from agent.core.model import Provisioned, Reason, VolumeId
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait
from agent.core.units import GIB
from agent.policy.entry_checks import find_size_fault


class VolumeOrders:
    """Carries orders out with the daemon's own client and hands."""

    def __init__(
        self,
        follower: Follower,
        view: Callable[[], NodeView],
        guard: PolicyGuard | None = None,
        warnings: OrderWarnings | None = None,
    ) -> None:
        self._follower = follower
        self._guard = guard
        self._warnings = warnings
        self._make = follower.make
        self._view = view

    async def attach(self, volume_id: VolumeId) -> None:
        """Attach the volume here; ends when its device is here."""
        await self._attach(volume_id, self._warnings)

    async def _attach(self, volume_id: VolumeId, warnings: OrderWarnings | None) -> None:
        if self._guard is not None or warnings is not None:
            volume = await describe_one(self._follower, volume_id)
            if self._guard is not None:
                await self._guard.check_attach(volume)
            if warnings is not None:
                await self._warn_of(volume, warnings)

        async def look() -> Sighting:
            view = self._view()
            node = replace(view, used_names=view.used_names | self._follower.taken_names)
            volume = await describe_one(self._follower, volume_id)
            decision = plan_attach(volume, node)
            if volume.attachment_to(node.identity.instance_id or "") is None:
                _require_api(decision, node)
            return await self._follower.carry_out(volume_id, decision, f"{volume_id} is here.")

        await self._follower.follow(volume_id, look)

    async def _warn_of(self, volume: CloudVolume, warnings: OrderWarnings) -> None:
        node = self._view()
        if volume.volume_id in node.devices or volume.attachment_to(node.identity.instance_id or ""):
            return
        given = Provisioned(volume.iops, volume.throughput)
        await warnings.warn(volume.volume_id, volume.type, given, node)

    async def detach(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        """Unmount, flush and detach the volume; ends when it is gone from API and node."""
        has_released = False  # by this order: whoever has begun to use it since an earlier one is to be named

        async def look() -> Sighting:
            nonlocal has_released
            volume = await describe_one(self._follower, volume_id)
            node = self._view()
            decision = plan_detach(volume, node, is_released=has_released)
            _require_api(decision, node)
            done = f"{volume_id} is detached."
            sighting = await self._follower.carry_out(volume_id, decision, done, is_forced=is_forced)
            has_released = has_released or isinstance(decision, Release)
            return sighting

        await self._follower.follow(volume_id, look)

    async def create(self, wanted: NewVolume) -> VolumeId:
        """Make a volume in this node's zone that no policy entry claims; ends when it is available."""
        await self._warn_of_new(wanted)
        return await self._create(wanted)

    async def _warn_of_new(self, wanted: NewVolume, *, is_refused: bool = False) -> None:
        if self._warnings is not None:
            given = Provisioned(wanted.iops, wanted.throughput)
            await self._warnings.warn(
                "the new volume", wanted.type, given, self._view(), is_refused=is_refused
            )

    async def _create(self, wanted: NewVolume) -> VolumeId:
        node = self._view()
        identity = node.identity
        require_identity(identity, "zone")
        check_kms_key("the new volume", wanted.kms_key_id, identity.account)
        place = Place(node.shared_key or node.cluster_key, str(identity.zone))
        volume = await find_or_make(self._follower, wanted, place)

        async def look() -> Sighting:
            found = next(iter(require_read(await describe_known(self._make, [volume.volume_id]))), volume)
            if found.state in {"error", "deleting", "deleted"}:
                raise AgentError(f"{found.volume_id} could not be made: it is in state {found.state}.")
            is_done = found.state in {"available", "in-use"}
            state = f"{found.state} in {found.zone}" if is_done else "being made"
            return Sighting(f"{found.volume_id} is {state}.", is_done)

        await self._follower.follow(volume.volume_id, look)
        return volume.volume_id

    async def restore(self, wanted: NewVolume) -> VolumeId:
        """Make a volume from a snapshot and attach it here; ends when its device is here."""
        # One with a name may be made already, and here.
        await self._warn_of_new(wanted, is_refused=wanted.name is None)
        volume_id = await self._create(wanted)
        await self._attach(volume_id, warnings=None)
        await self._follower.say(
            f"{volume_id} holds what {wanted.snapshot_id} does. A policy entry with match: "
            f"{{volume_id: {volume_id}}} has it mounted."
        )
        return volume_id

    async def expand(self, volume_id: VolumeId, size_bytes: int) -> None:
        """Make the volume larger; ends when the size is usable. Filesystems grow by the policy's ``grow``."""
        if size_bytes % GIB:
            raise InvalidValueError("A volume's size is whole GiB.")
        volume = await describe_one(self._follower, volume_id)
        fault = find_size_fault(size_bytes, volume.type)
        if fault is not None and size_bytes > volume.size_gib * GIB:
            raise InvalidValueError(fault)
        modifications = await describe_modifications(self._make, [volume_id])
        planned = plan_expand(volume, size_bytes // GIB, modifications.get(volume_id))
        if planned is None:
            await self._follower.say(f"{volume_id} has {volume.size_gib} GiB already.")
        elif isinstance(planned, (Wait, Refuse)):
            raise _as_error(planned)
        else:
            await self._check(volume, planned)
            await self._modify(volume_id, planned)

    async def modify(self, wanted: ModifyVolume) -> None:
        """Change type, IOPS or throughput; ends when that is usable. A change that is none is not sent."""
        volume_id = wanted.volume_id
        volume = await describe_one(self._follower, volume_id)
        change = find_change(volume, wanted)
        if change is None:
            await self._follower.say(f"{volume_id} is so already; nothing was asked of AWS.")
            return
        await self._check(volume, wanted)
        modifications = await describe_modifications(self._make, [volume_id])
        waiting = wait_for(volume_id, modifications.get(volume_id))
        if waiting is not None:
            raise _as_error(waiting)
        await self._modify(volume_id, change)

    async def _check(self, volume: CloudVolume, asked: ModifyVolume) -> None:
        if self._guard is not None:
            await self._guard.check_modification(volume, asked)

    async def _modify(self, volume_id: VolumeId, call: ModifyVolume) -> None:
        await self._follower.say(f"Asking AWS to {call.describe()}.")
        begun = await self._make(call)

        async def look() -> Sighting:
            # The last one described may be an older one still.
            described = (await describe_modifications(self._make, [volume_id])).get(volume_id, begun)
            modification = described if described.started_at >= begun.started_at else begun
            if modification.state == "failed":
                why = modification.message or "no reason given"
                raise AgentError(f"AWS could not modify {volume_id}: {why}.")
            if modification.state == "modifying":
                percent = modification.progress_percent
                return Sighting(f"{volume_id} is being modified, {percent} %.", percent=percent)
            return Sighting(f"{volume_id} is {modification.state}; the change is usable.", is_done=True)

        await self._follower.follow(volume_id, look)


async def describe_one(follower: Follower, volume_id: VolumeId) -> CloudVolume:
    """Describe a volume a person named, or raise where AWS knows none."""
    for volume in require_read(await describe_known(follower.make, [volume_id])):
        return volume
    raise AgentError(
        f"AWS knows no {volume_id} in this account and region.",
        hint="Is the ID right, and the volume in this region and account?",
        reason=Reason.NOT_ATTACHED,
        retryable=False,
    )


def _require_api(decision: Decision | None, node: NodeView) -> None:
    """Raise where the order waits for a call that no API of this node's makes: waiting would not help."""
    if node.api is AttachApi.NONE and isinstance(decision, Wait) and decision.reason is Reason.NOT_ATTACHED:
        raise _as_error(Refuse(decision.reason, decision.message, decision.hint))


def _as_error(decision: Wait | Refuse) -> AgentError:
    if isinstance(decision, Refuse):
        return RefusedError(
            decision.message, decision.hint, decision.reason, retryable=False, exit_code=ExitCode.REFUSED
        )
    return AgentError(decision.message, decision.hint, decision.reason)
