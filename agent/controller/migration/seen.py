"""What is seen of one claim that moves, at one moment, and what is wanted of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import Struct

from agent.cloud.aws.models import CloudSnapshot
from agent.controller.migration.journal import Journal, read_journal
from agent.controller.migration.objects import Object, name_of, read, read_list


@dataclass(frozen=True)
class Subject:
    """A claim, and the names of the PersistentVolumes that it has and will have."""

    namespace: str
    claim: str
    old: str
    new: str
    meant: str | None = field(default=None, compare=False)
    """Of a claim that there is not, the one that is called most like it."""

    @property
    def name(self) -> str:
        """As people name it."""
        return f"{self.namespace}/{self.claim}"


class Aim(Struct, frozen=True):
    """What is to become of claims."""

    origin: str
    target: str
    snapshot_class: str | None
    """By which Kubernetes has a snapshot taken before; None: it takes none."""
    takes_ec2_snapshot: bool = False
    """EC2 itself is asked for the snapshot."""

    @property
    def takes_snapshot(self) -> bool:
        """Tell whether there is to be a snapshot before."""
        return self.takes_ec2_snapshot or self.snapshot_class is not None


class Seen(Struct, frozen=True):
    """The objects as they are."""

    subject: Subject
    claim: Object | None
    old: Object | None
    new: Object | None
    pods: tuple[Object, ...] = ()
    """All of the namespace."""
    sets: tuple[Object, ...] = ()
    """The StatefulSets of the namespace."""
    attachments: tuple[Object, ...] = ()
    """All of the cluster."""
    snapshot: Object | None = None
    """That which is taken before."""
    ec2_snapshot: CloudSnapshot | None = None
    """The same, where EC2 itself is asked for it."""

    @property
    def volume_id(self) -> str:
        """What the driver knows the volume by: its ID, where it is an EBS volume."""
        return str(read(self.new or self.old, "spec", "csi", "volumeHandle") or "")

    @property
    def journal(self) -> Journal | None:
        """The record; AgentError where it cannot be read."""
        return read_journal(self.new)

    def is_of(self, driver: str) -> bool:
        """Tell whether the claim is bound, to a volume of the driver's."""
        named = read(self.claim, "spec", "volumeName")
        volume = next((each for each in (self.old, self.new) if each and name_of(each) == named), None)
        is_bound = read(self.claim, "status", "phase") == "Bound"
        return bool(is_bound and read(volume, "spec", "csi", "driver") == driver)

    def list_users(self) -> list[str]:
        """Return the pods that have the claim, or are to have it."""
        return [
            name_of(pod)
            for pod in self.pods
            if read(pod, "status", "phase") not in {"Succeeded", "Failed"}
            and self.subject.claim in _list_claims(pod)
        ]

    def list_makers(self) -> list[str]:
        """Return the StatefulSets that would make the claim anew while it is gone."""
        return [name_of(each) for each in self.sets if self.subject.claim in _list_made(each)]

    def list_takers(self) -> list[str]:
        """Return the StatefulSets that delete the claim once they are scaled down below its pod."""
        policy = ("spec", "persistentVolumeClaimRetentionPolicy", "whenScaled")
        made = self.list_makers()
        return [
            name_of(each) for each in self.sets if name_of(each) in made and read(each, *policy) == "Delete"
        ]

    def list_nodes(self) -> list[str]:
        """Return the nodes where the old PersistentVolume is attached, or is to be."""
        return [
            str(read(each, "spec", "nodeName"))
            for each in self.attachments
            if read(each, "spec", "source", "persistentVolumeName") == self.subject.old
        ]


def _list_claims(pod: Object) -> set[str]:
    volumes = read_list(pod, "spec", "volumes")
    named = {read(volume, "persistentVolumeClaim", "claimName") for volume in volumes}
    # A claim that goes with its pod is called after both.
    return named | {f"{name_of(pod)}-{volume['name']}" for volume in volumes if "ephemeral" in volume}


def _list_made(stateful: Object) -> set[str]:
    first = read(stateful, "spec", "ordinals", "start") or 0
    wanted = read(stateful, "spec", "replicas")
    count = 1 if wanted is None else wanted
    return {
        f"{name_of(template)}-{name_of(stateful)}-{number}"
        for template in read_list(stateful, "spec", "volumeClaimTemplates")
        for number in range(first, first + count)
    }
