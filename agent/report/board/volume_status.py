"""What is known and shown of one volume: the value that the board keeps and every face reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from agent.core.model import AwsChecks, Condition, Difference, Expected, Reason, SnapshotFacts, VolumeId
from agent.core.replace import replace
from agent.report.board.readings import Health, is_worse

if TYPE_CHECKING:  # a face shows what it is told, and has no use for what is planned
    from agent.core.steps import Degrade, Refuse, Wait


class Usage(Struct, frozen=True):
    """What the filesystem of a mounted volume reported when last sampled."""

    size_bytes: int
    avail_bytes: int
    """What unprivileged writers can still use, as ``df`` shows it."""
    files: int
    files_free: int
    is_read_only: bool = False

    @property
    def used_bytes(self) -> int:
        return max(0, self.size_bytes - self.avail_bytes)


class StepOutcome(Struct, frozen=True):
    """The last step the agent took on a volume, and how it ended: ``done``, or the error's sentence."""

    step: str
    text: str
    outcome: str
    at: datetime


class PlannedStep(Struct, frozen=True):
    """One step of a volume's plan, for showing: its kind and its sentence."""

    step: str
    text: str
    hint: str | None = None


class Past(NamedTuple):
    """A condition that a volume came into at ``since``, and is in no more."""

    since: datetime
    condition: Condition


class VolumeStatus(Struct, frozen=True):
    """All that is known and shown of one volume, or of a policy entry whose volume is not here yet."""

    volume_id: VolumeId | None
    """None: a policy entry that names no volume ID waits for one that matches."""
    name: str | None
    """The policy's name for it; None for a volume the policy does not name."""
    condition: Condition
    reason: Reason | None = None
    message: str = ""
    hint: str | None = None
    device: str | None = None
    path: str | None = None
    """Where it can be used: the mount path, or the link below ``/dev/ebs`` of a raw volume."""
    fstype: str | None = None
    size_bytes: int | None = None
    usage: Usage | None = None
    is_required: bool = False
    last_step: StepOutcome | None = None
    plan: tuple[PlannedStep, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    """What was observed, in the order it is to be read, for ``explain``."""
    wants_read_only: bool = False
    """The policy has it mounted read-only."""
    wants_growth: bool = False
    """The policy has its filesystem fill the device."""
    health: Health | None = None
    """What sampling it found; None before the first sample. The board fills it in."""
    snapshots: SnapshotFacts | None = None
    """How its scheduled snapshots are; None where it has no schedule, or AWS has not told. By the board."""
    drift: tuple[Difference, ...] = ()
    """In what it is not as its claim says, whatever its condition; the board fills it in."""
    checks: AwsChecks | None = None
    """What AWS's own status checks found; None where it was not asked. The board fills it in."""
    persistent_volume: str | None = None
    """Its name in Kubernetes, where kubelet asked for it; the board fills it in."""
    persistent_volume_claim: str | None = None
    """``namespace/name`` of the claim of Kubernetes that it was made for, where AWS told. By the board."""
    since: datetime | None = None
    """When the volume came into this condition for this reason; the board fills it in."""
    past: tuple[Past, ...] = ()
    """In which conditions it was before, oldest first: those of the last hour. The board fills it in."""

    @property
    def label(self) -> str:
        """What people call the volume."""
        return self.name or self.volume_id or "?"


def combine(status: VolumeStatus, health: Health | None) -> VolumeStatus:
    """Return the engine's status with what sampling found; the worse of the two is the condition.

    A volume the engine does not have in use stays what the engine says: only of what is usable can health
    say that it is not. Where both give the same reason each may know what the other does not, and both are
    shown: the engine what is in the way, sampling how bad it is.
    """
    if health is None:
        return status
    mount = None if health.sample is None else health.sample.mount
    if mount is not None and mount.path == status.path and mount.size_bytes:
        usage = Usage(
            mount.size_bytes,
            mount.avail_bytes,
            mount.files,
            mount.files_free,
            is_read_only=mount.is_read_only,
        )
        status = replace(status, usage=usage)
    status = replace(status, health=health)
    worst = health.verdicts[0] if health.verdicts else None
    if worst is None or not is_worse(worst.condition, status.condition):
        return status
    is_same = worst.reason is status.reason
    return replace(
        status,
        condition=worst.condition,
        reason=worst.reason,
        message=_say_both(status.message, worst.message) if is_same else worst.message,
        hint=_say_both(status.hint, worst.hint) if is_same else worst.hint,
    )


def _say_both(one: str | None, other: str) -> str:
    return " ".join(dict.fromkeys(filter(None, (one, other))))


class SaidByCloud(Struct, frozen=True):
    """What the cloud half says of volumes that are not here, or not as wanted."""

    absences: Mapping[str, Wait | Refuse] = {}
    """By entry name, why volumes are not here."""
    notices: Mapping[str, Wait | Refuse] = {}
    """By entry name, what about those that are here cannot be as wanted."""
    departures: Mapping[VolumeId, str] = {}
    """Of volumes that it is going to delete, when and why."""
    drift: Mapping[str, tuple[Difference, ...]] = {}
    """By entry name, in what a volume is not as its claim says."""
    volume_notices: Mapping[VolumeId, Degrade] = {}
    """Of volumes that are Ready by themselves, what about them is not as it should be."""

    def give_reason(self, status: VolumeStatus) -> VolumeStatus:
        """Give a volume that is not here, or not as wanted, the reason that is said for it."""
        drift = self.drift.get(status.name or "")
        if drift:
            status = replace(status, drift=drift)
        leaving = None if status.volume_id is None else self.departures.get(status.volume_id)
        if leaving is not None and status.condition is Condition.UNMANAGED:
            return replace(status, message=leaving)
        by_id = None if status.volume_id is None else self.volume_notices.get(status.volume_id)
        notice = by_id or self.notices.get(status.name or "")
        if notice is not None and status.condition is Condition.READY:
            return replace(
                status,
                condition=Condition.DEGRADED,
                reason=notice.reason,
                message=notice.message,
                hint=notice.hint,
            )
        why = self.absences.get(status.name or "")
        is_awaited = status.device is None or status.reason is Reason.WAITING_FOR_CLOUD
        if why is None or not is_awaited or status.condition is not Condition.PENDING:
            return status
        message, hint = why.message, why.hint
        if status.device is not None:
            # It is here and waits, and says until when.
            message = f"{status.message} {message}".strip()
            hint = " ".join(part for part in (hint, status.hint) if part) or None
        return replace(status, condition=why.condition, reason=why.reason, message=message, hint=hint)


def list_missing(
    wanted: Sequence[Expected], present: Mapping[VolumeId, VolumeStatus]
) -> Iterator[VolumeStatus]:
    """Yield the statuses of entries that have no volume among those of which something is told."""
    taken = {status.name for status in present.values()}
    entries = {expected.name for expected in wanted}
    for expected in wanted:
        here = None if expected.volume_id is None else present.get(expected.volume_id)
        # Of an entry that was just renamed the volume tells under the old name, until it is looked at.
        is_renamed = here is not None and here.name not in {None, here.volume_id, *entries}
        if expected.name not in taken and not is_renamed:
            yield _describe_missing(expected) if here is None else _describe_withheld(expected, here)


def _describe_missing(expected: Expected) -> VolumeStatus:
    which = f"volume {expected.volume_id}" if expected.volume_id else "any volume that matches"
    return VolumeStatus(
        volume_id=expected.volume_id,
        name=expected.name,
        condition=Condition.PENDING,
        reason=Reason.NOT_ATTACHED,
        message=f"{expected.name} waits for {which} to be attached.",
        hint="Attach the volume to this instance, or correct its match in the policy.",
        is_required=expected.is_required,
    )


def _describe_withheld(expected: Expected, here: VolumeStatus) -> VolumeStatus:
    """Return the status of an entry that does not get its volume, or not yet.

    It is shown beside the volume, and so without its ID: nothing is told of one volume twice.
    """
    hint = f"See what keeps it: ebs-agent explain {here.label}"
    status = VolumeStatus(
        volume_id=None,
        name=expected.name,
        condition=Condition.PENDING,
        reason=Reason.NOT_IN_POLICY,
        message=f"{expected.name} asks more of volume {here.label} than is so, or than is known yet.",
        hint=hint,
        is_required=expected.is_required,
    )
    if here.condition is Condition.UNMANAGED or here.reason is None:
        return status
    message = f"{expected.name} does not have {here.label}: {here.message}"
    condition = Condition.PENDING if here.condition.is_usable else here.condition
    return replace(status, condition=condition, reason=here.reason, message=message, hint=here.hint or hint)
