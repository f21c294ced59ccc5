"""What is left to do for a claim, as people and programs read it before it is done. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.cloud.aws.models import Tags
from agent.controller.calls import SnapshotCall
from agent.controller.migration.decide import Deed, decide
from agent.controller.migration.journal import UnreadableRecordError
from agent.controller.migration.objects import read, uid_of
from agent.controller.migration.rewrite import RETAIN, list_losses
from agent.controller.migration.seen import Aim, Seen, Subject
from agent.core.errors import AgentError, RefusedError
from agent.core.model import VolumeId
from agent.core.model.cluster import CLAIM_TAGS


@dataclass(frozen=True)
class Plan:
    """What would be done for one claim."""

    subject: Subject
    volume_id: str = ""
    size: str = ""
    steps: tuple[str, ...] = ()
    """Empty: nothing, it is the other driver's."""
    losses: tuple[str, ...] = ()
    refusal: AgentError | None = field(default=None, compare=False)
    """Why nothing is done."""


def plan(seen: Seen, aim: Aim) -> Plan:
    """Return what would be done, or why it is not."""
    subject = seen.subject
    volume_id = seen.volume_id
    size = str(read(seen.new or seen.old, "spec", "capacity", "storage") or "")
    try:
        following = decide(seen, aim)
    except (RefusedError, UnreadableRecordError) as error:
        return Plan(subject, volume_id, size, refusal=error)
    if following is None:
        return Plan(subject, volume_id, size)
    first = following if isinstance(following, Deed) else _find_awaited(seen)
    deeds = list(Deed)
    left = deeds[deeds.index(first) :]
    needless = {Deed.RETAIN} if read(seen.old, "spec", "persistentVolumeReclaimPolicy") == RETAIN else set()
    if not aim.takes_snapshot:
        needless.add(Deed.TAKE_SNAPSHOT)
    losses = list_losses(seen.claim) if seen.claim is not None and seen.journal is None else []
    steps = tuple(explain(each, seen, aim) for each in left if each not in needless)
    return Plan(subject, volume_id, size, steps, tuple(losses))


def explain(deed: Deed, seen: Seen, aim: Aim) -> str:
    """Return a deed with the objects that it is done to, as the middle of a sentence."""
    subject = seen.subject
    policy = read(seen.old, "spec", "persistentVolumeReclaimPolicy") or "Retain"
    if seen.journal is not None:
        policy = seen.journal.reclaim_policy
    named = f"VolumeSnapshot {name_snapshot(seen)} of it, by class {aim.snapshot_class}"
    if aim.takes_ec2_snapshot:
        named = f"EC2 snapshot {name_snapshot(seen)} of {seen.volume_id}, unless it is there"
    return {
        Deed.TAKE_SNAPSHOT: f"take {named}",
        Deed.RECORD: f"make PersistentVolume {subject.new} of {aim.target} with the same volume; "
        f"it keeps the volume ({RETAIN}) and the record of what is done",
        Deed.RETAIN: f"have PersistentVolume {subject.old} keep the volume ({RETAIN})",
        Deed.DELETE_CLAIM: f"delete claim {subject.name}",
        Deed.MAKE_CLAIM: f"make claim {subject.name} anew, for PersistentVolume {subject.new}",
        Deed.DELETE_OLD: f"delete PersistentVolume {subject.old}, which keeps the volume",
        Deed.FINISH: f"give PersistentVolume {subject.new} reclaim policy {policy}, "
        "and take the record off it",
    }[deed]


def name_snapshot(seen: Seen) -> str:
    """Return what the snapshot is called that is taken of a claim: of each claim once."""
    return f"before-migration-{uid_of(seen.claim)}"


def ask_ec2_snapshot(seen: Seen) -> SnapshotCall:
    """Return what EC2 is asked for: the same name, which people see as the snapshot's, too."""
    name = name_snapshot(seen)
    of_namespace, of_claim = CLAIM_TAGS
    tags: Tags = (("Name", name), (of_claim, seen.subject.claim), (of_namespace, seen.subject.namespace))
    return SnapshotCall(name, VolumeId(seen.volume_id), tags)


def _find_awaited(seen: Seen) -> Deed:
    """Return the deed that comes once others have done theirs."""
    if seen.journal is None:
        return Deed.RECORD
    if seen.claim is None or uid_of(seen.claim) == seen.journal.claim_uid:
        return Deed.MAKE_CLAIM
    return Deed.DELETE_OLD
