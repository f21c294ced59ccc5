"""What the cloud half is concerned with: that a volume is here, has its shape, its snapshots, or goes.

A concern decides the one next thing about its volume; the loop does it, in the same way for all of them, and
lets a concern that failed rest without keeping the others from theirs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from typing_extensions import override

from agent.cloud.attach import choose_volume, plan_attach
from agent.cloud.call import Make
from agent.cloud.calls import AttachClusterNodeVolume, AttachVolume, ModifyVolume
from agent.cloud.claims import choose_claimed, find_claim_notice, find_claimed, plan_claim
from agent.cloud.decisions import Decision, Do
from agent.cloud.departures import find_departure, find_orphans, find_pardoned, plan_orphan, plan_pardon
from agent.cloud.describe import describe_modifications, is_searchable
from agent.cloud.look import Look
from agent.cloud.makings import note_described
from agent.cloud.memory import Memory
from agent.cloud.modify import plan_modify
from agent.cloud.shoot import SnapshotKeeper
from agent.cloud.values import TAG_CLAIM, CloudVolume
from agent.model import Reason, VolumeId
from agent.policy.entries import Claim, Match, SnapshotsEntry, VolumeEntry
from agent.steps import Refuse, Wait


@dataclass(frozen=True)
class Means:
    """What concerns decide with."""

    make: Make
    memory: Memory
    snapshots: SnapshotKeeper
    released: set[VolumeId]
    """Detached by hand, and to be left so."""
    clock: Callable[[], float]
    now: Callable[[], datetime]


class Concern(ABC):
    """One thing to bring about, call by call."""

    name: str
    """The policy entry's, under which people are told of it."""
    key: str
    """Its own, under which its failures and its last call are remembered."""
    needs_marks = False
    """It is not settled before AWS was asked for all volumes with the agent's marks."""

    @abstractmethod
    async def decide(self, look: Look) -> Decision | None:
        """Return the next thing to do; None: nothing, now."""

    def list_following(self, volume: CloudVolume) -> Iterator[Concern]:
        """Return what is to be seen to once ``volume`` is here."""
        del volume
        return iter(())

    def tell(self, verdict: Wait | Refuse, look: Look) -> None:
        """Say why this is not as wanted: here, why the volume cannot be used."""
        look.verdicts[self.name] = verdict

    def tell_asked(self, waiting: Wait, look: Look) -> None:
        """Say that AWS was asked for what is wanted."""
        self.tell(waiting, look)


def list_concerns(look: Look, means: Means) -> Iterator[Concern]:
    """Return the concerns a look begins with."""
    for entry in look.entries:
        yield Presence(entry, means)
    orphans = find_orphans(look.list_volumes(), look.policy, look.node)
    for volume in orphans:
        yield Leaving(volume, means)
    for volume in find_pardoned(look.list_volumes(), orphans, look.node):
        yield Pardon(volume, means.memory)


class Presence(Concern):
    """The volume of a policy entry is to be here."""

    def __init__(self, entry: VolumeEntry, means: Means) -> None:
        self.name = self.key = entry.name
        self.needs_marks = entry.claim is not None
        self._entry = entry
        self._means = means

    @override
    async def decide(self, look: Look) -> Decision | None:
        decision = self._hold_back(await self._plan(look))
        if isinstance(decision, Do):
            look.reserve_name(decision.call)
        return decision

    async def _plan(self, look: Look) -> Decision | None:
        entry = self._entry
        if entry.claim is not None:
            return await self._plan_claim(entry.claim, look)
        if entry.volume_id is not None:
            volume = look.volumes.get(entry.volume_id)
            return _miss(entry.volume_id) if volume is None else plan_attach(volume, look.node)
        if entry.match is not None and is_searchable(entry):
            return self._plan_matching(entry.match, look)
        return None

    async def _plan_claim(self, claim: Claim, look: Look) -> Decision:
        wanted, makings = look.want(self.name, claim), self._means.memory.makings
        making = makings.get(wanted.key)
        claimed = find_claimed(wanted, look.list_volumes())
        self._means.memory.chosen.update(volume.volume_id for volume in claimed)
        chosen = choose_claimed(claimed, look.node)
        if chosen is not None:
            look.claimed[self.name] = chosen.volume_id
            making = note_described(making, chosen, look.volumes)
            await makings.put(wanted.key, making)
        decision = plan_claim(wanted, look.volumes, look.node, making, self._means.clock())
        notice = find_claim_notice(wanted, decision, look.list_volumes(), making)
        if notice is not None:
            look.notices[self.name] = notice
        is_held = isinstance(decision, Wait) and decision.reason is Reason.ATTACHED_ELSEWHERE
        if is_held and look.unproven is not None:
            raise look.unproven
        return decision

    def _plan_matching(self, match: Match, look: Look) -> Decision:
        volume = choose_volume(look.find_matching(match), look.node)
        if volume is None:
            return Wait(
                Reason.NOT_ATTACHED,
                f"No volume in this account and region matches {self.name!r}.",
                hint="Tag one as the policy's match says, or use claim to have one made.",
            )
        self._means.memory.chosen.add(volume.volume_id)
        return plan_attach(volume, look.node)

    def _hold_back(self, decision: Decision | None) -> Decision | None:
        """Leave a volume that was detached by hand where it is."""
        call = decision.call if isinstance(decision, Do) else None
        if not isinstance(call, (AttachVolume, AttachClusterNodeVolume)):
            return decision
        if call.volume_id not in self._means.released:
            return decision
        return Wait(
            Reason.NOT_ATTACHED,
            f"{call.volume_id} was detached by hand.",
            hint=f"ebs-agent attach {call.volume_id} brings it back, as does reloading the policy.",
        )

    @override
    def tell(self, verdict: Wait | Refuse, look: Look) -> None:
        """Say why the volume is not here; of one whose device is, only that something is wrong with it."""
        claimed = look.claimed.get(self.name, self._entry.volume_id)
        (look.notices if look.has_device(claimed) else look.verdicts)[self.name] = verdict

    @override
    def list_following(self, volume: CloudVolume) -> Iterator[Concern]:
        if self._entry.claim is not None:
            yield Shape(self.name, self._entry.claim, volume, self._means)
        if self._entry.snapshots is not None:
            yield Snapshots(self.name, self._entry.snapshots, volume, self._means)


class Upkeep(Concern):
    """Something about a volume that is here, and is used whatever comes of it."""

    def __init__(self, name: str, what: str, volume: CloudVolume, means: Means) -> None:
        self.name, self.key = name, f"{name}: {what}"
        self._volume = volume
        self._means = means

    @override
    def tell(self, verdict: Wait | Refuse, look: Look) -> None:
        """Note what cannot be changed, now or ever."""
        look.notices[self.name] = verdict

    @override
    def tell_asked(self, waiting: Wait, look: Look) -> None:
        """Say nothing: that a volume in use is being changed is no defect of it."""


class Shape(Upkeep):
    """A claim's volume is to have the size, type, numbers and tags its class says."""

    def __init__(self, name: str, claim: Claim, volume: CloudVolume, means: Means) -> None:
        super().__init__(name, "shape", volume, means)
        self._claim = claim

    @override
    async def decide(self, look: Look) -> Decision | None:
        wanted = look.want(self.name, self._claim)
        planned = plan_modify(self._volume, wanted, None)
        if not isinstance(planned, Do) or not isinstance(planned.call, ModifyVolume):
            return planned
        # Only now is it worth a call to know whether a modification is under way.
        volume_id = self._volume.volume_id
        modifications = await describe_modifications(self._means.make, [volume_id])
        return plan_modify(self._volume, wanted, modifications.get(volume_id))


class Snapshots(Upkeep):
    """A volume is to have the snapshots its schedule says."""

    def __init__(self, name: str, entry: SnapshotsEntry, volume: CloudVolume, means: Means) -> None:
        super().__init__(name, "snapshots", volume, means)
        self._entry = entry

    @override
    async def decide(self, look: Look) -> Decision | None:
        return await self._means.snapshots.tend(self.name, self._entry, self._volume)


class Leaving(Concern):
    """A volume whose claim is no longer in the policy is to go, where the policy said so while it was."""

    needs_marks = True

    def __init__(self, volume: CloudVolume, means: Means) -> None:
        self.name = self.key = f"{volume.tag(TAG_CLAIM)} ({volume.volume_id})"
        self._volume = volume
        self._means = means

    @override
    async def decide(self, look: Look) -> Decision | None:
        departure, volume_id = find_departure(self._volume), self._volume.volume_id
        if departure is None:
            return None
        look.departures[volume_id] = departure
        memory, now = self._means.memory, self._means.now()
        grace = timedelta(seconds=look.policy.agent.cloud.grace_s)
        deadline = memory.departing.setdefault(volume_id, now + grace)
        is_due = departure.after is not None and now >= departure.after
        return plan_orphan(
            self._volume,
            await self._means.snapshots.find_final(self._volume) if is_due else (),
            look.node,
            is_released=volume_id in memory.dropped,
            now=now,
            deadline=deadline,
        )


class Pardon(Concern):
    """A volume that was to be deleted is wanted again: the time of its deletion is to be forgotten."""

    def __init__(self, volume: CloudVolume, memory: Memory) -> None:
        self.name = f"{volume.tag(TAG_CLAIM)} ({volume.volume_id})"
        self.key = f"{self.name}: pardon"
        self._volume = volume
        self._memory = memory

    @override
    async def decide(self, look: Look) -> Decision | None:
        self._memory.departing.pop(self._volume.volume_id, None)
        return plan_pardon(self._volume)


def _miss(volume_id: VolumeId) -> Wait:
    return Wait(
        Reason.NOT_ATTACHED,
        f"AWS knows no {volume_id} in this account and region.",
        hint="Is the ID right, and the volume in this region and account?",
    )
