"""Volumes are served, and whoever asks is answered, while another user holds all connections there are."""

from __future__ import annotations

import os
import re
import resource
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.agent_process import AgentProcess, Scratch, reserve_port
from tests.loop.test_daemon import entry
from tests.strangers import MANY, flooding
from tests.waiting import wait_until

VOLUMES = tuple(f"vol-0123456789abcdef{number}" for number in range(3))
USUAL_DESCRIPTORS = 1024
"""What systemd lets a service open that does not ask for more."""


@contextmanager
def usual_descriptors() -> Iterator[None]:
    """Have what is started meanwhile begin with the usual number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(USUAL_DESCRIPTORS, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def read_counted(port: int) -> dict[str, float]:
    """Return what became of connections to the read-only face, by a scrape that is one of them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
        text = answer.read().decode()
    line = re.compile(r'^ebs_agent_connections_total\{face="http",outcome="(\w+)"\} (\S+)$', re.MULTILINE)
    return {outcome: float(number) for outcome, number in line.findall(text)}


def count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (names only)


def test_volumes_are_attached_under_a_flood(scratch: Scratch, agent: AgentProcess) -> None:
    """Two thousand slow connections of another user cost no volume anything, and keep no scrape out."""
    entries = [entry(scratch, volume=one, name=f"data{at}") for at, one in enumerate(VOLUMES)]
    port = reserve_port()
    scratch.write_policy(*entries, http={"listen": f"127.0.0.1:{port}"})
    with usual_descriptors():
        agent.start()
    pid = agent.pid
    with flooding(port):
        wait_until(lambda: read_counted(port).get("accepted", 0) > MANY, "the flood is under way")
        for volume in VOLUMES:
            scratch.add_volume(volume)
        for volume in VOLUMES:
            agent.wait_condition(volume, "Ready")
        counted = read_counted(port)
        assert count_descriptors(pid) < 400, "64 are served, 256 are in the lobby"
    assert counted["evicted"] > MANY - 100
    assert agent.pid == pid
    log = agent.read_log()
    assert "Too many open files" not in log
    assert len(agent.read_events("connection.closed")) < 20
    assert not agent.read_events("agent.crashed")
    assert not agent.read_events("volume.refused")
