"""What to do with a volume that is ours and mounted nowhere: what is on it decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.model import (
    Blank,
    Condition,
    Filesystem,
    Foreign,
    FormatRule,
    FormatStage,
    FsType,
    Reason,
    Unknown,
    Unproven,
)
from agent.core.plan.keep_mounted import plan_tuning
from agent.core.plan.who_wants import (
    explain_format,
    explain_path,
    explain_type,
    name_type_field,
    name_wanter,
)
from agent.core.plan.whose_volume import tell_since, tell_until
from agent.core.steps import Check, Format, MountFilesystem, Refuse, SettleFormat, Wait

if TYPE_CHECKING:
    from agent.core.model import Device, FormatRecord, Observed, Wanted, WantedFilesystem
    from agent.core.steps import Step


def plan_content(observed: Observed, device: Device, wanted: Wanted) -> tuple[Step, ...]:
    """Let what is on the volume decide: it is attached, ours, and mounted nowhere."""
    filesystem = wanted.filesystem
    if filesystem is None:
        return ()
    if observed.obstacle is not None and wanted.mount is not None:
        return (
            Refuse(
                Reason.PATH_IN_USE,
                f"{wanted.mount.path} is taken: {observed.obstacle}.",
                hint=explain_path(wanted),
            ),
        )
    if observed.is_place_missing and wanted.mount is not None:
        return (
            Wait(
                Reason.NOT_STAGED,
                f"{wanted.mount.path} is not there: kubelet makes it when it asks for {observed.volume_id}.",
                hint="It is asked for by itself when a pod needs it; until then nothing is done.",
            ),
        )
    refusal = _find_refusal(observed, device, wanted, filesystem)
    if refusal is not None:
        return (refusal,)
    if isinstance(observed.content, Filesystem) and not _is_half_made(observed):
        return _plan_mount(observed, device, wanted, observed.content)
    record = observed.format_record
    resume_uuid = None if record is None else record.uuid
    return (
        Format(filesystem.type, filesystem.label, filesystem.mkfs_options, resume_uuid),
        *_plan_first_mount(observed, wanted, resume_uuid, None),
    )


def _plan_mount(observed: Observed, device: Device, wanted: Wanted, content: Filesystem) -> tuple[Step, ...]:
    record = observed.format_record
    steps: list[Step] = []
    is_read_only = device.is_read_only or (wanted.mount is not None and wanted.mount.is_read_only)
    if observed.checked is None and not is_read_only:
        steps.append(Check(content.type, content.partition))
    elif observed.checked is not None and not observed.checked.is_clean:
        return (
            Wait(
                Reason.FILESYSTEM_ERRORS,
                f"The {content.type} filesystem on {observed.volume_id} is damaged:"
                f" {observed.checked.detail or 'its check failed'}.",
                hint="Take a snapshot of the volume, then repair it by hand"
                f" ({_name_repair(content)}); it is mounted as soon as its check passes.",
                condition=Condition.FAILED,
            ),
        )
    if record is not None and record.stage is FormatStage.INTENDED:
        steps.append(SettleFormat(record.uuid))
    if device.is_read_only and wanted.mount is not None and not wanted.mount.is_read_only:
        return (
            Refuse(
                Reason.READ_ONLY_DEVICE,
                f"{device.path} is read-only and {name_wanter(wanted)} wants it writable.",
                hint="Add ro to the mount options, or attach the volume writable.",
            ),
        )
    return (*steps, *_plan_first_mount(observed, wanted, content.uuid, content.partition))


def _plan_first_mount(
    observed: Observed, wanted: Wanted, uuid: str | None, partition: int | None
) -> tuple[Step, ...]:
    if wanted.mount is None or wanted.filesystem is None:
        return ()
    options = wanted.mount.options
    if observed.is_uuid_mounted_elsewhere and wanted.filesystem.type is FsType.XFS:
        options = (*options, "nouuid")
    return (
        MountFilesystem(
            wanted.filesystem.type,
            uuid,
            wanted.mount.path,
            options,
            partition,
            observed.ids.uid,
            observed.ids.gid,
            wanted.mount.mode,
        ),
        *plan_tuning(observed, wanted),
    )


# -- Refusals: the reasons to keep hands off what is on the volume -------------------------------------------


def _find_refusal(
    observed: Observed, device: Device, wanted: Wanted, filesystem: WantedFilesystem
) -> Refuse | Wait | None:
    content = observed.content
    if content is None or isinstance(content, Unknown):
        why = "it was not looked at" if content is None else content.why
        return Refuse(
            Reason.PROBE_FAILED,
            f"What is on {observed.volume_id} is not known: {why}.",
            hint="A volume that cannot be read is never formatted; see the kernel log for its device.",
        )
    found = content.partition if isinstance(content, Filesystem) else None
    if filesystem.partition not in {None, found}:
        return Refuse(
            Reason.FILESYSTEM_MISMATCH,
            f"{observed.volume_id} holds no filesystem in partition {filesystem.partition}, which is wanted.",
            hint="Correct the partition, or leave it out: the volume itself, or its only partition, is used.",
        )
    if isinstance(content, Filesystem) and content.type is not filesystem.type:
        return Refuse(
            Reason.FILESYSTEM_MISMATCH,
            f"{observed.volume_id} holds {content.type} and {name_wanter(wanted)} wants {filesystem.type}.",
            hint=explain_type(wanted, content.type),
        )
    if isinstance(content, Filesystem) and not _is_half_made(observed):
        return None
    if isinstance(content, Foreign) and not _is_half_made(observed):
        return Refuse(
            Reason.NOT_BLANK,
            f"{observed.volume_id} holds {content.what}.",
            hint="Nothing was changed. To use the volume for this entry, empty it yourself (wipefs and"
            f" blkdiscard -z){_name_forgetting(observed)}, or match another one.",
        )
    refusal = _find_format_refusal(observed, device, wanted, filesystem)
    if refusal is None and isinstance(content, Unproven):
        return Refuse(
            Reason.PROBE_FAILED,
            f"{observed.volume_id} was not read, so whether it is blank is not known.",
            hint="It is formatted only once it is proven blank; it is looked at again by itself.",
        )
    return refusal


def _find_format_refusal(
    observed: Observed, device: Device, wanted: Wanted, filesystem: WantedFilesystem
) -> Refuse | Wait | None:
    """Return why a volume that looks blank, or is half-made by a format of ours, may not be formatted."""
    volume, record, origin = observed.volume_id, observed.format_record, observed.origin
    if filesystem.format is not FormatRule.IF_BLANK:
        return Refuse(
            Reason.FORMAT_NOT_ALLOWED,
            f"{volume} {_tell_emptiness(observed)}, and {name_wanter(wanted)} does not allow formatting it.",
            hint=explain_format(wanted),
        )
    if origin is not None and origin.snapshot_id is not None:
        return Refuse(
            Reason.FROM_SNAPSHOT,
            f"{volume} was made from {origin.snapshot_id} and is never formatted, whatever it reads like.",
            hint="Check that the snapshot is the one meant; use a new empty volume otherwise.",
        )
    if origin is not None and origin.source_volume_id is not None:
        return Refuse(
            Reason.FROM_SNAPSHOT,
            f"{volume} was made as a copy of {origin.source_volume_id} and is never formatted, whatever it"
            " reads like.",
            hint="Check that the volume it was copied from is the one meant; use a new empty one otherwise.",
        )
    if device.is_read_only:
        return Refuse(Reason.READ_ONLY_DEVICE, f"{device.path} is read-only and cannot be formatted.")
    if record is not None and record.stage is FormatStage.DONE:
        return Refuse(
            Reason.ALREADY_FORMATTED,
            f"{volume} was formatted by this agent before (filesystem {record.uuid}) and now reads blank.",
            hint="Something wiped it. If that was meant, remove its record with"
            f" ebs-agent forget {volume}; otherwise restore a snapshot.",
        )
    if record is not None and (record.type is not filesystem.type or record.size_bytes != device.size_bytes):
        return Refuse(
            Reason.NOT_BLANK,
            f"A format of {volume} as {record.type} was interrupted, and {name_wanter(wanted)} or the"
            " volume has changed since.",
            hint=f"Put {name_type_field(wanted)}: {record.type} back, or empty the volume and run"
            f" ebs-agent forget {volume}.",
        )
    if origin is None and observed.is_origin_awaited:
        return Wait(
            Reason.WAITING_FOR_CLOUD,
            f"{volume} {_tell_emptiness(observed)}; what it was made from is asked of"
            f" AWS{tell_since(observed)}.",
            hint=f"If it is blank it is formatted {tell_until(observed)}"
            " (agent.cloud.format_without_origin_after).",
        )
    return None


def _tell_emptiness(observed: Observed) -> str:
    return "is blank" if isinstance(observed.content, Blank) else "holds nothing that is recognised"


def _name_forgetting(observed: Observed) -> str:
    return "" if observed.format_record is None else f" and run ebs-agent forget {observed.volume_id}"


def _is_half_made(observed: Observed) -> bool:
    """Tell whether an interrupted format of ours left what is there, by all that can be known of it."""
    record, content = observed.format_record, observed.content
    if record is None or record.stage is not FormatStage.INTENDED:
        return False
    if isinstance(content, Foreign):
        return content.is_own_remains
    return (
        isinstance(content, Filesystem)
        and _matches_record(content, record)
        and content.is_pristine is True
        and (_is_marked_unfinished(content) or _is_found_damaged(observed))
    )


def _is_found_damaged(observed: Observed) -> bool:
    return observed.checked is not None and not observed.checked.is_clean


def _is_marked_unfinished(content: Filesystem) -> bool:
    # mkfs.xfs takes its mark away last; the kernel mounts nothing that has it, and no check complains of it.
    return content.type is FsType.XFS and content.is_pristine is True and content.has_errors


def _matches_record(content: Filesystem, record: FormatRecord) -> bool:
    return content.partition is None and content.type is record.type and content.uuid == record.uuid


def _name_repair(content: Filesystem) -> str:
    return {FsType.EXT4: "e2fsck", FsType.XFS: "xfs_repair", FsType.BTRFS: "btrfs check"}[content.type]
