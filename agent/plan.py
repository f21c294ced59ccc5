"""The planner: from what was observed of one volume and what is wanted of it, to steps. Pure.

No I/O, no clock, no randomness, no memory: everything that bears on a decision is an argument, so every
decision can be shown (``ebs-agent plan``), replayed and tested in a table. The order of the rules is the
safety argument: what is not ours is refused before anything on it is even considered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.model import (
    Condition,
    Exclusion,
    Filesystem,
    Foreign,
    FormatRule,
    FormatStage,
    FsType,
    Reason,
    RootInode,
    Unknown,
)
from agent.options import differs_by_remount
from agent.steps import (
    Check,
    Degrade,
    Format,
    GrowFilesystem,
    GrowPartition,
    Link,
    MountFilesystem,
    MoveMount,
    Plan,
    Refuse,
    Remount,
    SetNodeOwnership,
    SetRootOwnership,
    SettleFormat,
    Tune,
    Unlink,
    Unmount,
    Wait,
)

if TYPE_CHECKING:
    from agent.model import (
        Content,
        Device,
        FormatRecord,
        Mount,
        Observed,
        Wanted,
        WantedFilesystem,
        WantedMount,
    )
    from agent.steps import Step

GROW_SLACK_BYTES = 16 * 1024 * 1024
"""A filesystem this close to the end of its device fills it: ext4 drops a last block group too small for its
own tables, xfs a last allocation group under 64 blocks. EBS sizes differ by whole GiB."""

_CSI_TAGS = frozenset({"ebs.csi.aws.com/cluster", "CSIVolumeName", "kubernetes.io/created-for/pvc/name"})
"""What the EBS CSI driver tags its volumes with."""

PARTITION_SLACK_BYTES = 1024 * 1024
"""Room that partitioning tools leave at the end: the backup GPT header and 1 MiB alignment."""


def make_plan(observed: Observed, wanted: Wanted | None) -> Plan:
    """Return what to do about one volume now; empty steps when it is as wanted.

    Only its ``next_actions`` may be executed before looking again: the later ones show what is expected to
    follow.
    """
    stale: tuple[Step, ...] = (
        *(Unmount(mount, is_stale=True) for mount in observed.stale_mounts),
        *(Unlink(path) for path in sorted(observed.wrong_links)),
    )
    if observed.device is None:
        return _plan_absent(observed, wanted, stale)
    steps = (*stale, *_plan_links(observed, wanted))
    if wanted is None:
        return Plan(steps, settled=Condition.UNMANAGED)
    if wanted.block is not None:
        return Plan((*steps, *_plan_raw(observed, wanted)))
    return Plan((*steps, *_plan_mounted(observed, observed.device, wanted)))


def _plan_absent(observed: Observed, wanted: Wanted | None, stale: tuple[Step, ...]) -> Plan:
    volume = observed.volume_id
    if observed.stale_mounts or observed.was_lost:
        return Plan(
            (
                *stale,
                Wait(
                    Reason.DEVICE_GONE,
                    f"{volume} vanished while it was mounted.",
                    hint="Attach it again; its filesystem is checked and mounted by itself.",
                    condition=Condition.LOST,
                ),
            )
        )
    if wanted is None:
        return Plan(stale, settled=Condition.UNMANAGED)
    return Plan(
        (
            *stale,
            Wait(Reason.NOT_ATTACHED, f"{volume} is not attached to this node."),
        )
    )


def _plan_links(observed: Observed, wanted: Wanted | None) -> tuple[Step, ...]:
    """Stable links: by volume ID for every volume, by policy name for raw ones."""
    paths = [f"by-id/{observed.volume_id}"]
    if wanted is not None and wanted.block is not None and _find_raw_exclusion(observed) is None:
        paths.append(wanted.name)
    return tuple(Link(path) for path in paths if path not in observed.links)


# -- Raw volumes ---------------------------------------------------------------------------------------------


def _plan_raw(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    exclusion = _find_raw_exclusion(observed)
    if exclusion is not None:
        return (_refuse_excluded(exclusion),)
    return (*_plan_node_ownership(observed, wanted), *_plan_tuning(observed, wanted), *_note_owner(observed))


def _find_raw_exclusion(observed: Observed) -> Exclusion | None:
    # What a raw volume holds, and who builds on it, is its owner's business; whose it is, is not.
    exclusion = _find_exclusion(observed)
    return None if exclusion is not None and exclusion.reason is Reason.DEVICE_BUSY else exclusion


def _find_exclusion(observed: Observed) -> Exclusion | None:
    """Return why the volume is not the agent's to touch: by what the node shows of it, or by its tags."""
    if observed.exclusion is not None or observed.origin is None:
        return observed.exclusion
    if not any(key in _CSI_TAGS for key, _ in observed.origin.tags):
        return None
    return Exclusion(
        Reason.MANAGED_BY_CSI,
        f"{observed.volume_id} belongs to the EBS CSI driver, by its tags.",
        hint="Leave the volume to Kubernetes, or remove its tags once Kubernetes has let go of it.",
    )


def _plan_node_ownership(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    ids = observed.ids
    mode = None if wanted.block is None else wanted.block.mode
    if _has_ownership(observed.node_owner, ids.uid, ids.gid, mode):
        return ()
    return (SetNodeOwnership(ids.uid, ids.gid, mode),)


# -- Filesystems ---------------------------------------------------------------------------------------------


def _plan_mounted(observed: Observed, device: Device, wanted: Wanted) -> tuple[Step, ...]:
    exclusion = _find_exclusion(observed)
    if exclusion is not None:
        return (_refuse_excluded(exclusion),)
    if device.identity.is_shared or (observed.origin is not None and observed.origin.is_multi_attach):
        return (
            Refuse(
                Reason.MULTI_ATTACH,
                f"{observed.volume_id} can be attached to several instances; a filesystem mounted on two of"
                " them is destroyed.",
                hint="Use a block entry for it, or a volume without multi-attach.",
            ),
        )
    here = _find_mount_at_path(observed, wanted.mount)
    if here is not None and wanted.mount is not None:
        return _plan_upkeep(observed, device, wanted, wanted.mount, here)
    if observed.mounts:
        return _plan_move(observed, wanted, observed.mounts[0])
    return _plan_content(observed, device, wanted)


def _find_mount_at_path(observed: Observed, wanted: WantedMount | None) -> Mount | None:
    if wanted is None:
        return None
    return next((mount for mount in observed.mounts if mount.path == wanted.path), None)


def _plan_move(observed: Observed, wanted: Wanted, mount: Mount) -> tuple[Step, ...]:
    """Plan for a mount of the agent (else it is excluded) at a path the policy no longer names."""
    if wanted.mount is None:
        return ()
    if observed.obstacle is not None:
        return (_degrade_move(mount, wanted.mount, f"{observed.obstacle} is there"),)
    if observed.processes:
        names = ", ".join(f"{process.name} ({process.pid})" for process in observed.processes[:5])
        more = len(observed.processes) - 5
        busy = f"{names}{f' and {more} more' if more > 0 else ''} use it"
        return (_degrade_move(mount, wanted.mount, busy),)
    return (MoveMount(mount.path, wanted.mount.path),)


def _degrade_move(mount: Mount, wanted: WantedMount, why: str) -> Degrade:
    return Degrade(
        Reason.PATH_IN_USE,
        f"It is mounted at {mount.path} and cannot move to {wanted.path}: {why}.",
        hint="End what is in the way, or put the old path back in the policy.",
    )


def _plan_content(observed: Observed, device: Device, wanted: Wanted) -> tuple[Step, ...]:
    """Let what is on the volume decide: it is attached, ours, and mounted nowhere."""
    filesystem = wanted.filesystem
    if filesystem is None:
        return ()
    if observed.obstacle is not None and wanted.mount is not None:
        return (
            Refuse(
                Reason.PATH_IN_USE,
                f"{wanted.mount.path} is taken: {observed.obstacle}.",
                hint="Free the path, or give the volume another one in the policy.",
            ),
        )
    refusal = _find_refusal(observed, device, filesystem)
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
                f"{device.path} is read-only and the policy wants it writable.",
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
        *_plan_tuning(observed, wanted),
    )


# -- Refusals: the reasons to keep hands off what is on the volume -------------------------------------------


def _find_refusal(observed: Observed, device: Device, filesystem: WantedFilesystem) -> Refuse | Wait | None:
    content = observed.content
    if content is None or isinstance(content, Unknown):
        why = "it was not looked at" if content is None else content.why
        return Refuse(
            Reason.PROBE_FAILED,
            f"What is on {observed.volume_id} is not known: {why}.",
            hint="A volume that cannot be read is never formatted; see the kernel log for its device.",
        )
    if isinstance(content, Filesystem) and content.type is not filesystem.type:
        return Refuse(
            Reason.FILESYSTEM_MISMATCH,
            f"{observed.volume_id} holds {content.type} and the policy wants {filesystem.type}.",
            hint=f"Say type: {content.type} in the policy to use it as it is.",
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
    return _find_format_refusal(observed, device, filesystem)


def _find_format_refusal(
    observed: Observed, device: Device, filesystem: WantedFilesystem
) -> Refuse | Wait | None:
    """Return why a volume that is blank, or half-made by an interrupted format, may not be formatted."""
    volume, record, origin = observed.volume_id, observed.format_record, observed.origin
    if filesystem.format is not FormatRule.IF_BLANK:
        return Refuse(
            Reason.FORMAT_NOT_ALLOWED,
            f"{volume} is blank and the policy does not allow formatting it.",
            hint="Say format: if-blank in its filesystem entry to allow it.",
        )
    if origin is None and observed.is_origin_awaited:
        return Wait(
            Reason.WAITING_FOR_CLOUD,
            f"{volume} is blank; whether it was made from a snapshot is being asked.",
            hint="It is formatted once AWS has answered, or has said that it will not.",
        )
    if origin is not None and origin.snapshot_id is not None:
        return Refuse(
            Reason.FROM_SNAPSHOT,
            f"{volume} was made from {origin.snapshot_id} and is never formatted, whatever it reads like.",
            hint="Check that the snapshot is the one meant; use a new empty volume otherwise.",
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
            f"A format of {volume} as {record.type} was interrupted, and the policy or the volume has"
            " changed since.",
            hint=f"Put type: {record.type} back, or empty the volume and run ebs-agent forget {volume}.",
        )
    return None


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


def _refuse_excluded(exclusion: Exclusion) -> Refuse:
    return Refuse(exclusion.reason, exclusion.message, exclusion.hint)


def _name_repair(content: Filesystem) -> str:
    return {FsType.EXT4: "e2fsck", FsType.XFS: "xfs_repair", FsType.BTRFS: "btrfs check"}[content.type]


# -- Upkeep of what is mounted at its path -------------------------------------------------------------------


def _plan_upkeep(
    observed: Observed, device: Device, wanted: Wanted, place: WantedMount, mount: Mount
) -> tuple[Step, ...]:
    if wanted.filesystem is not None and mount.fs_type != wanted.filesystem.type.value:
        return (
            Degrade(
                Reason.FILESYSTEM_MISMATCH,
                f"{mount.path} holds {mount.fs_type} and the policy wants {wanted.filesystem.type}.",
                hint=f"Say type: {mount.fs_type} in the policy to use it as it is.",
            ),
        )
    if observed.obstacle is not None:
        return (
            Degrade(
                Reason.PATH_IN_USE,
                f"It is mounted at {mount.path}, hidden beneath {observed.obstacle}.",
                hint=f"Unmount what covers it: umount {mount.path}",
            ),
        )
    if "ro" in mount.super_options and "ro" not in mount.options:
        # The kernel made it read-only after an error; making it writable again could spread the damage.
        return (
            Degrade(
                Reason.READ_ONLY,
                f"The filesystem at {mount.path} was made read-only by the kernel after an error.",
                hint="See the kernel log; save the data, then unmount and repair it.",
            ),
        )
    steps: list[Step] = []
    record = observed.format_record
    if record is not None and record.stage is FormatStage.INTENDED:
        steps.append(SettleFormat(record.uuid))
    if differs_by_remount(mount, place.options, observed.applied_options):
        steps.append(Remount(mount.path, mount.device_number, place.options))
    if wanted.grow and not place.is_read_only:
        steps += _plan_growth(observed.content, device, mount)
    if not place.is_read_only:
        steps += _plan_root_ownership(observed, place, mount)
    return (*steps, *_plan_tuning(observed, wanted), *_note_owner(observed))


def _plan_growth(content: Content | None, device: Device, mount: Mount) -> tuple[Step, ...]:
    if not isinstance(content, Filesystem):
        return ()
    steps: list[Step] = []
    room_bytes = device.size_bytes
    if content.partition is not None:
        partition = next(p for p in device.partitions if p.number == content.partition)
        end_bytes = device.size_bytes - PARTITION_SLACK_BYTES
        room_bytes = partition.size_bytes
        if len(device.partitions) == 1 and end_bytes - partition.start_bytes >= room_bytes + GROW_SLACK_BYTES:
            grown_bytes = end_bytes - partition.start_bytes
            steps.append(GrowPartition(partition.number, room_bytes, grown_bytes))
            room_bytes = grown_bytes
    if content.size_bytes is not None and room_bytes - content.size_bytes >= GROW_SLACK_BYTES:
        steps.append(
            GrowFilesystem(content.type, mount.path, content.size_bytes, room_bytes, content.partition)
        )
    return tuple(steps)


def _plan_root_ownership(observed: Observed, wanted: WantedMount, mount: Mount) -> tuple[Step, ...]:
    if observed.root_inode is None:
        return ()
    ids = observed.ids
    if _has_ownership(observed.root_inode, ids.uid, ids.gid, wanted.mode):
        return ()
    return (SetRootOwnership(mount.path, mount.device_number, ids.uid, ids.gid, wanted.mode),)


def _plan_tuning(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    now, want = observed.tuning, wanted.tune
    read_ahead = want.read_ahead_bytes if want.read_ahead_bytes != now.read_ahead_bytes else None
    scheduler = want.scheduler if want.scheduler != now.scheduler else None
    if read_ahead is None and scheduler is None:
        return ()
    return (Tune(read_ahead, scheduler),)


def _note_owner(observed: Observed) -> tuple[Step, ...]:
    if observed.ids.missing is None:
        return ()
    return (
        Degrade(
            Reason.UNKNOWN_OWNER,
            f"{observed.ids.missing} is not known on this node.",
            hint="Create it, or change owner and group in the policy; it is set as soon as it exists.",
        ),
    )


def _has_ownership(inode: RootInode | None, uid: int | None, gid: int | None, mode: int | None) -> bool:
    if uid is None and gid is None and mode is None:
        return True
    return (
        inode is not None
        and uid in {None, inode.uid}
        and gid in {None, inode.gid}
        and mode in {None, inode.mode}
    )
