"""Takes a volume from who uses it on the node: what it may not be taken from, unmounting and flushing."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import Mount, Observed, Process, Reason, VolumeId
from agent.core.plan.in_use import name_parts
from agent.core.replace import replace
from agent.core.steps import Relinquish, Unmount
from agent.loop.passes import Session
from agent.node.isolate.workers import Workers
from agent.node.mounts.mount_users import find_processes

_SEARCH_TIMEOUT_S = 10.0
_HANDS_OFF = frozenset({Reason.ROOT_DEVICE, Reason.INSTANCE_STORE, Reason.MANAGED_BY_CSI})
"""What the device is used for tells it where no tag does: a volume somebody made for the CSI driver carries
none, and nor does what HyperPod itself attaches to its nodes and mounts at /opt/sagemaker."""


def check_ours(observed: Observed, sentence: str = "", hint: str | None = None) -> None:
    """Raise RefusedError, which begins with ``sentence``, for what is not anybody's to touch by the agent."""
    exclusion = observed.exclusion
    if exclusion is not None and exclusion.reason in _HANDS_OFF:
        raise RefusedError(
            f"{sentence}{exclusion.message}",
            hint or exclusion.hint,
            exclusion.reason,
            retryable=False,
            exit_code=ExitCode.REFUSED,
        )


def check_unshown(observed: Observed) -> None:
    """Raise RefusedError for a volume of the policy that pods have: it is not taken away from under them."""
    if observed.shown:
        places = [mount.path for mount in observed.shown]
        more = f" and {len(places) - 3} more places" if len(places) > 3 else ""  # noqa: PLR2004
        raise RefusedError(
            f"{observed.volume_id} is published to pods, at {', '.join(places[:3])}{more}.",
            "End those pods, or move them to another node (kubectl drain), and try again.",
            Reason.DEVICE_BUSY,
            retryable=False,
            exit_code=ExitCode.REFUSED,
        )


def check_whole(observed: Observed) -> None:
    """Raise where somebody has a part of it mounted, too: unmounted here, it would not be mounted again."""
    places = name_parts(observed)
    if places is not None:
        message = f"A part of {observed.volume_id} is mounted at {places}."
        raise AgentError(message, "Unmount that first (findmnt shows it), and try again.", Reason.DEVICE_BUSY)


async def release_all_uses(session: Session, observed: Observed) -> None:
    """Unmount the volume, innermost mounts first, then see that nobody has its device, and flush it."""
    for mount in sorted(observed.mounts, key=lambda mount: mount.mount_id, reverse=True):
        await session.execute(Unmount(mount), observed)
    observed = await session.observe(None)
    if observed.device is not None:
        await session.execute(Relinquish(), observed)


async def name_users(
    workers: Workers, volume_id: VolumeId, error: AgentError, mounts: Iterable[Mount]
) -> AgentError:
    """Return the error with the names of those who use the mounts, where any is found."""
    users: list[Process] = []
    for mount in mounts:
        with suppress(AgentError):  # who is in the way need not be found for it to be so
            users += await workers.call(
                find_processes,
                mount.path,
                mount.device_number,
                timeout_s=_SEARCH_TIMEOUT_S,
                subject=mount.path,
            )
    if not users:
        return error
    names = ", ".join(user.describe() for user in users[:10])
    return replace(
        error,
        message=f"{volume_id} is in use by {names}.",
        hint="End them, or let them leave the mount, and try again.",
    )
