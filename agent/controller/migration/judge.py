"""Whether a claim may be moved: each reason not to names the object, and the way out. Pure."""

from __future__ import annotations

from agent.controller.migration.objects import is_going, list_finalizers, name_of, read, read_list, uid_of
from agent.controller.migration.quantity import count_bytes
from agent.controller.migration.rewrite import RETAIN, list_foreign_keys
from agent.controller.migration.seen import Aim, Seen
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import parse_volume_id

PROTECTION = "kubernetes.io/pvc-protection"
UNUSED = "Unused"
"""The condition of a claim that says only that no pod has it; all others tell of a change."""


def refuse(message: str, hint: str) -> RefusedError:
    """Return a refusal; what it is of was not touched."""
    return RefusedError(message, hint, retryable=False, exit_code=ExitCode.REFUSED)


def check_claim(seen: Seen, aim: Aim) -> None:
    """Raise RefusedError where a claim is not to be moved, as it is; nothing of it was changed so far."""
    name = seen.subject.name
    if seen.claim is None:
        meant = "" if seen.subject.meant is None else f"Did you mean {seen.subject.meant}? "
        raise refuse(f"There is no claim {name}.", f"{meant}kubectl get pvc -A lists all claims.")
    if is_going(seen.claim):
        raise refuse(f"Claim {name} is being deleted.", "Its end cannot be taken back. Nothing was done.")
    reference = read(seen.old, "spec", "claimRef", "uid")
    if read(seen.claim, "status", "phase") != "Bound" or seen.old is None or reference != uid_of(seen.claim):
        raise refuse(
            f"Claim {name} has no volume yet.", "Wait until it is bound, or make it anew with another class."
        )
    if is_going(seen.old):
        raise refuse(
            f"PersistentVolume {name_of(seen.old)} of claim {name} is being deleted.",
            "Its end cannot be taken back. Take a snapshot, and restore the claim from it.",
        )
    driver = read(seen.old, "spec", "csi", "driver")
    if driver != aim.origin:
        said = f"is of driver {driver}" if driver else "is of no CSI driver"
        raise refuse(
            f"PersistentVolume {name_of(seen.old)} of claim {name} {said}, not of {aim.origin}.",
            "--from names the driver that has it. What is of kubernetes.io/aws-ebs cannot be moved.",
        )
    if keys := list_foreign_keys(seen.old):
        raise refuse(
            f"PersistentVolume {name_of(seen.old)} of claim {name} is for nodes with {', '.join(keys)}.",
            f"Nodes have that label by {aim.origin} alone; leave the claim there.",
        )
    check_changes(seen)
    check_use(seen)


def check_ec2_volume(seen: Seen) -> None:
    """Raise RefusedError unless EC2 can be asked for a snapshot of the volume."""
    try:
        parse_volume_id(seen.volume_id)
    except AgentError as error:
        raise refuse(
            f"PersistentVolume {name_of(seen.old)} of claim {seen.subject.name} is no EBS volume: "
            f"{seen.volume_id or 'it has no ID'}.",
            "Take a copy of it by other means, and say --no-snapshot.",
        ) from error


def check_changes(seen: Seen) -> None:
    """Raise RefusedError while the claim's volume is being made larger or otherwise changed."""
    claim, name = seen.claim, seen.subject.name
    conditions = [
        str(each["type"]) for each in read_list(claim, "status", "conditions") if each["type"] != UNUSED
    ]
    wanted = count_bytes(str(read(claim, "spec", "resources", "requests", "storage") or "0"))
    size = count_bytes(str(read(claim, "status", "capacity", "storage") or "0"))
    if wanted > size or read(claim, "status", "allocatedResourceStatuses") or conditions:
        why = ", ".join(conditions) or "it is to be larger"
        raise refuse(
            f"Claim {name} is being changed: {why}.",
            "Have a pod use it until kubectl describe pvc shows no condition, and end the pod then.",
        )
    named = read(claim, "spec", "volumeAttributesClassName")
    current = read(claim, "status", "currentVolumeAttributesClassName")
    if read(claim, "status", "modifyVolumeStatus") or (named or None) != (current or None):
        raise refuse(
            f"Claim {name} is becoming what VolumeAttributesClass {named} says.",
            "Wait until status.currentVolumeAttributesClassName is that.",
        )


def check_use(seen: Seen) -> None:
    """Raise RefusedError while somebody has the claim, or would make it anew once it is gone."""
    name = seen.subject.name
    if users := seen.list_users():
        raise refuse(
            f"Claim {name} is in use by pod {', '.join(users)}.",
            "Scale to 0 what makes the pod, or delete it, and say so again.",
        )
    if makers := seen.list_makers():
        raise refuse(
            f"StatefulSet {', '.join(makers)} would make claim {name} anew, empty.",
            "Scale it down below the claim's pod: kubectl scale statefulset … --replicas=0.",
        )
    if nodes := seen.list_nodes():
        raise refuse(
            f"Volume of claim {name} is attached to {', '.join(nodes)} yet.",
            "It is detached a moment after its last pod ended; say so again then.",
        )
    others = [each for each in list_finalizers(seen.claim) if each != PROTECTION]
    if others:
        raise refuse(
            f"Claim {name} is being copied, or kept by somebody: {', '.join(others)}.",
            "Wait until the snapshot or clone that is made of it is there, or ask whose finalizer that is.",
        )


def check_old(seen: Seen) -> None:
    """Raise RefusedError unless the old PersistentVolume is that of the record, with the same volume."""
    journal = seen.journal
    assert journal is not None  # noqa: S101 -- asked once there is one
    subject = seen.subject
    if seen.old is None or uid_of(seen.old) != journal.old_uid:
        raise refuse(
            f"PersistentVolume {journal.old_name} of claim {subject.name} is gone.",
            f"PersistentVolume {subject.new} has its volume, and keeps it; see what became of the claim.",
        )
    volume_id = read(seen.old, "spec", "csi", "volumeHandle")
    new_id = read(seen.new, "spec", "csi", "volumeHandle")
    if volume_id != new_id or read(seen.new, "spec", "csi", "driver") != journal.target:
        raise refuse(
            f"PersistentVolume {subject.new} has volume {new_id}, and {journal.old_name} has {volume_id}.",
            "Nothing was deleted. Whoever made the former changed it; delete it, and say so again.",
        )


def check_new(seen: Seen) -> None:
    """Raise RefusedError unless the new PersistentVolume deletes nothing, and is kept for the claim."""
    subject = seen.subject
    reference = read(seen.new, "spec", "claimRef") or {}
    is_for_it = (reference.get("namespace"), reference.get("name")) == (subject.namespace, subject.claim)
    if (
        is_going(seen.new)
        or not is_for_it
        or read(seen.new, "spec", "persistentVolumeReclaimPolicy") != RETAIN
    ):
        raise refuse(
            f"PersistentVolume {subject.new} is not as it was made: kept, and for claim {subject.name}.",
            "Set spec.persistentVolumeReclaimPolicy to Retain, see what became of it, and say so again.",
        )
