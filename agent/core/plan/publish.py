"""What to do so that a pod sees a volume that is staged for kubelet, and so that it can be taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.model import Reason
from agent.core.mount_options import OF_A_VIEW, split_options
from agent.core.plan.keep_mounted import refuse_hidden
from agent.core.plan.whose_volume import find_exclusion, find_raw_exclusion, refuse_excluded
from agent.core.steps import Plan, Publish, PublishNode, Refuse, Unmount, Wait

if TYPE_CHECKING:
    from agent.core.model import Mount, Observed, Wanted, WantedView
    from agent.core.steps import Step

_DEAD = frozenset({"shutdown", "emergency_ro"})
"""What a filesystem shows that an error has ended."""


def plan_publish(observed: Observed, wanted: Wanted, view: WantedView) -> Plan:
    """Return what to do so that the volume is seen at the view's path; nothing where it is, just so."""
    if observed.device is None:
        return Plan(
            (Wait(Reason.NOT_ATTACHED, f"{observed.volume_id} is not attached to this node any more."),)
        )
    if wanted.block is not None:
        return Plan(_plan_node(observed, wanted, view))
    exclusion = find_exclusion(observed, wanted)
    if exclusion is not None:
        return Plan((refuse_excluded(exclusion),))
    place = "" if wanted.mount is None else wanted.mount.path
    staged = next((mount for mount in observed.mounts if mount.path == place), None)
    if staged is None:
        return Plan((_refuse_unstaged(observed, wanted, place),))
    if observed.is_hidden:
        return Plan((refuse_hidden(observed, staged),))
    return Plan(_plan_view(observed, wanted, staged, view))


def _plan_view(observed: Observed, wanted: Wanted, staged: Mount, view: WantedView) -> tuple[Step, ...]:
    dead = staged.super_options & _DEAD
    is_read_only_by_error = "ro" in staged.super_options and "ro" not in staged.options
    # A volume of kubelet's is mended by staging it anew. One of the policy is not, and can still be read.
    may_be_read = view.is_read_only and not wanted.is_kubelets
    if dead or (is_read_only_by_error and not may_be_read):
        mending = "when it is staged anew, once no pod has it"
        return (
            Refuse(
                Reason.SHUT_DOWN if "shutdown" in dead else Reason.READ_ONLY,
                f"The filesystem of {observed.volume_id} was ended or made read-only by an error.",
                hint="See the kernel log."
                f" It is checked {mending if wanted.is_kubelets else 'once it is unmounted everywhere'}.",
            ),
        )
    if staged.is_read_only and not view.is_read_only:
        how, whose = ("staged", "its volume") if wanted.is_kubelets else ("mounted", f"{wanted.name!r}")
        return (
            Refuse(
                Reason.READ_ONLY,
                f"{observed.volume_id} is {how} read-only, and is to be published writable.",
                hint=f"Let the pod mount it read-only, or take ro out of the mount options of {whose}.",
            ),
        )
    there = [mount for mount in observed.views if mount.path == view.path]
    if there:
        return _compare(observed, there[-1], view, is_same=there[-1].root == staged.root)
    inherited = OF_A_VIEW & staged.options
    own = split_options(view.options)[0] & OF_A_VIEW
    read_only = frozenset({"ro"} if view.is_read_only else ())
    return (Publish(staged, view.path, tuple(sorted(inherited | own | read_only))),)


def _plan_node(observed: Observed, wanted: Wanted, view: WantedView) -> tuple[Step, ...]:
    exclusion = find_raw_exclusion(observed, wanted)
    if exclusion is not None:
        return (refuse_excluded(exclusion),)
    if observed.raw is None or observed.mounted_at is not None:
        return (
            _refuse_unstaged(
                observed, wanted, observed.mounted_at and f"a device: it is mounted {observed.mounted_at}"
            ),
        )
    there = [mount for mount in observed.views if mount.path == view.path]
    if there:
        return _compare(observed, there[-1], view, is_same=there[-1].fs_type == "devtmpfs")
    return (PublishNode(view.path, view.is_read_only),)


def _compare(observed: Observed, there: Mount, view: WantedView, *, is_same: bool) -> tuple[Step, ...]:
    if is_same and ("ro" in there.options) == view.is_read_only:
        return ()
    how = "read-only" if "ro" in there.options else "writable"
    return (
        Refuse(
            Reason.PATH_IN_USE,
            f"{observed.volume_id} is at {view.path} already, {how}{'' if is_same else ', in part'}.",
            hint="NodeUnpublishVolume comes first; kubelet asks for it when the pod is gone.",
        ),
    )


def _refuse_unstaged(observed: Observed, wanted: Wanted, place: str | None) -> Refuse:
    if not wanted.is_kubelets:
        return Refuse(
            Reason.NOT_STAGED,
            f"{observed.volume_id} of {wanted.name!r} is not at {place or 'its place'} any more.",
            hint="ebs-agent status tells how it is; kubelet asks again by itself.",
        )
    return Refuse(
        Reason.NOT_STAGED,
        f"{observed.volume_id} is not staged at {place or 'its path'}.",
        hint="NodeStageVolume comes first; kubelet asks for it when the pod is made anew.",
    )


def plan_unstage(observed: Observed, path: str) -> Plan:
    """Return what to do so that nothing of the volume is mounted; who holds its device is asked after that.

    What is somebody else's by now is nothing of ours, and is left.
    """
    stale = tuple(Unmount(mount, is_stale=True) for mount in observed.stale_mounts)
    if observed.device is None or observed.exclusion is not None:
        return Plan(stale)
    staying = tuple(mount for mount in observed.views if mount.path != path)
    if observed.mounts and observed.mounts[0].path == path:
        staying = tuple(mount for mount in staying if mount not in observed.going)
    views = [mount.path for mount in staying]
    if views:
        more = f" and {len(views) - 3} more places" if len(views) > 3 else ""  # noqa: PLR2004
        return Plan(
            (
                *stale,
                Refuse(
                    Reason.DEVICE_BUSY,
                    f"{observed.volume_id} is still published at {', '.join(views[:3])}{more}.",
                    hint="NodeUnpublishVolume comes first; what no pod of kubelet's has: umount it there.",
                ),
            )
        )
    staged = tuple(Unmount(mount) for mount in observed.mounts if mount.path == path)
    return Plan((*stale, *staged))
