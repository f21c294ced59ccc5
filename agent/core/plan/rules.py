"""The order of the rules for one volume, and those for one that is absent or raw."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.frozen_filesystem import hint_at_thaw, tell_frozen
from agent.core.model import Blank, Condition, Reason
from agent.core.plan.keep_mounted import plan_upkeep
from agent.core.plan.move_mount import plan_move
from agent.core.plan.prepare import plan_content
from agent.core.plan.raw import plan_end, plan_raw, plan_taking_back, plan_unlinking
from agent.core.plan.whose_volume import find_exclusion, find_wait_for_owner, refuse_excluded
from agent.core.replace import replace
from agent.core.steps import Format, Link, Plan, Refuse, Unmount, Wait

if TYPE_CHECKING:
    from agent.core.model import Device, Mount, Observed, Wanted, WantedMount
    from agent.core.steps import Step


def make_plan(observed: Observed, wanted: Wanted | None) -> Plan:
    """Return what to do about one volume now; empty steps when it is as wanted.

    Only its ``next_actions`` may be executed before looking again: the later ones show what is expected to
    follow.
    """
    stale: tuple[Step, ...] = (
        *(Unmount(mount, is_stale=True) for mount in observed.stale_mounts),
        *plan_unlinking(observed, wanted),
    )
    if observed.device is None:
        return _plan_absent(observed, wanted, stale)
    steps = (*stale, *_plan_link_by_id(observed), *plan_taking_back(observed, wanted))
    if wanted is None:
        return Plan(steps, settled=Condition.UNMANAGED)
    if wanted.block is not None:
        return Plan((*steps, *plan_raw(observed, wanted)))
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


def _plan_link_by_id(observed: Observed) -> tuple[Step, ...]:
    """Every volume is linked by its ID; a raw one by its policy name as well, once it is handed out."""
    path = f"by-id/{observed.volume_id}"
    return () if path in observed.links else (Link(path),)


# -- Filesystems ---------------------------------------------------------------------------------------------


def _plan_mounted(observed: Observed, device: Device, wanted: Wanted) -> tuple[Step, ...]:
    exclusion = find_exclusion(observed, wanted)
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
    if observed.mounts and wanted.is_kubelets:
        return (_refuse_elsewhere(observed, observed.mounts[0]),)
    if observed.mounts:
        return plan_move(observed, wanted, observed.mounts[0])
    waiting = find_wait_for_owner(observed, wanted)
    if waiting is not None:
        return (waiting,)
    return plan_end(observed, wanted) or plan_content(observed, device, wanted)


def _refuse_elsewhere(observed: Observed, mount: Mount) -> Refuse:
    # It may be a pod's: what kubelet has is moved by nobody.
    return Refuse(
        Reason.DEVICE_BUSY,
        f"{observed.volume_id} is mounted at {mount.path}, and kubelet wants it elsewhere.",
        hint="Take it out of the policy, or end the pods that have it; it is used once it is unmounted.",
    )


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
