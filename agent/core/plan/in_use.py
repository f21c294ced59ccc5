"""Who is in the way of an unmount, and where else a volume is mounted: named for those who are to end it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.quoting import make_printable

if TYPE_CHECKING:
    from agent.core.model import Mount, Observed, Process


def name_processes(processes: tuple[Process, ...]) -> str:
    """Return the first few by name and number, and how many more there are."""
    names = ", ".join(f"{process.name} ({process.pid})" for process in processes[:5])
    more = len(processes) - 5
    return f"{names} and {more} more" if more > 0 else names


def find_other_mounts(observed: Observed, mount: Mount) -> tuple[Mount, ...]:
    """Return what keeps the volume mounted when ``mount`` is gone: where pods have it first, then the others.

    Whoever made them uses the volume there, whole or in part. Unmounted here alone it could neither be
    checked nor mounted again: what is left is nobody's that the agent knows. What is unmounted with it, as
    where its directory is bound elsewhere, keeps nothing. ``mount`` is the first of its mounts.
    """
    known = (*observed.shown, *observed.going)
    others = (one for one in observed.views if one.mount_id != mount.mount_id and one not in known)
    return (*observed.shown, *others)


def name_other_mounts(observed: Observed, mount: Mount) -> str:
    """Return, as a clause, where else it is mounted: one place, and how many more there are."""
    others = find_other_mounts(observed, mount)
    if observed.shown:
        return f"pods have it at {_name_places(others)}"
    what = "it" if others[0].root == mount.root else "a part of it"
    return f"{what} is mounted at {_name_places(others)} too"


def name_parts(observed: Observed) -> str | None:
    """Return where no more than a part of a mounted volume is mounted, which is nobody's that is known."""
    parts = tuple(view for view in observed.views if view not in observed.mounts)
    return _name_places(parts) if observed.mounts and parts else None


def _name_places(mounts: tuple[Mount, ...]) -> str:
    more = len(mounts) - 1
    places = f" and {more} more {'place' if more == 1 else 'places'}" if more else ""
    return f"{make_printable(mounts[0].path)}{places}"
