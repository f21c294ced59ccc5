"""Rules about the device: does it answer, without errors, and does the kernel wait for it long enough."""

from __future__ import annotations

import os

from agent.core.model import Condition, Reason
from agent.core.units import show_duration
from agent.report.board.readings import Reading, Verdict
from agent.report.health.verdicts.sample_window import Window

MAX_IO_TIMEOUT_S = (1 << 32) - 1
"""EBS's recommendation: after a shorter time a volume that merely stalls is given up."""

STALL_S = 5.0


def find_stall(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one that holds commands and completes none, or does not answer at all."""
    newest = window.newest
    if newest.is_frozen:
        return None
    lasting_s = newest.at - _find_standstill(window).at
    if newest.sample is None:
        earlier = next(window.backwards(), None)
        is_lasting = earlier is not None and earlier.sample is None and lasting_s >= STALL_S
        # Nothing in flight: nobody asked the device anything, for want of a processor and not of an answer.
        is_asked = newest.counters is None or newest.counters.in_flight > 0
        if _has_progress(earlier, newest) or not (newest.is_stuck or (is_lasting and is_asked)):
            return None
        what = "does not answer"
    else:
        waiting = _count_waiting(newest)
        if not waiting or lasting_s < STALL_S:
            return None
        what = f"has {waiting} operations in flight and completed none"
    instead = "if somebody froze its filesystem, fsfreeze -u thaws it; else " if newest.may_be_frozen else ""
    lasting = f" for {show_duration(lasting_s)}" if lasting_s >= 1 else ""
    return Verdict(
        Condition.FAILED,
        Reason.STALLED,
        f"{window.subject.label} {what}{lasting}.",
        "Processes that use it hang until it answers. See the volume's status checks in the EC2 console and"
        f" the kernel log; {instead}a reboot of the node is the way out if it does not come back.",
    )


def _has_progress(earlier: Reading | None, newest: Reading) -> bool:
    """Tell whether something completed though nobody answered: it is slow then, and not stalled."""
    if earlier is None or earlier.counters is None or newest.counters is None:
        return False
    return earlier.counters.completed != newest.counters.completed


def _find_standstill(window: Window) -> Reading:
    """Return the earliest reading since which nothing completed; the newest where something just did."""
    earliest = window.newest
    for reading in window.backwards():
        if _count_completed(reading) != _count_completed(window.newest):
            break
        if reading.sample is not None and not _count_waiting(reading):
            break
        earliest = reading
    return earliest


def _count_completed(reading: Reading) -> int | None:
    return None if reading.counters is None else reading.counters.completed


def _count_waiting(reading: Reading) -> int:
    in_flight = 0 if reading.counters is None else reading.counters.in_flight
    return max(in_flight, 0 if reading.statistics is None else reading.statistics.queue_length)


def find_io_errors(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one whose first block cannot be read."""
    if window.sample is None or window.sample.read_errno is None:
        return None
    return Verdict(
        Condition.FAILED,
        Reason.IO_ERRORS,
        f"{window.subject.label} answers a read with an error: {os.strerror(window.sample.read_errno)}.",
        "See the kernel log and the volume's status checks in the EC2 console; save what can still be read.",
    )


def find_wrong_timeout(window: Window, _is_held: bool) -> Verdict | None:  # noqa: FBT001 -- a Rule
    """Find one that the kernel would give up though it merely takes long."""
    timeout_s = None if window.sample is None else window.sample.io_timeout_s
    if timeout_s is None or timeout_s >= MAX_IO_TIMEOUT_S:
        return None
    return Verdict(
        Condition.DEGRADED,
        Reason.WRONG_TIMEOUT,
        f"The kernel gives {window.subject.label} up when it does not answer for {timeout_s} s.",
        f"Add nvme_core.io_timeout={MAX_IO_TIMEOUT_S} to the kernel's command line and reboot.",
    )
