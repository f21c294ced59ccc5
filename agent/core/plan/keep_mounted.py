"""What to do with a volume that is mounted at its path: keep it as wanted while it is used."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from agent.core.model import Filesystem, Foreign, FormatStage, Reason
from agent.core.mount_options import (
    ParameterChange,
    compare_parameters,
    differs_by_attributes,
    needs_check_first,
)
from agent.core.plan.in_use import find_other_mounts, name_other_mounts, name_processes
from agent.core.plan.who_wants import (
    explain_leaving_alone,
    explain_read_only,
    explain_type,
    name_wanter,
)
from agent.core.steps import (
    Check,
    Degrade,
    GrowFilesystem,
    GrowPartition,
    Refuse,
    Remount,
    SetRootOwnership,
    SettleFormat,
    Tune,
    Unmount,
)
from agent.core.units import MIB

if TYPE_CHECKING:
    from agent.core.model import Content, Device, Mount, Observed, RootInode, Wanted, WantedMount
    from agent.core.steps import Step

GROW_SLACK_BYTES = 16 * MIB
"""A filesystem this close to the end of its device fills it: ext4 drops a last block group too small for its
own tables, xfs a last allocation group under 64 blocks. EBS sizes differ by whole GiB."""

PARTITION_SLACK_BYTES = 1 * MIB
"""Room that partitioning tools leave at the end: the backup GPT header and 1 MiB alignment."""


def plan_upkeep(
    observed: Observed, device: Device, wanted: Wanted, place: WantedMount, mount: Mount
) -> tuple[Step, ...]:
    """Plan for a volume mounted at its path."""
    if observed.obstacle is not None:
        return (refuse_hidden(observed, mount),)
    if wanted.filesystem is not None and mount.fs_type != wanted.filesystem.type.value:
        return (
            Degrade(
                Reason.FILESYSTEM_MISMATCH,
                f"{mount.path} holds {mount.fs_type} and {name_wanter(wanted)} wants"
                f" {wanted.filesystem.type}.",
                hint=explain_type(wanted, mount.fs_type),
            ),
        )
    if "ro" in mount.super_options and "ro" not in mount.options:
        # The kernel made it read-only after an error; making it writable again could spread the damage.
        return (
            Degrade(
                Reason.READ_ONLY,
                f"The filesystem at {mount.path} was made read-only by the kernel after an error.",
                hint="See the kernel log; save the data, then:"
                f" umount {shlex.quote(mount.path)}; it is checked and mounted again.",
            ),
        )
    if isinstance(observed.content, Foreign):
        return (
            Degrade(
                Reason.FILESYSTEM_MISMATCH,
                f"{mount.path} holds {observed.content.what}; the agent leaves it as it is.",
                hint=f"{explain_leaving_alone(wanted)}, or copy its data to one that needs no other device.",
            ),
        )
    if needs_check_first(mount, place.options):
        return _plan_check_first(observed, device, wanted, mount)
    steps: list[Step] = []
    record = observed.format_record
    if record is not None and record.stage is FormatStage.INTENDED:
        steps.append(SettleFormat(record.uuid))
    # Before the note is written anew: only by that one is it known whose the other mount is.
    steps += _plan_end_of_move(observed)
    change = _find_change(mount, place, observed.applied_options)
    if differs_by_attributes(mount, place.options) or change.added or change.undone:
        options = tuple(option for option in place.options if option not in change.missing)
        steps.append(Remount(mount.path, mount.device_number, options, change.undone, change.left))
    if not place.is_read_only:
        steps += _plan_root_ownership(observed, place, mount)
    steps += plan_tuning(observed, wanted)
    if wanted.grow and not place.is_read_only:
        # Last: where it cannot grow nothing else is left undone.
        steps += _plan_growth(observed.content, device, mount)
    notes = (
        *note_owner(observed),
        *_note_left_behind(observed, mount),
        *_note_panic(observed, mount),
        *_note_options(wanted, mount, change),
    )
    return (*steps, *notes)


def _plan_check_first(observed: Observed, device: Device, wanted: Wanted, mount: Mount) -> tuple[Step, ...]:
    """Plan for a filesystem that is to be written to from now on: only what is unmounted can be checked."""
    reason, state = Reason.READ_ONLY, "read-only and is to be writable"
    if not mount.is_read_only:
        reason, state = Reason.OPTIONS_NOT_IN_FORCE, "without its journal, and a crash loses data"
    why = ""
    if device.is_read_only:
        why = f"{device.path} itself is read-only"
    elif observed.processes:
        users = name_processes(observed.processes)
        why = f"a check comes first, for which it is unmounted, and {users} use it"
    elif find_other_mounts(observed, mount):
        why = f"a check comes first, for which it is unmounted, and {name_other_mounts(observed, mount)}"
    if why:
        return (
            Degrade(
                reason,
                f"{mount.path} is mounted {state}: {why}.",
                hint=f"End what is in the way, or {explain_read_only(wanted)}.",
            ),
        )
    content = observed.content
    check = (Check(content.type, content.partition),) if isinstance(content, Filesystem) else ()
    return (Unmount(mount), *check)


def _find_change(mount: Mount, place: WantedMount, applied: tuple[str, ...] | None) -> ParameterChange:
    """Return what is to change of the parameters; of a mount the agent did not make they are left alone."""
    return ParameterChange() if applied is None else compare_parameters(mount, place.options, applied)


def _note_options(wanted: Wanted, mount: Mount, change: ParameterChange) -> tuple[Step, ...]:
    """Say which options only a new mount brings, or takes away."""
    wanter = name_wanter(wanted)
    without = f"without {', '.join(change.missing)}, which {wanter} wants" if change.missing else ""
    beside = f"with {', '.join(change.left)}, which it does not name any more" if change.left else ""
    how = " and ".join(filter(None, (without, beside)))
    if not how:
        return ()
    return (
        Degrade(
            Reason.OPTIONS_NOT_IN_FORCE,
            f"{mount.path} is mounted {how}. No remount changes that.",
            hint="It takes effect when it is mounted anew, as at the next boot. To have it now, end what uses"
            f" it and: umount {shlex.quote(mount.path)}; the agent checks and mounts it again.",
        ),
    )


def _note_panic(observed: Observed, mount: Mount) -> tuple[Step, ...]:
    """Say so where an error of this one filesystem would end the whole node.

    ext4 shows ``errors=`` only where it is another than its superblock says. What the agent itself has asked
    for is never that.
    """
    content = observed.content
    shown = {option for option in mount.super_options if option.startswith(("errors=", "fatal_errors="))}
    is_overridden = any(
        option.startswith("errors=") for option in (*shown, *(observed.applied_options or ()))
    )
    is_panicking = isinstance(content, Filesystem) and content.is_panicking and not is_overridden
    if not (is_panicking or shown & {"errors=panic", "fatal_errors=panic"}):
        return ()
    return (
        Degrade(
            Reason.PANIC_ON_ERROR,
            f"An error of the filesystem at {mount.path} makes the kernel panic, which ends the node.",
            hint=f"mount -o remount,errors=remount-ro {shlex.quote(mount.path)}",
        ),
    )


def _plan_growth(content: Content | None, device: Device, mount: Mount) -> tuple[Step, ...]:
    if not isinstance(content, Filesystem):
        return ()
    if content.partition is None:
        return _plan_filling(content, mount, content.size_bytes, device.size_bytes)
    partition = next(p for p in device.partitions if p.number == content.partition)
    # What it has room for already, first: its partition may not be able to grow.
    steps = _plan_filling(content, mount, content.size_bytes, partition.size_bytes)
    grown_bytes = device.size_bytes - PARTITION_SLACK_BYTES - partition.start_bytes
    if len(device.partitions) > 1 or grown_bytes < partition.size_bytes + GROW_SLACK_BYTES:
        return steps
    size_bytes = partition.size_bytes if steps else content.size_bytes
    return (
        *steps,
        GrowPartition(partition.number, partition.size_bytes, grown_bytes),
        *_plan_filling(content, mount, size_bytes, grown_bytes),
    )


def _plan_filling(
    content: Filesystem, mount: Mount, size_bytes: int | None, room_bytes: int
) -> tuple[Step, ...]:
    """Plan for a filesystem that is smaller than the room it has; None where its size is not known."""
    if size_bytes is None or room_bytes - size_bytes < GROW_SLACK_BYTES:
        return ()
    return (GrowFilesystem(content.type, mount.path, size_bytes, room_bytes, content.partition),)


def _plan_root_ownership(observed: Observed, wanted: WantedMount, mount: Mount) -> tuple[Step, ...]:
    if observed.root_inode is None:
        return ()
    ids = observed.ids
    if has_ownership(observed.root_inode, ids.uid, ids.gid, wanted.mode):
        return ()
    return (SetRootOwnership(mount.path, mount.device_number, ids.uid, ids.gid, wanted.mode),)


def _plan_end_of_move(observed: Observed) -> tuple[Step, ...]:
    """Plan for what a move that was cut off left: mounted at the new path, and still at the old one."""
    if observed.cut_off is None:
        return ()
    if observed.processes:
        return (
            Degrade(
                Reason.PATH_IN_USE,
                f"It is still mounted at {observed.cut_off.path} too: {name_processes(observed.processes)}"
                " use it there.",
                hint="End them; that mount is then taken away by itself.",
            ),
        )
    return (Unmount(observed.cut_off),)


def plan_tuning(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    """Plan for read-ahead and scheduler; what the policy does not name stays as it is."""
    now, want = observed.tuning, wanted.tune
    read_ahead = want.read_ahead_bytes if want.read_ahead_bytes != now.read_ahead_bytes else None
    scheduler = want.scheduler if want.scheduler != now.scheduler else None
    if read_ahead is None and scheduler is None:
        return ()
    return (Tune(read_ahead, scheduler),)


def note_owner(observed: Observed) -> tuple[Step, ...]:
    """Say so where the owner or group that is wanted is not known here."""
    if observed.ids.missing is None:
        return ()
    return (
        Degrade(
            Reason.UNKNOWN_OWNER,
            f"{observed.ids.missing} is not known on this node.",
            hint="Create it, or change owner and group in the policy; it is set as soon as it exists.",
        ),
    )


def _note_left_behind(observed: Observed, mount: Mount) -> tuple[Step, ...]:
    """Name the programs that hold on to what was mounted before the volume vanished and came back."""
    if not observed.left_behind:
        return ()
    return (
        Degrade(
            Reason.STALE_MOUNT,
            f"{mount.path} is in use again, and {name_processes(observed.left_behind)} had it open when its"
            " device vanished and get nothing but errors.",
            hint="Restart them: what they have open is what was mounted before.",
        ),
    )


def has_ownership(inode: RootInode | None, uid: int | None, gid: int | None, mode: int | None) -> bool:
    """Tell whether an inode has the owner, group and mode that are wanted, as far as any are."""
    if uid is None and gid is None and mode is None:
        return True
    return (
        inode is not None
        and uid in {None, inode.uid}
        and gid in {None, inode.gid}
        and mode in {None, inode.mode}
    )


def refuse_hidden(observed: Observed, mount: Mount) -> Refuse:
    """Refuse a volume whose mount is covered by another one."""
    # Not usable: whoever goes by the path gets what covers it, and writes there what belongs on the volume.
    return Refuse(
        Reason.PATH_IN_USE,
        f"{observed.volume_id} is mounted at {mount.path}, hidden beneath {observed.obstacle}.",
        hint="Unmount what covers it (findmnt shows what is mounted where); it is ready again by itself.",
    )
