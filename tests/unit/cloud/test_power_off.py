"""Whether a machine goes off for good is read from what systemd has queued; what is not sure is no."""

from __future__ import annotations

import pytest

from agent.cloud.power_off import LIST_JOBS, is_going_off, parse_jobs
from agent.core.errors import AgentError, NotAnsweringError
from agent.node.isolate.programs import Completed

pytestmark = pytest.mark.anyio

POWER_OFF = """\
2311 ebs-agent.service        stop  running
2260 poweroff.target          start waiting
2261 systemd-poweroff.service start waiting
2263 shutdown.target          start waiting
2262 umount.target            start waiting
"""
"""As systemd 252 says it."""


def name_end(target: str) -> str:
    return POWER_OFF.replace("poweroff", target)


@pytest.mark.parametrize(
    ("listing", "is_off"),
    [
        (POWER_OFF, True),
        (POWER_OFF.replace("waiting", "running"), True),
        (name_end("halt"), True),
        (name_end("reboot"), False),
        (name_end("kexec"), False),
        (name_end("soft-reboot"), False),
        (name_end("rescue"), False),
        (name_end("exit"), False),
        (POWER_OFF + name_end("reboot"), False),
        (POWER_OFF.replace("start", "stop"), False),
        (POWER_OFF.replace("poweroff.target", "poweroff.target.d"), False),
        ("2311 ebs-agent.service stop running\n", False),
        ("1 shutdown.target start waiting\n", False),
        ("No jobs running.\n", False),
        ("poweroff.target start waiting\n", False),
        ("Failed to list jobs: poweroff.target start waiting\n", False),
        ("", False),
    ],
)
def test_only_a_power_off_or_a_halt_is_an_end(listing: str, is_off: bool) -> None:  # noqa: FBT001 -- a table
    """A reboot of any kind, the service's own stop, and what is not understood are none."""
    assert parse_jobs(listing) is is_off


async def test_systemd_is_asked() -> None:
    """By the command of root's that needs no D-Bus daemon, within seconds."""

    async def run(argv: object, *, timeout_s: float, **_options: object) -> Completed:
        assert argv == LIST_JOBS
        assert timeout_s <= 5
        return Completed(LIST_JOBS, 0, POWER_OFF, "")

    assert await is_going_off(run)


@pytest.mark.parametrize(
    "error",
    [NotAnsweringError("systemctl did not end within 5 s."), AgentError("The program systemctl is missing.")],
)
async def test_what_cannot_be_asked_is_no_end(error: AgentError) -> None:
    """Without systemd, or where it does not answer, the agent ends as at any other time."""

    async def run(argv: object, *, timeout_s: float, **_options: object) -> Completed:
        del argv, timeout_s
        raise error

    assert not await is_going_off(run)
