"""Whether a claim may be moved: each reason not to names the object, and the way out. Pure."""

from __future__ import annotations

from agent.controller.migration.objects import (
    Object,
    is_going,
    list_finalizers,
    name_of,
    read,
    read_list,
    uid_of,
)
from agent.controller.migration.quantity import count_bytes
from agent.controller.migration.rewrite import RETAIN, list_foreign_keys, make_claim, name_class
from agent.controller.migration.seen import Aim, Seen
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import parse_volume_id
from agent.core.quoting import quote

PROTECTION = "kubernetes.io/pvc-protection"
_KEEP_CLAIMS = (
    '{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenScaled":"Retain","whenDeleted":"Retain"}}}'
)
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
    is_bound = read(seen.claim, "status", "phase") == "Bound" and reference == uid_of(seen.claim)
    if not is_bound or seen.old is None or read(seen.claim, "spec", "volumeName") != name_of(seen.old):
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
    check_volume(seen, aim)
    if keys := list_foreign_keys(seen.old):
        raise refuse(
            f"PersistentVolume {name_of(seen.old)} of claim {name} is for nodes with {', '.join(keys)}.",
            f"Nodes have that label by {aim.origin} alone; leave the claim there.",
        )
    check_changes(seen)
    check_use(seen)
    if reasons := list_mismatches(make_claim(seen.claim, seen.old, aim.target), seen.old):
        raise refuse(
            f"Claim {name} would not have its volume again: {'; '.join(reasons)}.",
            f"Kubernetes would not bind the two today. See who changed claim or PersistentVolume "
            f"{name_of(seen.old)}.",
        )


def list_mismatches(claim: Object, volume: Object) -> list[str]:
    """Return why Kubernetes would not bind a claim to the PersistentVolume that it names.

    As ``checkVolumeSatisfyClaim`` of Kubernetes' pkg/controller/volume/persistentvolume/pv_controller.go.
    """
    reasons = []
    asked = str(read(claim, "spec", "resources", "requests", "storage") or "0")
    had = str(read(volume, "spec", "capacity", "storage") or "0")
    if count_bytes(asked) > count_bytes(had):
        reasons.append(f"it asks for {asked}, and the volume has {had}")
    ours, theirs = name_class(claim), name_class(volume)
    if ours != theirs:
        reasons.append(f"its class is {quote(ours)}, and the volume's {quote(theirs)}")
    mode, has = (read(thing, "spec", "volumeMode") or "Filesystem" for thing in (claim, volume))
    if mode != has:
        reasons.append(f"its mode is {mode}, and the volume's {has}")
    modes = set(read_list(claim, "spec", "accessModes")) - set(read_list(volume, "spec", "accessModes"))
    if modes:
        reasons.append(f"the volume has no access mode {', '.join(sorted(modes))}")
    return reasons


def check_volume(seen: Seen, aim: Aim) -> None:
    """Raise RefusedError unless it is an EBS volume, which EC2 and both drivers know."""
    try:
        parse_volume_id(seen.volume_id)
    except AgentError as error:
        raise refuse(
            f"PersistentVolume {name_of(seen.old)} of claim {seen.subject.name} is no EBS volume: "
            f"{quote(seen.volume_id) if seen.volume_id else 'it has no ID'}.",
            f"{aim.target} would not find it; leave the claim where it is.",
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
    if pods := [
        one["name"] for one in read_list(seen.claim, "metadata", "ownerReferences") if one["kind"] == "Pod"
    ]:
        raise refuse(
            f"Claim {name} belongs to pod {', '.join(pods)}, and is deleted with it, and so is its volume.",
            "What is to stay has to be copied. Pods made anew have a claim of the class that they name then.",
        )
    if takers := seen.list_takers():
        raise refuse(
            f"StatefulSet {', '.join(takers)} deletes claim {name}, and its volume, when it is scaled down.",
            "First have it keep its claims, and scale it down then: kubectl patch statefulset "
            f"{takers[0]} -n {seen.subject.namespace} -p '{_KEEP_CLAIMS}'",
        )
    if users := seen.list_users():
        raise refuse(
            f"Claim {name} is in use by pod {', '.join(users)}.",
            "Scale to 0 what makes the pod, or delete the pod where nothing does, and say so again.",
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
