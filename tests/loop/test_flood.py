"""Volumes are served, and whoever asks is answered, while another user holds all connections there are."""

from __future__ import annotations

import os
import re
import resource
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.agent_process import AgentProcess, Scratch, reserve_port
from tests.loop.test_daemon import entry, make_filesystem
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


def attach(scratch: Scratch, agent: AgentProcess, *, is_blank: bool) -> None:
    """Attach all volumes, and see them served: formatted, or mounted with what is on them."""
    for volume in VOLUMES:
        if is_blank:
            scratch.add_volume(volume)
        else:
            scratch.put_volume(volume, make_filesystem("ext4"))
    for volume in VOLUMES:
        agent.wait_condition(volume, "Ready")


def count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 (names only)


@pytest.mark.parametrize("lasts_s", [0, pytest.param(60, marks=pytest.mark.thorough)])
def test_volumes_are_attached_under_a_flood(scratch: Scratch, agent: AgentProcess, lasts_s: int) -> None:
    """Two thousand slow connections of another user cost no volume anything, and keep no scrape out.

    For a minute as well: whoever asks slowly is closed after ten seconds, and comes again.
    """
    entries = [entry(scratch, volume=one, name=f"data{at}") for at, one in enumerate(VOLUMES)]
    port = reserve_port()
    scratch.write_policy(*entries, http={"listen": f"127.0.0.1:{port}"})
    with usual_descriptors():
        agent.start()
    pid = agent.pid
    with flooding(port):
        wait_until(lambda: read_counted(port).get("accepted", 0) > MANY, "the flood is under way")
        until = time.monotonic() + lasts_s
        attach(scratch, agent, is_blank=True)
        while time.monotonic() < until:
            for volume in VOLUMES:
                scratch.image(volume).unlink()
            wait_until(lambda: not any(agent.status(one).get("path") for one in VOLUMES), "all are gone")
            attach(scratch, agent, is_blank=False)
            assert count_descriptors(pid) < 2200, "64 are served, 2048 may be in the lobby"
        counted = read_counted(port)
        assert count_descriptors(pid) < 2200, "64 are served, 2048 may be in the lobby"
    assert counted.get("evicted", 0) < MANY, "nobody is turned away while there are places"
    assert agent.pid == pid
    log = agent.read_log()
    assert "Too many open files" not in log
    assert len(agent.read_events("connection.closed")) < 20
    assert not agent.read_events("agent.crashed")
    assert not agent.read_events("volume.refused")
