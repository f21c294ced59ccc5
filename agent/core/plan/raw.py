"""What to do with a volume that is to be raw, and with one that was: whoever was given it may have it yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.model import Reason
from agent.core.plan.in_use import find_other_mounts, name_other_mounts, name_processes
from agent.core.plan.keep_mounted import has_ownership, note_owner, plan_tuning
from agent.core.plan.who_wants import explain_raw
from agent.core.plan.whose_volume import (
    find_exclusion,
    find_raw_exclusion,
    find_wait_for_owner,
    refuse_excluded,
)
from agent.core.steps import (
    EndRaw,
    Link,
    NoteRaw,
    Refuse,
    RestoreNodeOwnership,
    SetNodeOwnership,
    Unlink,
    Unmount,
)

if TYPE_CHECKING:
    from agent.core.model import Observed, Wanted
    from agent.core.steps import Step, Wait


def plan_raw(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    """Plan for a volume with a block entry: it is noted before anybody is given it."""
    obstruction = _find_obstruction(observed, wanted)
    if obstruction is not None and _is_own_unused_mount(observed):
        return (Unmount(observed.mounts[0]), obstruction)
    if obstruction is not None:
        return (obstruction,)
    is_noted = observed.raw is not None and observed.raw.node_owner is not None
    return (
        *(() if is_noted else (NoteRaw(),)),
        *(() if wanted.name in observed.links else (Link(wanted.name),)),
        *_plan_node_ownership(observed, wanted),
        *plan_tuning(observed, wanted),
        *note_owner(observed),
    )


def plan_taking_back(observed: Observed, wanted: Wanted | None) -> tuple[Step, ...]:
    """Plan for the node of a volume that is raw no longer, or is mounted: nobody is to open it any more.

    Whose mount it is makes no difference. What is another's by now is left as it is, and so is a volume of
    which it is yet to be told, by AWS or by what says which node this is, whether an entry means it.
    """
    note = observed.raw
    if note is None or note.node_owner is None or find_raw_exclusion(observed, wanted) is not None:
        return ()
    if _may_be_wanted_raw(observed, wanted):
        return ()
    if wanted is not None and wanted.block is not None and observed.mounted_at is None:
        return ()
    return (RestoreNodeOwnership(note.node_owner),)


def plan_unlinking(observed: Observed, wanted: Wanted | None) -> tuple[Step, ...]:
    """Plan for links by which nobody is to reach the volume; whoever was given it raw may still be to."""
    if _may_be_wanted_raw(observed, wanted) and not observed.mounts:
        return ()
    return tuple(Unlink(path) for path in sorted(observed.wrong_links))


def _may_be_wanted_raw(observed: Observed, wanted: Wanted | None) -> bool:
    """Tell whether it is yet to be told which entry means a volume that was handed out raw."""
    is_handed_out = observed.raw is not None and observed.raw.node_owner is not None
    return wanted is None and is_handed_out and (observed.is_origin_awaited or observed.is_entry_awaited)


def plan_end(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    """Plan for a volume that is to hold a filesystem and was handed out raw: first of all nobody has it."""
    return () if observed.raw is None or wanted.filesystem is None else (EndRaw(),)


def _find_obstruction(observed: Observed, wanted: Wanted) -> Refuse | Wait | None:
    exclusion = find_raw_exclusion(observed, wanted)
    if exclusion is not None:
        return refuse_excluded(exclusion)
    if observed.mounted_at is not None:
        return _refuse_mounted(observed, wanted)
    is_exposed = wanted.name in observed.links
    return None if is_exposed else find_wait_for_owner(observed, wanted)


def _is_own_unused_mount(observed: Observed) -> bool:
    """Tell whether the volume is mounted by the agent itself, where nobody uses it: of no use any more."""
    if observed.mounted_at is None or not observed.mounts or find_exclusion(observed) is not None:
        return False
    # Nobody else's, then the first of its mounts is the noted one.
    is_used = observed.processes or find_other_mounts(observed, observed.mounts[0])
    return not (is_used or observed.is_hidden or observed.is_frozen)


def _refuse_mounted(observed: Observed, wanted: Wanted) -> Refuse:
    users = f", and {name_processes(observed.processes)} use it" if observed.processes else ""
    if observed.mounts and find_other_mounts(observed, observed.mounts[0]):
        users += f", and {name_other_mounts(observed, observed.mounts[0])}"
    return Refuse(
        Reason.DEVICE_BUSY,
        f"{observed.volume_id} is to be raw and is mounted {observed.mounted_at}{users}: whoever wrote to"
        " the device would destroy the filesystem.",
        hint=explain_raw(wanted),
    )


def _plan_node_ownership(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    """Plan for owner, group and mode; what the policy names no more is what it was before."""
    uid, gid = observed.ids.uid, observed.ids.gid
    mode = None if wanted.block is None else wanted.block.mode
    before = None if observed.raw is None else observed.raw.node_owner
    if before is not None and observed.ids.missing is None:  # else which one is wanted is not known now
        uid = before.uid if uid is None else uid
        gid = before.gid if gid is None else gid
        mode = before.mode if mode is None else mode
    if has_ownership(observed.node_owner, uid, gid, mode):
        return ()
    return (SetNodeOwnership(uid, gid, mode),)
