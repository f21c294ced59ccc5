"""What a flood costs volumes: from attached to ready, with and without another user's slow connections.

By turns, so that what else goes on meets all alike. Beside it a flood of somebody else, as many connections
to a socket that nobody answers, since the flooder takes processor time too.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from agent.node.kernel.mountinfo import read_mounts
from bench.processes import read_cpu_s
from bench.scratch import make_entry, working_directory
from tests.agent_process import MIB, AgentProcess, Scratch, reserve_port
from tests.strangers import MANY, flooding
from tests.waiting import wait_until

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
WAIT_S = 60.0
SETTLE_S = 3.0
"""Until the flood has come to what it stays at."""


@contextmanager
def deaf_listener() -> Iterator[int]:
    """Give a port at which connections wait for ever."""
    with socket.create_server(("127.0.0.1", 0), backlog=MANY) as listener:
        yield int(listener.getsockname()[1])


@contextmanager
def flooding_nobody() -> Iterator[None]:
    """Have the flood go on beside the agent, and not at it."""
    with deaf_listener() as port, flooding(port):
        yield


def time_ready(scratch: Scratch, agent: AgentProcess, volume: str) -> float:
    """Return the seconds from a blank volume's attachment until it is mounted; it is gone afterwards."""
    path = str(scratch.data / volume)
    began = time.monotonic()
    image = scratch.add_volume(volume, 64 * MIB)
    while not any(mount.path == path for mount in read_mounts()):
        if time.monotonic() > began + WAIT_S:
            raise RuntimeError(f"{volume} was not mounted: {agent.status(volume)}")
        time.sleep(0.002)
    took_s = time.monotonic() - began
    agent.wait_condition(volume, "Ready")
    image.unlink()
    wait_until(lambda: not any(mount.path == path for mount in read_mounts()), "it is taken down")
    return took_s


def time_scrape(port: int) -> float:
    """Return the seconds one scrape takes."""
    began = time.monotonic()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
        answer.read()
    return time.monotonic() - began


@dataclass
class Figures:
    """What was measured under one condition, each in seconds or as a share of a processor."""

    ready: list[float] = field(default_factory=list)
    scrapes: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)


def measure_share(agent: AgentProcess) -> float:
    """Return the share of a processor that an agent takes, once what goes on has come to what it stays at."""
    time.sleep(SETTLE_S)
    began, before_s = time.monotonic(), read_cpu_s(agent.pid)
    time.sleep(SETTLE_S)
    return (read_cpu_s(agent.pid) - before_s) / (time.monotonic() - began)


def show(conditions: Mapping[str, Figures]) -> None:
    """Print the medians of each condition, and how long volumes take as a ratio to the first."""
    floor_s = statistics.median(next(iter(conditions.values())).ready)
    print(f"{'':<22}{'attach to ready':>16}{'ratio':>8}{'scrape':>10}{'worst':>10}{'agent at rest':>16}")
    for name, figures in conditions.items():
        ready_s, scrape_s = statistics.median(figures.ready), statistics.median(figures.scrapes)
        print(f"{name:<22}{ready_s:>14.2f} s{ready_s / floor_s:>7.2f}x{scrape_s:>8.2f} s", end="")
        print(f"{max(figures.scrapes):>8.2f} s{100 * statistics.median(figures.shares):>11.0f} % cpu")


def main() -> None:
    """Print how long volumes and scrapes take under each condition, and as ratios."""
    port = reserve_port()
    ways: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "no flood": nullcontext,
        "a flood elsewhere": flooding_nobody,
        "a flood of the agent": lambda: flooding(port),
    }
    # Each is blank once only, and one is for what is first needed to be loaded.
    volumes = [f"vol-0{number:016x}" for number in range(1, len(ways) * ROUNDS + 2)]
    found = {way: Figures() for way in ways}
    with working_directory() as base:
        scratch = Scratch(base).prepare()
        entries = [make_entry(scratch, volume) for volume in volumes]
        scratch.write_policy(*entries, http={"listen": f"127.0.0.1:{port}"})
        agent = AgentProcess(scratch)
        try:
            agent.start()
            remaining = iter(volumes)
            time_ready(scratch, agent, next(remaining))
            time_scrape(port)
            for _ in range(ROUNDS):
                for way, flood in ways.items():
                    with flood():
                        found[way].shares.append(measure_share(agent))
                        found[way].scrapes.append(time_scrape(port))
                        found[way].ready.append(time_ready(scratch, agent, next(remaining)))
            agent.stop()
        finally:
            agent.end_anyhow()
    print(
        f"{MANY} slow connections of another user, each opened again when it is closed; medians of {ROUNDS}"
    )
    show(found)
