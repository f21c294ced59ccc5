"""The concerns about volumes that are to leave this node: deleted, given back, or kept after all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from typing_extensions import override

from agent.cloud.aws.calls import DeleteVolume
from agent.cloud.aws.models import TAG_CLAIM, CloudVolume
from agent.cloud.plan.attach_volume import plan_detach
from agent.cloud.plan.claim_removed import (
    find_departure,
    find_orphans,
    find_pardoned,
    plan_orphan,
    plan_pardon,
)
from agent.cloud.plan.claims import find_claimed
from agent.cloud.plan.decisions import Decision, Do
from agent.cloud.plan.pools import find_last_holder, find_taken
from agent.cloud.state.process_memory import CloudMemory
from agent.cloud.tasks.task import Concern, Means
from agent.cloud.view.cloud_state import CloudState


def list_leaving(look: CloudState, means: Means) -> Iterator[Concern]:
    """Return the concerns about what is here, or is this node's, and is wanted no more."""
    orphans = find_orphans(look.list_volumes(), look.policy, look.node)
    for volume in orphans:
        yield Leaving(volume, means)
    for volume in find_surplus(look):
        yield GivingBack(volume, means)
    for volume in find_pardoned(look.list_volumes(), orphans, look.node):
        yield Pardon(volume, means.memory)


class Leaving(Concern):
    """A volume whose claim is no longer in the policy is to go, where the policy said so while it was."""

    needs_marks = True

    def __init__(self, volume: CloudVolume, means: Means) -> None:
        self.name = self.key = f"{volume.tag(TAG_CLAIM)} ({volume.volume_id})"
        self._volume = volume
        self._means = means

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        departure, volume_id = find_departure(self._volume), self._volume.volume_id
        if departure is None:
            return None
        look.departures[volume_id] = departure
        memory, now = self._means.memory, self._means.now()
        grace = timedelta(seconds=look.policy.agent.cloud.grace_s)
        deadline = memory.departing.setdefault(volume_id, now + grace)
        is_due = departure.after is not None and now >= departure.after
        if not is_due:
            look.foresee(self.name, Do(DeleteVolume(volume_id)), at=departure.after or deadline)
        return plan_orphan(
            self._volume,
            await self._means.snapshots.find_final(self._volume) if is_due else (),
            look.node,
            is_released=volume_id in memory.dropped,
            now=now,
            deadline=deadline,
        )


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


class GivingBack(Concern):
    """A volume of a pool that is attached here and is not this node's is to go back to it."""

    def __init__(self, volume: CloudVolume, means: Means) -> None:
        self.name = self.key = f"{volume.tag(TAG_CLAIM)} ({volume.volume_id})"
        self._volume = volume
        self._means = means

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        is_released = self._volume.volume_id in self._means.memory.dropped
        return plan_detach(self._volume, look.node, is_released=is_released)


class Pardon(Concern):
    """A volume that was to be deleted is wanted again: the time of its deletion is to be forgotten."""

    def __init__(self, volume: CloudVolume, memory: CloudMemory) -> None:
        self.name = f"{volume.tag(TAG_CLAIM)} ({volume.volume_id})"
        self.key = f"{self.name}: pardon"
        self._volume = volume
        self._memory = memory

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        self._memory.departing.pop(self._volume.volume_id, None)
        return plan_pardon(self._volume)
