"""The tasks about volumes that are to leave this node: deleted, given back, or kept after all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from typing_extensions import override

from agent.cloud.aws.calls import DeleteVolume
from agent.cloud.aws.models import TAG_CLAIM, CloudVolume
from agent.cloud.plan.attach_volume import plan_detach
from agent.cloud.plan.claims.claim_removed import (
    find_planned_deletion,
    find_removed,
    find_wanted_again,
    plan_cancel_deletion,
    plan_removed,
)
from agent.cloud.plan.claims.find_or_make import find_claimed
from agent.cloud.plan.claims.pools import find_last_holder, find_taken
from agent.cloud.plan.decisions import Decision, Do
from agent.cloud.tasks.another_snapshot import check_worth
from agent.cloud.tasks.task import CloudTask, Means
from agent.cloud.view.cloud_state import CloudState
from agent.core.steps import Wait


def list_unwanted(look: CloudState, means: Means) -> Iterator[CloudTask]:
    """Return the tasks about what is here, or is this node's, and is wanted no more."""
    removed = find_removed(look.list_volumes(), look.policy, look.node)
    if look.node.node_key is not None:
        # A time that was meant for an earlier removal, and never written, is none for a later one.
        staying = look.volumes.keys() - {volume.volume_id for volume in removed}
        for volume_id in staying & means.memory.departing.keys():
            del means.memory.departing[volume_id]
    for volume in removed:
        yield DeleteRemovedTask(volume, means)
    for volume in find_surplus(look):
        yield DetachSurplusTask(volume, means)
    for volume in find_wanted_again(look.list_volumes(), removed, look.node):
        yield CancelDeletionTask(volume, means)


class UnwantedTask(CloudTask):
    """Something about a claim's volume that was, or is, not to stay at this node."""

    def __init__(self, volume: CloudVolume, means: Means) -> None:
        self.name = self.key = f"{volume.tag(TAG_CLAIM)} ({volume.volume_id})"
        self._volume = volume
        self._means = means

    def _is_released(self) -> bool:
        return self._volume.volume_id in self._means.memory.dropped


class DeleteRemovedTask(UnwantedTask):
    """A volume whose claim is no longer in the policy is to go, where the policy said so while it was."""

    needs_marks = True

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        deletion, volume_id = find_planned_deletion(self._volume), self._volume.volume_id
        if deletion is None:
            return None
        look.departures[volume_id] = deletion
        memory, now = self._means.memory, self._means.now()
        grace = timedelta(seconds=look.policy.agent.cloud.grace_s)
        deadline = memory.departing.setdefault(volume_id, now + grace)
        is_due = deletion.after is not None and now >= deletion.after
        if not is_due:
            look.foresee(self.name, Do(DeleteVolume(volume_id)), at=deletion.after or deadline)
        begun = self._see_free(look)
        final = await self._means.snapshots.find_final(self._volume) if is_due else ()
        decision = plan_removed(
            self._volume,
            final,
            look.node,
            is_released=self._is_released(),
            now=now,
            deadline=deadline,
            begun=begun,
        )
        if isinstance(decision, Wait):
            look.foresee(self.name, Do(DeleteVolume(volume_id)), at=deletion.after, why=decision.message)
        await check_worth(self._means.make, decision, final)
        return decision

    @override
    async def keep_watch(self, look: CloudState) -> None:
        self._see_free(look)

    def _see_free(self, look: CloudState) -> str | None:
        """Take note of whether it is free; return its last snapshot, where that still counts."""
        is_here = self._volume.volume_id in look.node.devices
        return self._means.memory.free.see(self._volume, self._means.now(), is_here=is_here)


def find_surplus(look: CloudState) -> Iterator[CloudVolume]:
    """Return the volumes of pools that are attached here and not this node's to use.

    It has another one, or they bear the name of an instance that lives.
    """
    for wanted in look.list_wanted():
        has_own = bool(find_claimed(wanted, look.list_volumes()))
        for volume in find_taken(wanted, look.list_pools(), look.node):
            is_known = look.unproven is None
            if has_own or (is_known and find_last_holder(volume) not in look.node.gone):
                yield volume


class DetachSurplusTask(UnwantedTask):
    """A volume of a pool that is attached here and is not this node's is to go back to it."""

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        return plan_detach(self._volume, look.node, is_released=self._is_released())


class CancelDeletionTask(UnwantedTask):
    """A volume that was to be deleted is wanted again: the time of its deletion is to be forgotten."""

    def __init__(self, volume: CloudVolume, means: Means) -> None:
        super().__init__(volume, means)
        self.key = f"{self.name}: pardon"

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        await self.keep_watch(look)
        return plan_cancel_deletion(self._volume)

    @override
    async def keep_watch(self, look: CloudState) -> None:
        self._means.memory.free.forget(self._volume.volume_id)
