"""Tells whether this machine is going off for good, by what systemd is about to do: no reboot is that.

Source: systemd.special(7), systemctl(1). Whatever has a machine go off starts ``poweroff.target``: the
commands ``poweroff`` and ``shutdown``, and logind when the power button is pressed, as EC2 does to stop or
terminate an instance. Its job is queued in one go with those that stop services, and waits until they are
done. root's systemctl asks systemd itself over a socket of its own, so no D-Bus daemon has to run any more.
"""

from __future__ import annotations

import re

from agent.base.log import get_logger
from agent.core.errors import AgentError
from agent.node.isolate import programs

LIMIT_S = 90.0
"""For letting go and detaching: what systemd gives any service, and less than EC2 waits for a machine."""
_ANSWER_TIMEOUT_S = 5.0
LIST_JOBS = ("systemctl", "list-jobs", "--no-legend", "--no-pager", "--full")
_JOB = re.compile(r" *[0-9]+ +(?P<unit>\S+) +start +(?:waiting|running) *", re.ASCII)
_OFF = frozenset({"poweroff.target", "halt.target"})
_ON_AGAIN = frozenset({"reboot.target", "kexec.target", "soft-reboot.target"})

log = get_logger(__name__)


async def is_going_off(run: programs.Run = programs.run) -> bool:
    """Ask systemd; where it cannot be asked, the answer is no."""
    try:
        listed = await run(LIST_JOBS, timeout_s=_ANSWER_TIMEOUT_S)
    except AgentError as error:
        log.warning("power_off.unknown", error=error.message)
        return False
    return parse_jobs(listed.stdout)


def parse_jobs(listing: str) -> bool:
    """Return whether ``systemctl list-jobs`` shows a machine that goes off, and not on again.

    A line is ``JOB UNIT TYPE STATE``. What has another form, and two ends at once, are not believed.
    """
    jobs = [_JOB.fullmatch(line) for line in listing.splitlines()]
    started = {job["unit"] for job in jobs if job is not None}
    return bool(started & _OFF) and not started & _ON_AGAIN
