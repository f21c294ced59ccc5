"""What is to be done next for a claim, by what is seen of it and nothing else. Pure.

So whoever was cut off goes on by being asked again. The order holds at each moment that no PersistentVolume
which is not bound deletes its volume: the new one is made to keep it, the old one is told to before its claim
goes, and the policy is the claim's own again only once the new one alone has the volume and is bound.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from agent.controller.migration.journal import Journal
from agent.controller.migration.judge import (
    check_claim,
    check_new,
    check_old,
    check_use,
    refuse,
)
from agent.controller.migration.objects import is_going, list_finalizers, name_of, read, uid_of
from agent.controller.migration.rewrite import RETAIN
from agent.controller.migration.seen import Aim, Seen


class Deed(Enum):
    """What changes something, in the order in which it is done."""

    TAKE_SNAPSHOT = "take a snapshot of it"
    RECORD = "make the new PersistentVolume, which keeps the volume and the record of what is done"
    RETAIN = "have the old PersistentVolume keep the volume"
    DELETE_CLAIM = "delete the claim"
    MAKE_CLAIM = "make the claim anew, for the new PersistentVolume"
    DELETE_OLD = "delete the old PersistentVolume, which keeps the volume"
    FINISH = "give the new PersistentVolume the old one's reclaim policy, and take the record off it"


class Wait(Struct, frozen=True):
    """Others are to do something first."""

    what: str
    """Completes "waits until …"."""
    percent: float | None = None
    """How far they are, where they say so."""


def decide(seen: Seen, aim: Aim) -> Deed | Wait | None:
    """Return what comes next; None: the claim is the other driver's.

    Raises RefusedError where somebody has to do something about it first.
    """
    journal = seen.journal
    if journal is None:
        return _begin(seen, aim)
    if (journal.origin, journal.target) != (aim.origin, aim.target):
        raise refuse(
            f"Claim {seen.subject.name} is on its way from {journal.origin} to {journal.target}.",
            f"Finish that first: --from {journal.origin} --to {journal.target}; then it can go elsewhere.",
        )
    if seen.claim is None:
        return _replace_claim(seen, journal)
    if uid_of(seen.claim) == journal.claim_uid:
        return _give_up_claim(seen)
    return _give_up_old(seen, journal)


def _begin(seen: Seen, aim: Aim) -> Deed | Wait | None:
    if seen.is_of(aim.target):
        return None
    if seen.new is not None:
        raise refuse(
            f"PersistentVolume {name_of(seen.new)} is where that of claim {seen.subject.name} is to be.",
            "Its record was taken off. See whose it is; once it is deleted, the migration begins anew.",
        )
    if seen.subject.new and read(seen.claim, "spec", "volumeName") == seen.subject.new:
        return Wait(f"PersistentVolume {seen.subject.new} is seen, which somebody gave the claim meanwhile")
    if not aim.takes_snapshot:
        check_claim(seen, aim)
        return Deed.RECORD
    return _await_ec2_snapshot(seen, aim) if aim.takes_ec2_snapshot else _await_snapshot(seen, aim)


def _await_snapshot(seen: Seen, aim: Aim) -> Deed | Wait:
    if seen.snapshot is None:
        check_claim(seen, aim)
        return Deed.TAKE_SNAPSHOT
    name = name_of(seen.snapshot)
    if is_going(seen.snapshot):
        return Wait(f"VolumeSnapshot {name}, which somebody deleted, is gone")
    if read(seen.snapshot, "spec", "source", "persistentVolumeClaimName") != seen.subject.claim:
        raise refuse(
            f"VolumeSnapshot {name} is of another claim than {seen.subject.name}.",
            "Delete it, or leave the snapshot out with --no-snapshot.",
        )
    if not read(seen.snapshot, "status", "readyToUse"):
        said = read(seen.snapshot, "status", "error", "message")
        return Wait(f"VolumeSnapshot {name} is complete" + (f" (so far: {said})" if said else ""))
    if any("pvc-as-source-protection" in each for each in list_finalizers(seen.claim)):
        return Wait(f"the snapshot controller lets go of claim {seen.subject.name}")
    check_claim(seen, aim)
    return Deed.RECORD


def _await_ec2_snapshot(seen: Seen, aim: Aim) -> Deed | Wait:
    check_claim(seen, aim)
    snapshot = seen.ec2_snapshot
    if snapshot is None:
        return Deed.TAKE_SNAPSHOT
    if snapshot.state == "error":
        raise refuse(
            f"EC2 could not take {snapshot.snapshot_id} of claim {seen.subject.name}.",
            "Nothing else was done. Delete it, and say so again: aws ec2 delete-snapshot --snapshot-id "
            f"{snapshot.snapshot_id}",
        )
    if snapshot.state != "completed":
        percent = snapshot.progress_percent
        return Wait(f"{snapshot.snapshot_id} is complete (so far: {percent} %)", percent)
    return Deed.RECORD


def _give_up_claim(seen: Seen) -> Deed | Wait:
    name = seen.subject.name
    check_old(seen)
    check_new(seen)
    if read(seen.new, "spec", "claimRef", "uid"):
        raise refuse(
            f"PersistentVolume {seen.subject.new} is bound already, and claim {name} is as it was.",
            "Nothing was deleted; see who bound it.",
        )
    if is_going(seen.claim):
        users = ", ".join(seen.list_users()) or "others"
        return Wait(f"claim {name} is gone, which {users} may hold")
    check_use(seen)
    if read(seen.claim, "spec", "volumeName") != seen.subject.old:
        raise refuse(
            f"Claim {name} has another volume than before.", "Nothing was deleted; see who changed it."
        )
    return Deed.DELETE_CLAIM if _is_kept(seen) else Deed.RETAIN


def _replace_claim(seen: Seen, journal: Journal) -> Deed | Wait:
    check_new(seen)
    if read(seen.new, "spec", "claimRef", "uid"):
        raise refuse(
            f"Claim {seen.subject.name} was made anew, and somebody deleted it.",
            "Its volume is kept. To have it back say so again after: kubectl patch pv "
            f'{seen.subject.new} --type=merge -p \'{{"spec":{{"claimRef":{{"uid":null}}}}}}\'',
        )
    if seen.old is not None and uid_of(seen.old) == journal.old_uid and not _is_kept(seen):
        return Deed.RETAIN
    if nodes := seen.list_nodes():
        return Wait(f"the volume of claim {seen.subject.name} is detached from {', '.join(nodes)}")
    return Deed.MAKE_CLAIM


def _give_up_old(seen: Seen, journal: Journal) -> Deed | Wait:
    name, new = seen.subject.name, seen.subject.new
    named = read(seen.claim, "spec", "volumeName")
    if named not in {None, "", new}:
        raise refuse(
            f"Somebody made claim {name} with another volume, {named}, while it was gone.",
            f"PersistentVolume {new} keeps the one that it had. Delete that claim, and say so again.",
        )
    check_new(seen)
    is_bound = read(seen.claim, "status", "phase") == "Bound" and named == new
    if not is_bound or read(seen.new, "spec", "claimRef", "uid") != uid_of(seen.claim):
        return Wait(f"claim {name} is bound to PersistentVolume {new}")
    if is_going(seen.claim):
        raise refuse(f"Claim {name} is being deleted.", f"PersistentVolume {new} keeps its volume.")
    if seen.old is None or uid_of(seen.old) != journal.old_uid:
        return Deed.FINISH
    if not _is_kept(seen):
        return Deed.RETAIN
    if is_going(seen.old):
        holders = ", ".join(list_finalizers(seen.old)) or "nobody"
        return Wait(f"PersistentVolume {seen.subject.old} is gone, which {holders} may hold")
    if nodes := seen.list_nodes():
        return Wait(f"PersistentVolume {seen.subject.old} is detached from {', '.join(nodes)}")
    check_old(seen)
    if read(seen.old, "spec", "claimRef", "uid") != journal.claim_uid:
        raise refuse(
            f"PersistentVolume {seen.subject.old} is for another claim than {name} was.",
            "It was left. See whose it is; two claims are not to have one volume.",
        )
    return Deed.DELETE_OLD


def _is_kept(seen: Seen) -> bool:
    return bool(read(seen.old, "spec", "persistentVolumeReclaimPolicy") == RETAIN)
