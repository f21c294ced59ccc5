"""Rules about room: how much space and how many files are left, and for how long.

Where the policy wants nothing written, nothing needs room: a volume may be as large as what is on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.model import Condition, Reason
from agent.core.units import show_duration, show_size
from agent.node.sampling.values import MountSample
from agent.report.board.readings import Reading, Verdict
from agent.report.health.verdicts.sample_window import Window

FULL_AT, FULL_UNTIL = 0.95, 0.93
FILLING_AT, FILLING_UNTIL = 0.80, 0.75
"""From this much on, and no earlier, it counts when the space will be used up."""
FORECAST_S = 3600.0
FORECAST_FROM_S = 120.0
"""A rate measured over less than this is a burst."""
FILES_FULL_AT, FILES_FULL_UNTIL = 0.95, 0.93


def find_nearly_full(window: Window, is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one with little space left, or where what is left will not last an hour."""
    mount = window.mount
    if mount is None or not mount.size_bytes or window.subject.is_read_only:
        return None
    used = 1 - mount.avail_bytes / mount.size_bytes
    left_s = forecast_full_s(window.readings)
    is_filling = left_s is not None and left_s < FORECAST_S * (2 if is_held else 1)
    is_full = used >= (FULL_UNTIL if is_held else FULL_AT)
    if not is_full and not (is_filling and used >= (FILLING_UNTIL if is_held else FILLING_AT)):
        return None
    when = "" if left_s is None else f", and will be full in {show_duration(left_s)} at this rate"
    return Verdict(
        Condition.DEGRADED,
        Reason.NEARLY_FULL,
        f"{mount.path} is {used:.0%} full: {show_size(mount.avail_bytes)} left{when}.",
        "Make room, or make the volume larger: raise the size of its claim in the policy; where it has none, "
        f"ebs-agent expand {window.subject.label} SIZE.",
    )


def find_files_full(window: Window, is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one that can hold few more files, however much space is left."""
    mount = window.mount
    # btrfs has no such limit and says 0.
    if mount is None or not mount.files or window.subject.is_read_only:
        return None
    used = 1 - mount.files_free / mount.files
    if used < (FILES_FULL_UNTIL if is_held else FILES_FULL_AT):
        return None
    return Verdict(
        Condition.DEGRADED,
        Reason.FILES_FULL,
        f"{mount.path} has {mount.files_free} files left of {mount.files}.",
        "Remove files, or expand the volume: a larger filesystem holds more of them.",
    )


def forecast_full_s(readings: Sequence[Reading]) -> float | None:
    """Return in how many seconds the space is used up if it goes on as in these readings; None if never.

    As in all of them, or as in the newer half if that is slower: one large file is no trend.
    """
    known = [(reading.at, reading.mount) for reading in readings if reading.mount is not None]
    if len(known) < 2 or known[-1][0] - known[0][0] < FORECAST_FROM_S:  # noqa: PLR2004 -- a rate needs two
        return None
    middle = (known[0][0] + known[-1][0]) / 2
    newer = next(n for n, (at, _) in enumerate(known) if at >= middle)
    lasts = [_extrapolate(known[0], known[-1]), _extrapolate(known[min(newer, len(known) - 2)], known[-1])]
    return None if None in lasts else max(left_s for left_s in lasts if left_s is not None)


def _extrapolate(earlier: tuple[float, MountSample], later: tuple[float, MountSample]) -> float | None:
    (began, before), (ended, after) = earlier, later
    # One that was grown meanwhile has another story.
    if before.size_bytes != after.size_bytes:
        return None
    taken = before.avail_bytes - after.avail_bytes
    return after.avail_bytes * (ended - began) / taken if taken > 0 else None
