"""The tasks of the cloud half: that a volume is here, has its shape, its snapshots, or goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from typing_extensions import override

from agent.cloud.aws.calls import AttachClusterNodeVolume, AttachVolume
from agent.cloud.aws.models import CloudVolume, Modification
from agent.cloud.errors.explain import explain_unread
from agent.cloud.plan.attach_volume import choose_volume, plan_attach
from agent.cloud.plan.claims.find_or_make import (
    choose_claimed,
    find_claim_notice,
    find_claimed,
    is_disowned,
    plan_claim,
)
from agent.cloud.plan.claims.pools import plan_pool
from agent.cloud.plan.claims.wanted_volume import WantedVolume
from agent.cloud.plan.class_drift import ask, find_shape_differences, find_tag_differences, tell_drift
from agent.cloud.plan.decisions import Decision, Do
from agent.cloud.plan.modify_volume import plan_modify, plan_tags
from agent.cloud.state.made_volumes import Making, note_described
from agent.cloud.state.released_volumes import EVERYTHING
from agent.cloud.tasks.delete_orphans import DeleteOrphansTask
from agent.cloud.tasks.task import CloudTask, Means
from agent.cloud.tasks.unwanted_volumes import list_unwanted
from agent.cloud.view import pending_calls
from agent.cloud.view.cloud_state import CloudState
from agent.cloud.view.describe_all import describe_modifications, is_searchable
from agent.core.errors import AgentError
from agent.core.model import Difference, Reason, VolumeId
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait
from agent.policy.entries import Claim, Match, SnapshotsEntry, VolumeEntry


def list_tasks(look: CloudState, means: Means) -> Iterator[CloudTask]:
    """Return the tasks a look begins with."""
    for entry in look.entries:
        yield AttachTask(entry, means)
    yield from list_unwanted(look, means)
    yield DeleteOrphansTask(means)


class AttachTask(CloudTask):
    """The volume of a policy entry is to be here."""

    def __init__(self, entry: VolumeEntry, means: Means) -> None:
        self.name = self.key = entry.name
        self.needs_marks = entry.claim is not None
        self._entry = entry
        self._means = means

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        decision = self._hold_back(await self._plan(look))
        if isinstance(decision, Do):
            refusal = await self._means.limits.hold_back(self.name, decision.call, look)
            if refusal is not None:
                return refusal
            look.reserve_name(decision.call)
        return decision

    async def _plan(self, look: CloudState) -> Decision | None:
        entry = self._entry
        if entry.claim is not None:
            return await self._plan_claim(entry.claim, look)
        # What is here the node half has told to be meant, by whatever the entry says of it.
        volume_id = entry.volume_id or look.assigned.get(self.name)
        if volume_id is not None:
            if volume_id in look.volumes:
                return plan_attach(look.volumes[volume_id], look.node)
            _require_read(look, volume_id)
            needs_aws = entry.volume_id is not None or entry.snapshots is not None
            return _miss(volume_id) if needs_aws else None
        if entry.match is not None and is_searchable(entry):
            return self._plan_matching(entry.match, look)
        return None

    async def _plan_claim(self, claim: Claim, look: CloudState) -> Decision:
        wanted, makings = look.want(self.name, claim), self._means.memory.makings
        making = makings.get(wanted.key)
        claimed = find_claimed(wanted, look.list_volumes())
        if making.volume_id is not None:
            _require_read(look, making.volume_id)
        if not claimed:
            _require_read(look, None)
        self._means.memory.chosen.update(volume.volume_id for volume in claimed)
        chosen = choose_claimed(claimed, look.node)
        if chosen is not None:
            look.claimed[self.name] = chosen.volume_id
            making = note_described(making, chosen, look.volumes)
            await makings.put(wanted.key, making)
        elif claimed or is_disowned(making, look.volumes):
            making = replace(making, is_doubted=True)
            await makings.put(wanted.key, making)
        decision = None
        if wanted.is_pooled and not claimed:
            decision = self._plan_pool(wanted, making, look)
        decision = decision or plan_claim(wanted, look.volumes, look.node, making, self._means.clock())
        notice = find_claim_notice(wanted, decision, look.list_volumes(), making)
        if notice is not None:
            look.note(self.name, notice)
        is_held = isinstance(decision, Wait) and decision.reason is Reason.ATTACHED_ELSEWHERE
        if is_held and look.unproven is not None:
            raise look.unproven
        return decision

    def _plan_pool(self, wanted: WantedVolume, making: Making, look: CloudState) -> Decision | None:
        if is_disowned(making, look.volumes):
            return None
        memory, now_s = self._means.memory, self._means.clock()
        lost = {one for one, lost_at_s in memory.lost.items() if now_s - lost_at_s <= pending_calls.LIMIT_S}
        decision = plan_pool(wanted, look.list_pools(), look.node, making, lost)
        if look.unproven is not None and (decision is None or isinstance(decision, Wait)):
            raise look.unproven  # nothing is made while it is not known whether something was left
        return decision

    def _plan_matching(self, match: Match, look: CloudState) -> Decision:
        volume = choose_volume(look.find_matching(match), look.node)
        if volume is None:
            _require_read(look, None)
            return Wait(
                Reason.NOT_ATTACHED,
                f"No volume in this account and region matches {self.name!r}.",
                hint="Tag one as the policy's match says, or use claim to have one made.",
            )
        self._means.memory.chosen.add(volume.volume_id)
        return plan_attach(volume, look.node)

    def _hold_back(self, decision: Decision | None) -> Decision | None:
        """Leave a volume that was taken away by hand where it is, and bring and make none where all were."""
        call = decision.call if isinstance(decision, Do) else None
        if call is not None and EVERYTHING in self._means.released:
            return Wait(
                Reason.RELEASED,
                f"Everything was taken away from this node by hand. Held back: {call.describe()}.",
                hint="Reloading the policy (ebs-agent reload) has all its volumes brought here again.",
            )
        if not isinstance(call, (AttachVolume, AttachClusterNodeVolume)):
            return decision
        if call.volume_id not in self._means.released:
            return decision
        return Wait(
            Reason.RELEASED,
            f"{call.volume_id} was detached by hand.",
            hint=f"ebs-agent attach {call.volume_id} brings it back, as does reloading the policy.",
        )

    @override
    def report(self, ending: Wait | Refuse, look: CloudState) -> None:
        """Say why the volume is not here; of one whose device is, only that something is wrong with it."""
        if look.has_device(look.find_meant(self._entry)):
            look.note(self.name, ending)
        else:
            look.endings[self.name] = ending

    @override
    def list_following(self, volume: CloudVolume) -> Iterator[CloudTask]:
        if self._entry.claim is not None:
            yield MatchClassTask(self.name, self._entry.claim, volume, self._means)
            yield MatchTagsTask(self.name, self._entry.claim, volume, self._means)
        if self._entry.snapshots is not None:
            yield SnapshotTask(self.name, self._entry.snapshots, volume, self._means)


class UpkeepTask(CloudTask):
    """Something about a volume that is here, and is used whatever comes of it."""

    def __init__(self, name: str, what: str, volume: CloudVolume, means: Means) -> None:
        self.name, self.key = name, f"{name}: {what}"
        self._volume = volume
        self._means = means

    @override
    def report(self, ending: Wait | Refuse, look: CloudState) -> None:
        """Note what cannot be changed, now or ever."""
        look.note(self.name, ending)

    @override
    def report_asked(self, waiting: Wait, look: CloudState) -> None:
        """Say nothing: that a volume in use is being changed is no defect of it."""


class MatchTask(UpkeepTask):
    """A claim's volume is to be as its claim and class say. What it is not is told, whatever comes of it."""

    def __init__(self, name: str, what: str, claim: Claim, volume: CloudVolume, means: Means) -> None:
        super().__init__(name, what, volume, means)
        self._claim = claim

    def _find(self, wanted: WantedVolume) -> tuple[Difference, ...]:
        raise NotImplementedError

    def _note(self, look: CloudState, differences: Sequence[Difference]) -> None:
        if differences:
            look.drift[self.name] = (*look.drift.get(self.name, ()), *differences)

    @override
    def report(self, ending: Wait | Refuse, look: CloudState) -> None:
        """Note what cannot be changed, now or ever, and why not."""
        with suppress(AgentError):  # what is wanted cannot be said: that is the ending
            differences = self._find(look.want(self.name, self._claim))
            self._note(look, differences)
            if ending.reason is not Reason.DRIFTED:  # which tells of them already
                ending = tell_drift(self._volume, self.name, differences, ending) or ending
        look.note(self.name, ending)

    @override
    def report_asked(self, waiting: Wait, look: CloudState) -> None:
        """Tell of what AWS was not asked for, since it would not do it."""
        differences = ask(self._find(look.want(self.name, self._claim)))
        self._note(look, differences)
        notice = tell_drift(self._volume, self.name, differences)
        if notice is not None:
            look.note(self.name, notice)


class MatchClassTask(MatchTask):
    """It is to have the size, type and numbers its class says."""

    def __init__(self, name: str, claim: Claim, volume: CloudVolume, means: Means) -> None:
        super().__init__(name, "shape", claim, volume, means)
        self._last: Modification | None = None

    @override
    def _find(self, wanted: WantedVolume) -> tuple[Difference, ...]:
        return find_shape_differences(self._volume, wanted, self._last)

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        wanted = look.want(self.name, self._claim)
        planned = plan_modify(self._volume, wanted, None)
        if isinstance(planned, Do):
            # Only now is it worth a call to know whether a modification is under way.
            volume_id = self._volume.volume_id
            modifications = await describe_modifications(self._means.make, [volume_id])
            self._last = modifications.get(volume_id)
            change, planned = planned, plan_modify(self._volume, wanted, self._last, self._means.now())
            if isinstance(planned, Wait):
                look.foresee(self.name, change, why=planned.message)
        if planned is None:
            self._note(look, self._find(wanted))
        return planned


class MatchTagsTask(MatchTask):
    """It is to have the tags its class says, and the agent's marks."""

    def __init__(self, name: str, claim: Claim, volume: CloudVolume, means: Means) -> None:
        super().__init__(name, "tags", claim, volume, means)

    @override
    def _find(self, wanted: WantedVolume) -> tuple[Difference, ...]:
        return find_tag_differences(self._volume, wanted)

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        return plan_tags(self._volume, look.want(self.name, self._claim))


class SnapshotTask(UpkeepTask):
    """A volume is to have the snapshots its schedule says."""

    def __init__(self, name: str, entry: SnapshotsEntry, volume: CloudVolume, means: Means) -> None:
        super().__init__(name, "snapshots", volume, means)
        self._entry = entry

    @override
    async def decide(self, look: CloudState) -> Decision | None:
        holders = [one.instance_id for one in self._volume.attachments if one.instance_id is not None]
        if self._volume.is_multi_attach and look.node.identity.instance_id != min(holders, default=None):
            return None  # one of the instances that share it does it for all
        return await self._means.snapshots.tend(self.name, self._entry, self._volume)

    @override
    def foresee(self, look: CloudState) -> None:
        for call, at in self._means.snapshots.find_next(self._volume.volume_id):
            look.foresee(self.name, Do(call), at=at)


def _require_read(look: CloudState, volume_id: VolumeId | None) -> None:
    """Raise where what cannot be read may be this volume; None: any that no entry names."""
    doubt = look.find_doubt(volume_id)
    if doubt is not None:
        raise explain_unread(doubt)


def _miss(volume_id: VolumeId) -> Wait:
    return Wait(
        Reason.NOT_ATTACHED,
        f"AWS knows no {volume_id} in this account and region.",
        hint="Is the ID right, and the volume in this region and account?",
    )
