"""The cloud half's loop: describe, decide for each policy entry, make one call, describe again.

Tells the node half what the cloud knows (origins, which volume a claim has, why one is not here) and touches
the node only through the hands it is given. An entry that fails rests by itself; the others go on.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from time import monotonic
from typing import Any

import anyio

from agent.cloud.attach import choose_volume, plan_attach
from agent.cloud.backoff import BackOffs
from agent.cloud.calls import (
    AttachClusterNodeVolume,
    AttachVolume,
    Call,
    Change,
    CreateVolume,
    DetachClusterNodeVolume,
)
from agent.cloud.claims import (
    Making,
    WantedVolume,
    find_claimed,
    find_orphans,
    note_made,
    note_mismatch,
    plan_claim,
    plan_orphan,
    want_volume,
)
from agent.cloud.decisions import Decision, Do, NodeView, Release, Settled, choose_attach_api
from agent.cloud.describe import (
    describe_known,
    describe_marked,
    describe_matching,
    describe_modifications,
    is_searchable,
    make_origin,
)
from agent.cloud.errors import CloudError
from agent.cloud.findings import Findings, Hands, choose_entries, make_facts, make_verdict, needs_cloud
from agent.cloud.holders import find_gone
from agent.cloud.modify import plan_modify
from agent.cloud.shoot import SnapshotKeeper
from agent.cloud.values import TAG_CLAIM, CloudVolume
from agent.cloud.whoami import CloudIdentity
from agent.errors import AgentError
from agent.log import get_logger
from agent.model import Reason, VolumeId
from agent.policy import Policy
from agent.policy.entries import Claim, Match, VolumeEntry
from agent.steps import Refuse, Wait

log = get_logger(__name__)

SETTLED_PAUSE_S = 300.0
"""Between looks while nothing is under way; enough to notice tags and volumes changed by others."""
SOON_S = 1.0
LONGEST_PAUSE_S = 60.0


@dataclass
class _Look:
    """What one look has described so far, and what it decided."""

    node: NodeView
    policy: Policy
    volumes: dict[VolumeId, CloudVolume]
    claimed: dict[str, VolumeId] = field(default_factory=dict)
    verdicts: dict[str, Wait | Refuse] = field(default_factory=dict)
    notices: dict[str, Wait | Refuse] = field(default_factory=dict)
    has_acted: bool = False
    has_orphans: bool = False
    """There are volumes to drop that are not gone yet."""

    def list_volumes(self) -> tuple[CloudVolume, ...]:
        return tuple(self.volumes.values())

    def want(self, name: str, claim: Claim) -> WantedVolume:
        return want_volume(name, claim, self.policy.classes[claim.class_name], self.node)


class CloudLoop:
    """Brings the volumes a policy names to this node, and keeps them as the policy says."""

    def __init__(  # noqa: PLR0913 - its surroundings, and three that only tests choose
        self,
        make: Callable[[Call[Any]], Awaitable[Any]],
        identify: Callable[[], Awaitable[CloudIdentity]],
        policy: Callable[[], Policy],
        hands: Hands,
        publish: Callable[[Findings], None],
        *,
        clock: Callable[[], float] = monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        rng: random.Random | None = None,
    ) -> None:
        self._make = make
        self._identify = identify
        self._policy = policy
        self._hands = hands
        self._publish = publish
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._rests = BackOffs(clock, self._rng)
        self._snapshots = SnapshotKeeper(make, hands.freeze, now)
        self._identity: CloudIdentity | None = None
        self._makings: dict[str, Making] = {}
        self._released: set[VolumeId] = set()
        self._chosen: set[VolumeId] = set()
        """Volumes found by tags once: from then on they are asked about by ID."""
        self._searched: Policy | None = None
        """The policy for which all marked volumes were described, and none was left to drop."""
        self._rested_under: Policy | None = None
        self._wake = anyio.Event()
        self.findings = Findings()
        self.is_settled = False
        """At the last look nothing was done, and nothing was left to do or to wait for."""

    def wake(self) -> None:
        """Have the cloud looked at soon: a device came or went, or the policy changed."""
        self._wake.set()

    async def run(self) -> None:
        """Look until cancelled, more often while something is under way."""
        quiet = 0
        while True:
            has_acted = await self.look()
            quiet = 0 if has_acted else quiet + 1
            pause_s = SETTLED_PAUSE_S if self.is_settled else min(SOON_S * 2.0**quiet, LONGEST_PAUSE_S)
            with anyio.move_on_after(pause_s * self._rng.uniform(0.5, 1.5)):
                await self._wake.wait()
                # Devices come in bursts; one look is enough for all of them.
                await anyio.sleep(self._rng.uniform(0.2, 0.8))
                quiet = 0
            self._wake = anyio.Event()

    async def look(self) -> bool:
        """Look once, make at most one call for each entry; returns whether any was made."""
        policy = self._policy()
        try:
            look = await self._begin(policy)
        except AgentError as error:
            self._publish_failure(policy, error)
            self.is_settled = False
            return False
        claims = frozenset(entry.name for entry in policy.volumes if entry.claim is not None)
        orphans = find_orphans(look.list_volumes(), claims, look.node)
        async with anyio.create_task_group() as tasks:
            for entry in choose_entries(policy, look.node.identity):
                tasks.start_soon(self._advance, entry, look)
            for volume in orphans:
                tasks.start_soon(self._drop_orphan, volume, look)
        self._released &= set(look.node.devices)
        self.is_settled = not (look.has_acted or look.has_orphans or look.verdicts)
        if not (look.has_acted or look.has_orphans or claims & look.verdicts.keys()):
            self._searched = policy
        origins = {volume.volume_id: make_origin(volume) for volume in look.list_volumes()}
        facts = make_facts(look.node.identity)
        self._put_findings(Findings(facts, origins, look.claimed, look.verdicts, look.notices))
        return look.has_acted

    # -- Describing ------------------------------------------------------------------------------------------

    async def _begin(self, policy: Policy) -> _Look:
        """Describe everything this node has to do with: one call once all is settled."""
        if self._rested_under is not policy:
            self._rests.forget_all()
            self._rested_under = policy
        if self._identity is None or self._identity.problems:
            self._identity = await self._identify()
        devices = self._hands.list_devices()
        node = NodeView(
            identity=self._identity,
            api=choose_attach_api(policy.agent.cloud.attach_api, self._identity),
            devices=frozenset(devices),
            used_names=frozenset(name for name in devices.values() if name),
        )
        entries = choose_entries(policy, self._identity)
        look = _Look(node, policy, {})
        if self._searched is not policy:
            look.volumes = {volume.volume_id: volume for volume in await describe_marked(self._make, node)}
        named = {entry.volume_id for entry in entries if entry.volume_id is not None}
        unknown = {*named, *node.devices, *self._chosen, *self.findings.claimed.values()} - set(look.volumes)
        for volume in await describe_known(self._make, unknown):
            look.volumes[volume.volume_id] = volume
        suspects = self._find_suspects(look, entries)
        if suspects:
            look.node = replace(node, gone=await find_gone(self._make, node, suspects))
        return look

    def _find_suspects(self, look: _Look, entries: tuple[VolumeEntry, ...]) -> frozenset[str]:
        """Return the other instances that hold this node's claims."""
        own_id = look.node.identity.instance_id
        claims = {entry.name for entry in entries if entry.claim is not None}
        held = (
            volume
            for volume in look.list_volumes()
            if volume.is_made_by_agent
            and volume.tag(TAG_CLAIM) in claims
            and not volume.is_multi_attach
            and volume.volume_id not in look.node.devices
        )
        holders = {attachment.instance_id for volume in held for attachment in volume.attachments}
        return frozenset(holder for holder in holders if holder is not None and holder != own_id)

    # -- One entry -------------------------------------------------------------------------------------------

    async def _advance(self, entry: VolumeEntry, look: _Look) -> None:
        """Do the next thing for one entry. Its errors end here."""
        resting = self._rests.find(entry.name)
        if resting is not None:
            self._let_rest(entry, resting, look)
            return
        try:
            decision = self._hold_back(await self._decide(entry, look))
            if decision is not None:
                await self._carry_out(entry.name, decision, look)
            if isinstance(decision, Settled):
                await self._tend(entry, decision.volume, look)
        except AgentError as error:
            self._note_failure(entry.name, error)
            self._let_rest(entry, make_verdict(error), look)
        else:
            self._rests.note_success(entry.name)

    def _let_rest(self, entry: VolumeEntry, verdict: Wait | Refuse, look: _Look) -> None:
        """Leave an entry as it is; a volume that is here is used all the same."""
        claimed = self.findings.claimed.get(entry.name)
        if claimed is not None:
            look.claimed.setdefault(entry.name, claimed)
        is_here = look.claimed.get(entry.name, entry.volume_id) in look.node.devices
        (look.notices if is_here else look.verdicts)[entry.name] = verdict

    async def _decide(self, entry: VolumeEntry, look: _Look) -> Decision | None:
        """Return the next thing on the way to having the entry's volume here; None: not AWS's business."""
        if entry.claim is not None:
            return self._decide_claim(entry.name, entry.claim, look)
        if entry.volume_id is not None:
            volume = look.volumes.get(entry.volume_id)
            return _miss(entry.volume_id) if volume is None else plan_attach(volume, look.node)
        if entry.match is not None and is_searchable(entry):
            return await self._decide_matching(entry.name, entry.match, look)
        return None

    def _hold_back(self, decision: Decision | None) -> Decision | None:
        """Leave a volume that was detached by hand where it is."""
        call = decision.call if isinstance(decision, Do) else None
        if not isinstance(call, (AttachVolume, AttachClusterNodeVolume)):
            return decision
        if call.volume_id not in self._hands.released or isinstance(call, DetachClusterNodeVolume):
            return decision
        return Wait(
            Reason.NOT_ATTACHED,
            f"{call.volume_id} was detached by hand.",
            hint=f"ebs-agent attach {call.volume_id} brings it back, as does reloading the policy.",
        )

    def _decide_claim(self, name: str, claim: Claim, look: _Look) -> Decision:
        wanted = look.want(name, claim)
        claimed = find_claimed(wanted, look.list_volumes())
        if claimed:
            here = next((one for one in claimed if one.volume_id in look.node.devices), claimed[0])
            look.claimed[name] = here.volume_id
            self._makings.pop(name, None)
        making = self._makings.get(name, Making())
        return plan_claim(wanted, look.list_volumes(), look.node, making, self._clock())

    async def _decide_matching(self, name: str, match: Match, look: _Look) -> Decision:
        found = await describe_matching(self._make, match)
        look.volumes |= {volume.volume_id: volume for volume in found}
        volume = choose_volume(found, look.node)
        if volume is None:
            return Wait(
                Reason.NOT_ATTACHED,
                f"No volume in this account and region matches {name!r}.",
                hint="Tag one as the policy's match says, or use claim to have one made.",
            )
        self._chosen.add(volume.volume_id)
        return plan_attach(volume, look.node)

    async def _carry_out(self, name: str, decision: Decision, look: _Look) -> None:
        if isinstance(decision, (Wait, Refuse)):
            look.verdicts[name] = decision
        elif isinstance(decision, Release):
            await self._hands.release(decision.volume_id)
            self._released.add(decision.volume_id)
            look.has_acted = True
        elif isinstance(decision, Do):
            look.verdicts[name] = Wait(Reason.WAITING_FOR_CLOUD, f"AWS was asked to {decision.describe()}.")
            if isinstance(decision.call, CreateVolume):
                await self._create(name, decision.call, look)
            else:
                await self._do(name, decision.call, look)

    async def _do(self, name: str, call: Change[Any], look: _Look) -> Any:
        look.has_acted = True
        answer = await self._make(call)
        log.info("cloud.called", operation=call.operation, what=call.describe(), entry=name)
        return answer

    async def _create(self, name: str, call: CreateVolume, look: _Look) -> None:
        making = self._makings.get(name, Making())
        try:
            volume: CloudVolume = await self._do(name, call, look)
        except CloudError as error:
            if error.code != "IdempotentParameterMismatch":
                raise
            self._makings[name] = note_mismatch(call, making, self._clock())
        else:
            self._makings[name] = note_made(call, volume, self._clock())

    # -- A volume that is here -------------------------------------------------------------------------------

    async def _tend(self, entry: VolumeEntry, volume: CloudVolume, look: _Look) -> None:
        """Keep a volume that is here as the policy says: size, type, tags, snapshots."""
        if entry.claim is not None:
            await self._modify(look.want(entry.name, entry.claim), volume, look)
        if entry.snapshots is not None:
            notice = await self._snapshots.tend(entry.name, entry.snapshots, volume)
            if notice is not None:
                look.notices[entry.name] = notice

    async def _modify(self, wanted: WantedVolume, volume: CloudVolume, look: _Look) -> None:
        planned = plan_modify(volume, wanted, None)
        if planned is None:
            return
        # Only now is it worth a call to know whether a modification is under way.
        modifications = await describe_modifications(self._make, [volume.volume_id])
        planned = plan_modify(volume, wanted, modifications.get(volume.volume_id))
        if isinstance(planned, (Wait, Refuse)):
            look.notices[wanted.name] = planned
        elif planned is not None:
            await self._do(wanted.name, planned.call, look)

    async def _drop_orphan(self, volume: CloudVolume, look: _Look) -> None:
        """Do the next thing with a volume whose claim is no longer in the policy. Its errors end here."""
        name = f"{volume.tag(TAG_CLAIM)} ({volume.volume_id})"
        if self._rests.find(name) is not None:
            look.has_orphans = True
            return
        try:
            snapshots = await self._snapshots.find_final(volume)
            is_released = volume.volume_id in self._released
            decision = plan_orphan(volume, snapshots, look.node, is_released=is_released)
            if decision is not None:
                look.has_orphans = True
                await self._carry_out(name, decision, look)
        except AgentError as error:
            look.has_orphans = True
            self._note_failure(name, error)
        else:
            self._rests.note_success(name)

    # -- Telling ---------------------------------------------------------------------------------------------

    def _note_failure(self, name: str, error: AgentError) -> None:
        if self._rests.note_failure(name, error):
            _log_failure(error, entry=name)

    def _publish_failure(self, policy: Policy, error: AgentError) -> None:
        """Say of every entry that needs AWS why nothing is known; what was found before stays."""
        verdict = make_verdict(error)
        old = self.findings
        if all(known.message != verdict.message for known in old.verdicts.values()):
            _log_failure(error)
        facts = make_facts(self._identity) if self._identity else old.facts
        verdicts = {entry.name: verdict for entry in policy.volumes if needs_cloud(entry)}
        self._put_findings(Findings(facts, old.origins, old.claimed, verdicts, {}))

    def _put_findings(self, findings: Findings) -> None:
        has_changed = findings != self.findings
        self.findings = findings
        if has_changed:
            self._publish(findings)


def _log_failure(error: AgentError, **about: str) -> None:
    event = "cloud.denied" if error.reason is Reason.PERMISSION_DENIED else "cloud.failed"
    log.warning(event, error=error.message, hint=error.hint, **about)


def _miss(volume_id: VolumeId) -> Wait:
    return Wait(
        Reason.NOT_ATTACHED,
        f"AWS knows no {volume_id} in this account and region.",
        hint="Is the ID right, and the volume in this region and account?",
    )
