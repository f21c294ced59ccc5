"""What the cloud half and the node half tell each other, and what the one may have done by the other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct, field

from agent.cloud.identity.whoami import CloudIdentity
from agent.core.errors import AgentError
from agent.core.model import (
    AttachmentPlaces,
    AwsChecks,
    Difference,
    NextCall,
    NodeFacts,
    Origin,
    Provisioned,
    Reason,
    SnapshotFacts,
    VolumeId,
)
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait
from agent.policy import Policy
from agent.policy.entries import VolumeEntry

FREEZE_LIMIT_S = 10.0
"""How long a filesystem may be frozen: AWS begins a snapshot in about a second, and writers stand still."""


class Hands(Protocol):
    """What the cloud half may have done on the node, and ask of it."""

    released: set[VolumeId]
    """Volumes that are to be left unmounted, and not to be attached again, until a person says so."""

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        """Return the volumes whose devices are here, with the block device name chosen at attach."""

    def list_assigned(self) -> Mapping[str, VolumeId]:
        """Return, by entry name, the volume here that the policy's entry is for."""

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        """Unmount the volume and flush it; raise AgentError that names who uses it, unless forced."""

    def freeze(self, volume_id: VolumeId) -> AbstractAsyncContextManager[bool]:
        """Keep its filesystem frozen within; False where none is mounted. Thaws whatever happens."""


class CloudReport(Struct, frozen=True):
    """What a look at the cloud found, for the node half."""

    facts: NodeFacts = field(default_factory=NodeFacts)
    origins: Mapping[VolumeId, Origin] = field(default_factory=dict)
    """What AWS said of volumes, each by itself."""
    claimed: Mapping[str, VolumeId] = field(default_factory=dict)
    """By entry name, the volume that was made for its claim."""
    endings: Mapping[str, Wait | Refuse] = field(default_factory=dict)
    """By entry name, why its volume is not here."""
    notices: Mapping[str, Wait | Refuse] = field(default_factory=dict)
    """By entry name, what cannot be changed, now or ever, about a volume that is here."""
    departures: Mapping[VolumeId, str] = field(default_factory=dict)
    """Of volumes that are going to be deleted, when and why."""
    untold: frozenset[VolumeId] = frozenset()
    """Volumes of which AWS said that it will not tell: asking is denied, or it knows none of this ID."""
    unread: frozenset[VolumeId] = frozenset()
    """Volumes about which AWS's answer cannot be read: what they are is not known, and not unknown to AWS."""
    snapshots: Mapping[VolumeId, SnapshotFacts] = field(default_factory=dict)
    """Of the volumes here that have a schedule, and whose snapshots were described."""
    calls: tuple[NextCall, ...] = ()
    """What is decided on and not seen to have happened."""
    drift: Mapping[str, tuple[Difference, ...]] = field(default_factory=dict)
    """By entry name, in what its claim's volume is not as the claim and its class say."""
    provisioned: Mapping[VolumeId, Provisioned] = field(default_factory=dict)
    """Of the volumes here, what AWS says they are given."""
    checks: Mapping[VolumeId, AwsChecks] = field(default_factory=dict)
    """Of the volumes here, what AWS's own status checks found."""
    places: AttachmentPlaces | None = None
    """None: it is not known how many volumes this instance takes."""
    remarks: tuple[str, ...] = ()
    """Sentences about this instance and its volumes that are no defect of any."""
    zone: str | None = None
    """The name of the zone that volumes here are in, as the account calls it that has them."""


def needs_cloud(entry: VolumeEntry) -> bool:
    """Return whether an entry cannot be fulfilled by the node alone, once its volume is attached."""
    match = entry.match
    by_cloud = match is not None and (bool(match.tags) or match.type is not None)
    return entry.claim is not None or entry.snapshots is not None or by_cloud


def choose_entries(policy: Policy, identity: CloudIdentity) -> tuple[VolumeEntry, ...]:
    """Return the entries that may concern this node."""
    return tuple(entry for entry in policy.volumes if entry.instance_group in {None, identity.instance_group})


def make_facts(identity: CloudIdentity) -> NodeFacts:
    """Return what templates and matching need of this node's identity."""
    return NodeFacts(
        identity.instance_name, identity.instance_group, identity.instance_id, identity.cluster_id
    )


def make_ending(error: AgentError) -> Wait | Refuse:
    """Return an error as the reason why a volume is not here."""
    reason = error.reason or Reason.CLOUD_ERROR
    if error.retryable:
        return Wait(reason, error.message, error.hint)
    return Refuse(reason, error.message, error.hint)


def report_failure(
    before: CloudReport, policy: Policy, error: AgentError, described: Mapping[VolumeId, Origin]
) -> CloudReport:
    """Return what is told where not all could be described: what was told before, and why no more is."""
    ending = make_ending(error)
    endings = {entry.name: ending for entry in policy.volumes if needs_cloud(entry) or entry.volume_id}
    notices = {
        entry.name: before.notices[entry.name] for entry in policy.volumes if entry.name in before.notices
    }
    return replace(before, origins={**before.origins, **described}, endings=endings, notices=notices)


def explain_fault(policy: Policy, error: BaseException) -> dict[str, Wait | Refuse]:
    """Say of every entry that the cloud half fell over an error nobody foresaw, which is the agent's own.

    What a blank volume was made from may then not be known, so it waits for as long as the policy says.
    """
    while inner := getattr(error, "exceptions", ()):  # a task group's
        error = inner[0]
    ending = Wait(
        Reason.CLOUD_ERROR,
        f"The agent's cloud half failed: {type(error).__name__}: {error!s:.200}",
        hint="This is a bug of the agent; report it with the traceback that journalctl -u ebs-agent shows. "
        "It is tried again every minute. agent.cloud.enabled: false in the policy works without AWS.",
    )
    return {entry.name: ending for entry in policy.volumes}
