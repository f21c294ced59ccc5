"""What to do with a volume that is mounted elsewhere than at its path: take it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.model import Reason
from agent.core.plan.in_use import find_other_mounts, name_other_mounts, name_processes
from agent.core.plan.keep_mounted import refuse_hidden
from agent.core.steps import Degrade, MoveMount, Unmount

if TYPE_CHECKING:
    from agent.core.model import Mount, Observed, Wanted, WantedMount
    from agent.core.steps import Step


def plan_move(observed: Observed, wanted: Wanted, mount: Mount) -> tuple[Step, ...]:
    """Plan for a mount of the agent (else it is excluded) at a path the policy no longer names."""
    if wanted.mount is None:
        return ()
    if observed.is_hidden:
        return (refuse_hidden(observed, mount),)
    if observed.obstacle is not None and not observed.ring:
        return (_degrade_move(mount, wanted.mount, f"{observed.obstacle} is there"),)
    if observed.processes:
        return (_degrade_move(mount, wanted.mount, f"{name_processes(observed.processes)} use it"),)
    if _is_within(mount.path, wanted.mount.path) or _is_within(wanted.mount.path, mount.path):
        if find_other_mounts(observed, mount):
            return (_degrade_move(mount, wanted.mount, name_other_mounts(observed, mount)),)
        # At both places at once, as a move has it for a moment, one would hide the other, or lie on it.
        return (Unmount(mount),)
    return (MoveMount(mount.path, wanted.mount.path, observed.ring),)


def _is_within(path: str, directory: str) -> bool:
    return path.startswith(f"{directory.rstrip('/')}/")


def _degrade_move(mount: Mount, wanted: WantedMount, why: str) -> Degrade:
    return Degrade(
        Reason.PATH_IN_USE,
        f"It is mounted at {mount.path} and cannot move to {wanted.path}: {why}.",
        hint="End what is in the way, or put the old path back in the policy.",
    )
