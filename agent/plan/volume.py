"""The order of the rules for one volume, and those for one that is absent or raw."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agent.frozen import hint_at_thaw, tell_frozen
from agent.model import Blank, Condition, Reason
from agent.plan.content import plan_content
from agent.plan.ownership import (
    find_exclusion,
    find_raw_exclusion,
    find_wait_for_owner,
    refuse_excluded,
)
from agent.plan.upkeep import (
    has_ownership,
    name_processes,
    note_owner,
    plan_move,
    plan_tuning,
    plan_upkeep,
)
from agent.steps import Format, Link, Plan, Refuse, SetNodeOwnership, Unlink, Unmount, Wait

if TYPE_CHECKING:
    from agent.model import Device, Mount, Observed, Wanted, WantedMount
    from agent.steps import Step


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


def needs_proof(observed: Observed, wanted: Wanted) -> bool:
    """Tell whether anything would follow from a proof that the volume is blank; only formatting it does.

    A proof reads hundreds of MiB, from S3 where the volume was just made from a snapshot. So whatever forbids
    to format a volume is found first, each time.
    """
    proven = make_plan(replace(observed, content=Blank(0)), wanted)
    return any(isinstance(step, Format) for step in proven.steps)


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
    if wanted is not None and wanted.block is not None and _find_raw_obstruction(observed, wanted) is None:
        paths.append(wanted.name)
    return tuple(Link(path) for path in paths if path not in observed.links)


# -- Raw volumes ---------------------------------------------------------------------------------------------


def _plan_raw(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    obstruction = _find_raw_obstruction(observed, wanted)
    if obstruction is not None and _is_own_unused_mount(observed):
        return (Unmount(observed.mounts[0]), obstruction)
    if obstruction is not None:
        return (obstruction,)
    return (*_plan_node_ownership(observed, wanted), *plan_tuning(observed, wanted), *note_owner(observed))


def _find_raw_obstruction(observed: Observed, wanted: Wanted) -> Refuse | Wait | None:
    exclusion = find_raw_exclusion(observed)
    if exclusion is not None:
        return refuse_excluded(exclusion)
    if observed.mounted_at is not None:
        return _refuse_mounted(observed)
    is_exposed = wanted.name in observed.links
    return None if is_exposed else find_wait_for_owner(observed, wanted)


def _is_own_unused_mount(observed: Observed) -> bool:
    """Tell whether the volume is mounted by the agent itself, where nobody uses it: of no use any more."""
    if observed.mounted_at is None or find_exclusion(observed) is not None:
        return False
    # Nobody else's, then the first of its mounts is the noted one.
    is_own = bool(observed.mounts)
    return is_own and not observed.is_hidden and not observed.is_frozen and not observed.processes


def _refuse_mounted(observed: Observed) -> Refuse:
    users = f", and {name_processes(observed.processes)} use it" if observed.processes else ""
    return Refuse(
        Reason.DEVICE_BUSY,
        f"{observed.volume_id} is to be raw and is mounted {observed.mounted_at}{users}: whoever wrote to"
        " the device would destroy the filesystem.",
        hint="Unmount it there, or give it a filesystem entry in the policy.",
    )


def _plan_node_ownership(observed: Observed, wanted: Wanted) -> tuple[Step, ...]:
    ids = observed.ids
    mode = None if wanted.block is None else wanted.block.mode
    if has_ownership(observed.node_owner, ids.uid, ids.gid, mode):
        return ()
    return (SetNodeOwnership(ids.uid, ids.gid, mode),)


# -- Filesystems ---------------------------------------------------------------------------------------------


def _plan_mounted(observed: Observed, device: Device, wanted: Wanted) -> tuple[Step, ...]:
    exclusion = find_exclusion(observed)
    if exclusion is not None:
        return (refuse_excluded(exclusion),)
    if device.identity.is_shared or (observed.origin is not None and observed.origin.is_multi_attach):
        return (
            Refuse(
                Reason.MULTI_ATTACH,
                f"{observed.volume_id} can be attached to several instances; a filesystem mounted on two of"
                " them is destroyed.",
                hint="Use a block entry for it, or a volume without multi-attach.",
            ),
        )
    if observed.is_frozen and observed.mounts and not observed.is_hidden:
        return (_wait_for_thaw(observed, observed.mounts[0]),)
    here = _find_mount_at_path(observed, wanted.mount)
    if here is not None and wanted.mount is not None:
        return plan_upkeep(observed, device, wanted, wanted.mount, here)
    if observed.mounts:
        return plan_move(observed, wanted, observed.mounts[0])
    waiting = find_wait_for_owner(observed, wanted)
    if waiting is not None:
        return (waiting,)
    return plan_content(observed, device, wanted)


def _wait_for_thaw(observed: Observed, mount: Mount) -> Wait:
    # Unmounted, or elsewhere, it would not be found by whoever comes to thaw it.
    return Wait(
        Reason.FROZEN,
        tell_frozen(observed.volume_id, mount.path),
        hint=hint_at_thaw(mount.path),
        condition=Condition.FAILED,
    )


def _find_mount_at_path(observed: Observed, wanted: WantedMount | None) -> Mount | None:
    if wanted is None:
        return None
    return next((mount for mount in observed.mounts if mount.path == wanted.path), None)
