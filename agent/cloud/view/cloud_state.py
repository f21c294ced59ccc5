"""One look at the cloud: all that was described of this node's volumes, and what came of it so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from msgspec import Struct, field

from agent.cloud.aws.answer_fields import Unread, split
from agent.cloud.aws.call import Change, Make
from agent.cloud.aws.models import CloudVolume
from agent.cloud.plan.attach_volume import is_matching
from agent.cloud.plan.claims.claim_removed import PlannedDeletion
from agent.cloud.plan.claims.find_or_make import find_claimed
from agent.cloud.plan.claims.pools import (
    find_candidates,
    find_last_holder,
    find_pool,
    find_taken,
    rank_holder,
)
from agent.cloud.plan.claims.wanted_volume import WantedVolume, want_volume
from agent.cloud.plan.decisions import Do, NodeView, Release
from agent.cloud.plan.device_names import list_given_names
from agent.cloud.view.cloud_report import CloudReport, choose_entries, make_facts
from agent.cloud.view.describe_all import (
    describe_known,
    describe_marked,
    describe_matching,
    is_searchable,
    make_origin,
)
from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces, Difference, NextCall, Origin, Provisioned, VolumeId
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait
from agent.policy import Policy
from agent.policy.entries import Claim, Match, VolumeEntry


class CloudState(Struct):
    """What one look has described so far, and what it decided."""

    node: NodeView
    policy: Policy
    assigned: Mapping[str, VolumeId] = field(default_factory=dict)
    """By entry name, the volume here that the node half has found the entry to be for."""
    volumes: dict[VolumeId, CloudVolume] = field(default_factory=dict)
    pool: dict[VolumeId, CloudVolume] = field(default_factory=dict)
    """Volumes that this node might take over; most of them are others'."""
    claimed: dict[str, VolumeId] = field(default_factory=dict)
    endings: dict[str, Wait | Refuse] = field(default_factory=dict)
    notices: dict[str, Wait | Refuse] = field(default_factory=dict)
    drift: dict[str, tuple[Difference, ...]] = field(default_factory=dict)
    """By entry name, in what its claim's volume is not as the claim and its class say."""
    departures: dict[VolumeId, PlannedDeletion] = field(default_factory=dict)
    calls: list[NextCall] = field(default_factory=list)
    """What is decided on and not seen to have happened."""
    asked: frozenset[VolumeId] = frozenset()
    """Volumes that AWS was asked about by ID: one that is not described, nor unread, it does not know."""
    unread: dict[VolumeId, Unread] = field(default_factory=dict)
    """Volumes about which AWS's answer cannot be read."""
    nameless: Unread | None = None
    """What cannot be read and does not say which volume it is about either."""
    earlier: Mapping[VolumeId, Origin] = field(default_factory=dict)
    """What earlier looks found of where volumes come from, which no answer that cannot be read takes back."""
    untold: frozenset[VolumeId] = frozenset()
    """Volumes that it will not tell about."""
    has_acted: bool = False
    coming: set[str] = field(default_factory=set)
    """What gets a place on this instance in this look: volumes, and entries whose volume is being made."""
    places: AttachmentPlaces | None = None
    remarks: tuple[str, ...] = ()
    unproven: AgentError | None = None
    """Why it could not be found out whether an instance that holds a claim's volume is gone."""

    @property
    def entries(self) -> tuple[VolumeEntry, ...]:
        """The policy's entries that may concern this node."""
        return choose_entries(self.policy, self.node.identity)

    def list_volumes(self) -> tuple[CloudVolume, ...]:
        return tuple(self.volumes.values())

    def add_volumes(self, found: Iterable[CloudVolume | Unread]) -> None:
        """Take over what was described; of a volume that was told of twice, what cannot be read counts."""
        read, unread = split(found)
        self.volumes |= {volume.volume_id: volume for volume in read}
        for one in unread:
            if one.name is None:
                self.nameless = one
            else:
                self.unread[VolumeId(one.name)] = one
        self.volumes = {one: volume for one, volume in self.volumes.items() if one not in self.unread}

    def list_unread(self) -> frozenset[VolumeId]:
        """Return the volumes about which AWS's answer cannot be read, or may be what cannot be read."""
        doubted = frozenset() if self.nameless is None else self.asked - self.volumes.keys()
        return doubted | self.unread.keys()

    def find_doubt(self, volume_id: VolumeId | None) -> Unread | None:
        """Return what cannot be read and may be about this volume; None: about one that no entry names."""
        if volume_id is not None:
            doubted = None if volume_id in self.volumes else self.nameless
            return self.unread.get(volume_id, doubted)
        named = {entry.volume_id for entry in self.policy.volumes}
        return next((one for name, one in self.unread.items() if name not in named), self.nameless)

    def add_pool(self, found: Iterable[CloudVolume | Unread]) -> None:
        """Take over what was described of pools; what cannot be read may be anything."""
        read, unread = split(found)
        self.add_volumes(unread)
        self.pool |= {volume.volume_id: volume for volume in read if volume.volume_id not in self.unread}

    def want(self, name: str, claim: Claim) -> WantedVolume:
        """Return what a claim wants here, or raise AgentError where that cannot be said."""
        return want_volume(name, claim, self.policy.classes[claim.class_name], self.node)

    def list_wanted(self) -> Iterator[WantedVolume]:
        """Return what the claims want here, those left out of which that cannot be said."""
        for entry in self.entries:
            if entry.claim is not None:
                with suppress(AgentError):  # told of the claim itself, when it is planned
                    yield self.want(entry.name, entry.claim)

    def list_unserved(self) -> tuple[WantedVolume, ...]:
        """Return the claims served from pools that have no volume yet, and none in view."""
        return tuple(
            one
            for one in self.list_wanted()
            if one.is_pooled
            and not find_claimed(one, self.list_volumes())
            and not find_taken(one, self.list_pools(), self.node)
            and not find_candidates(one, self.list_pools(), self.node)
        )

    def list_pools(self) -> tuple[CloudVolume, ...]:
        """Return everything described that may be of a pool, as it was described last."""
        return tuple({**self.volumes, **self.pool}.values())

    def find_matching(self, match: Match) -> tuple[CloudVolume, ...]:
        """Return the volumes described so far that an entry's match means."""
        return tuple(volume for volume in self.list_volumes() if is_matching(match, volume))

    def is_missing(self, entry: VolumeEntry) -> bool:
        """Return whether an entry that goes by tags has no volume here, and none on its way here."""
        if entry.match is None or not is_searchable(entry):
            return False
        instance_id = self.node.identity.instance_id or ""
        return not any(
            self.has_device(volume.volume_id) or volume.attachment_to(instance_id) is not None
            for volume in self.find_matching(entry.match)
        )

    def foresee(
        self, name: str, decision: Do | Release | None, *, at: datetime | None = None, why: str | None = None
    ) -> None:
        """Note what is decided on for ``name``, if anything, with since when and why not yet."""
        if isinstance(decision, Release):
            self.calls.append(NextCall(name, decision.volume_id, "Unmount", decision.describe(), at, why))
        elif decision is not None:
            call = decision.call
            volume_id = getattr(call, "volume_id", None)
            self.calls.append(NextCall(name, volume_id, call.operation, call.describe(), at, why))

    def reserve_name(self, call: Change[Any]) -> None:
        """Keep the device name a call gives from being given to another volume in this look."""
        names = list_given_names([call])
        if names:
            self.node = replace(self.node, used_names=self.node.used_names | names)

    def note(self, name: str, notice: Wait | Refuse) -> None:
        """Add to what is to be known of an entry's volume that is here: the first has the reason."""
        first = self.notices.get(name)
        if first is not None:
            is_for_good = Refuse in {type(first), type(notice)}
            message = f"{first.message} {notice.message}"
            hint = " ".join(dict.fromkeys(filter(None, (first.hint, notice.hint)))) or None
            notice = (Refuse if is_for_good else Wait)(first.reason, message, hint)
        self.notices[name] = notice

    def has_device(self, volume_id: VolumeId | None) -> bool:
        return volume_id in self.node.devices

    def find_meant(self, entry: VolumeEntry) -> VolumeId | None:
        """Return the volume of an entry: its claim's, the one it names, or what the node half has for it."""
        return self.claimed.get(entry.name, entry.volume_id) or self.assigned.get(entry.name)

    def list_here(self) -> frozenset[VolumeId]:
        """Return the described volumes that are this node's to use now: attached, or on the way."""
        instance_id = self.node.identity.instance_id or ""
        return frozenset(
            volume.volume_id
            for volume in self.list_volumes()
            if self.has_device(volume.volume_id) or volume.attachment_to(instance_id) is not None
        )

    def list_scheduled(self) -> frozenset[str]:
        """Return the names of the entries that have snapshots taken."""
        return frozenset(entry.name for entry in self.entries if entry.snapshots is not None)

    def find_origins(self) -> dict[VolumeId, Origin]:
        """Return where the volumes described so far come from."""
        unread = self.list_unread()
        kept = {volume_id: origin for volume_id, origin in self.earlier.items() if volume_id in unread}
        return kept | {volume.volume_id: make_origin(volume) for volume in self.list_volumes()}

    def find(self) -> CloudReport:
        """Return what the node half is to know."""
        facts = make_facts(self.node.identity)
        departures = {volume_id: one.describe() for volume_id, one in self.departures.items()}
        return CloudReport(
            facts,
            self.find_origins(),
            self.claimed,
            self.endings,
            self.notices,
            departures,
            self.untold,
            unread=self.list_unread(),
            drift=self.drift,
            places=self.places,
            remarks=self.remarks,
            calls=tuple(sorted(self.calls, key=lambda one: (one.entry, one.operation, one.text))),
            zone=next((one.zone for one in self.list_volumes() if self.has_device(one.volume_id)), None),
            provisioned={
                one.volume_id: Provisioned(one.iops, one.throughput)
                for one in self.list_volumes()
                if self.has_device(one.volume_id)
            },
        )


async def describe_all(
    make: Make, look: CloudState, known: Iterable[VolumeId], *, is_searching: bool
) -> None:
    """Describe everything the node has to do with: in one call once all is settled.

    ``known``: volumes to ask about by ID. ``is_searching``: ask for those with the agent's marks as well, as
    is done for a claim that has no volume among those known.
    """
    if is_searching:
        look.add_volumes(await describe_marked(make, look.node))
    named = {entry.volume_id for entry in look.entries if entry.volume_id is not None}
    sources = (entry.claim.source_volume_id for entry in look.entries if entry.claim is not None)
    named |= {source for source in sources if source is not None}
    look.asked = frozenset({*named, *look.node.devices, *known} - set(look.volumes))
    look.add_volumes(await describe_known(make, look.asked))
    if not is_searching and not all(find_claimed(one, look.list_volumes()) for one in look.list_wanted()):
        look.add_volumes(await describe_marked(make, look.node))
    missing = [entry.match for entry in look.entries if entry.match is not None and look.is_missing(entry)]
    if missing:
        look.add_volumes(await describe_matching(make, missing, look.node.identity.zone))


def find_suspects(look: CloudState) -> frozenset[str]:
    """Return the other instances that hold this node's claims: its own and its cluster's, nobody else's.

    Also those whose name is on a volume that is attached here.
    """
    held = (
        volume
        for wanted in look.list_wanted()
        for volume in find_claimed(wanted, look.list_volumes())
        if not volume.is_multi_attach and volume.volume_id not in look.node.devices
    )
    taken = (
        volume for wanted in look.list_wanted() for volume in find_taken(wanted, look.list_pools(), look.node)
    )
    holders = {
        attachment.instance_id
        for volume in held
        for attachment in volume.attachments
        if look.node.may_judge(attachment)
    }
    holders |= {find_last_holder(volume) for volume in taken}
    return frozenset(holder for holder in holders if holder not in {None, look.node.identity.instance_id})


def find_leavers(look: CloudState) -> tuple[str, ...]:
    """Return the instances that stand between this node and a volume it needs, in this node's order.

    Whom AWS shows attached has to be gone, and then whose name is on the volume.
    """
    own_id, gone = look.node.identity.instance_id or "", look.node.gone
    holders: set[str] = set()
    for wanted in look.list_unserved():
        for volume in find_pool(wanted, look.list_pools()):
            if not all(map(look.node.may_judge, volume.attachments)):
                continue
            attached = {str(one.instance_id) for one in volume.attachments} - gone
            holders |= attached or {find_last_holder(volume) or own_id}
    return tuple(sorted(holders - gone - {own_id}, key=lambda holder: rank_holder(own_id, holder)))
