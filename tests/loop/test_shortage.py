"""A node that has run out of descriptors: the agent stays, concludes nothing, and goes on after it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from tests.agent_process import AgentProcess, Scratch
from tests.loop.test_daemon import OTHER, VOLUME, entry
from tests.waiting import wait_until


@contextmanager
def without_descriptors(pid: int) -> Iterator[None]:
    """Have every open of a process fail with EMFILE."""
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def test_agent_without_descriptors_stays_and_goes_on(scratch: Scratch, agent: AgentProcess) -> None:
    """Nothing it follows is lost or distrusted, and a volume that was attached meanwhile is served then."""
    scratch.write_policy(
        entry(scratch), entry(scratch, volume=OTHER, name="other"), resync="1s", health={"interval": "1s"}
    )
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    pid = agent.pid
    with without_descriptors(pid):
        scratch.add_volume(OTHER)
        wait_until(lambda: agent.read_events("devices.unreadable"), "the directory could not be read")
        wait_until(lambda: agent.read_events("devices.unlisted"), "devices could not be listed")
        wait_until(lambda: agent.read_events("volume.degraded"), "the volume could not be looked at")
    agent.wait_condition(OTHER, "Ready")
    agent.wait_condition(VOLUME, "Ready")
    assert agent.pid == pid
    assert {event["reason"] for event in agent.read_events("volume.degraded")} == {"NodeExhausted"}
    for name in ("volume.lost", "volume.failed", "volume.refused", "volume.detached", "agent.fault"):
        assert agent.read_events(name) == []
    assert "mv " not in agent.read_log()
