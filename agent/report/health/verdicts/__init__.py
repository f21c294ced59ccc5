"""From a window of readings to what is wrong with a volume. Pure: no clock, no I/O, no memory.

Each rule looks for one thing. It is told whether it holds already, and then lets go later than it takes hold;
what it no longer finds is kept for a while all the same, so that verdicts do not flap.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.model import Reason
from agent.core.replace import replace
from agent.report.board.readings import Reading, Verdict, sort_verdicts
from agent.report.health.verdicts.device import find_io_errors, find_stall, find_wrong_timeout
from agent.report.health.verdicts.filesystem import (
    find_filesystem_errors,
    find_frozen,
    find_not_grown,
    find_read_only,
    find_shut_down,
)
from agent.report.health.verdicts.free_space import find_files_full, find_nearly_full
from agent.report.health.verdicts.limits import find_throttled_by_instance, find_throttled_by_volume
from agent.report.health.verdicts.sample_window import Rule, Subject, Window

__all__ = ["RULES", "Subject", "judge"]

RULES: dict[Reason, tuple[Rule, float]] = {
    Reason.STALLED: (find_stall, 60.0),
    Reason.IO_ERRORS: (find_io_errors, 120.0),
    Reason.SHUT_DOWN: (find_shut_down, 0.0),
    Reason.FROZEN: (find_frozen, 0.0),
    Reason.READ_ONLY: (find_read_only, 0.0),
    Reason.FILESYSTEM_ERRORS: (find_filesystem_errors, 0.0),
    Reason.FILES_FULL: (find_files_full, 0.0),
    Reason.NEARLY_FULL: (find_nearly_full, 60.0),
    Reason.NOT_GROWN: (find_not_grown, 0.0),
    Reason.THROTTLED_BY_VOLUME: (find_throttled_by_volume, 120.0),
    Reason.THROTTLED_BY_INSTANCE: (find_throttled_by_instance, 120.0),
    Reason.WRONG_TIMEOUT: (find_wrong_timeout, 0.0),
}
"""By reason: what finds it, and for how many seconds it is held after it was last found."""


def judge(readings: Sequence[Reading], subject: Subject, last: Sequence[Verdict] = ()) -> tuple[Verdict, ...]:
    """Return what is wrong, worst first; ``last`` is what this function returned for the window before."""
    if not readings:
        return ()
    window = Window(tuple(readings), subject)
    now = window.newest.at
    held = {verdict.reason: verdict for verdict in last}
    found: list[Verdict] = []
    for reason, (find, hold_s) in RULES.items():
        old = held.get(reason)
        verdict = find(window, old is not None)
        if verdict is not None:
            found.append(replace(verdict, seen_at=now))
        elif old is not None and now - old.seen_at < hold_s:
            found.append(old)
    return sort_verdicts(found)
