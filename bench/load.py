"""A volume's way while all else goes wrong, by turns with the same agent and its volumes at rest.

One of 128 volumes is stalled, another user floods, somebody scrapes every second, and a broker floods.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn

from bench.flood import Figures, measure_share, show, time_ready, time_scrape
from bench.hung import disk_of_its_own, hanging
from bench.processes import read_pss_bytes
from bench.scratch import make_entry, working_directory
from tests.agent_process import MIB, AgentProcess, Scratch, reserve_port
from tests.strangers import MANY, flooding, forked
from tests.waiting import wait_until

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
VOLUMES = int(os.environ.get("BENCH_VOLUMES", "128"))
SIZE_BYTES = 32 * MIB
START_S = 300.0
SCRAPE_EVERY_S = 1.0
_ACCEPTED = b"\x20\x02\x00\x00"
_MESSAGES = b"\x30\x08\x00\x01tabcde" * 4096
_FACE_DOWN_S = 10.0


@contextmanager
def flooding_broker() -> Iterator[int]:
    """Have another user's broker take any connection and send messages without end; gives its port."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        forked(lambda: _flood_whoever_connects(listener)),
    ):
        yield int(listener.getsockname()[1])


def _flood_whoever_connects(listener: socket.socket) -> NoReturn:
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                connection.recv(4096)
                connection.sendall(_ACCEPTED)
                while True:
                    connection.sendall(_MESSAGES)
            except OSError:
                pass


def scrape_anyhow(port: int) -> float:
    """Return the seconds one scrape takes, and the longest where nobody answers."""
    try:
        return time_scrape(port)
    except OSError:
        return _FACE_DOWN_S


@contextmanager
def scraping(port: int) -> Iterator[list[float]]:
    """Have somebody scrape every second; gives the seconds each took, and the longest where it failed."""
    took: list[float] = []
    is_over = threading.Event()

    def scrape_on() -> None:
        while not is_over.wait(SCRAPE_EVERY_S):
            took.append(scrape_anyhow(port))

    thread = threading.Thread(target=scrape_on)
    thread.start()
    try:
        yield took
    finally:
        is_over.set()
        thread.join()


class Node:
    """An agent with many volumes at rest, one of which can be made to hang, and further ones to attach."""

    def __init__(self, scratch: Scratch) -> None:
        self.port = reserve_port()
        self.resting = [f"vol-0{0xA000 + number:016x}" for number in range(VOLUMES)]
        # Each is blank once only, and one is for what is first needed to be loaded.
        further = [f"vol-0{0xB000 + number:016x}" for number in range(2 * ROUNDS + 1)]
        self._further = iter(further)
        self._entries = [make_entry(scratch, volume) for volume in (*self.resting, *further)]
        self._scratch = scratch
        self.agent = AgentProcess(scratch)

    def start(self) -> None:
        """Start, and have all volumes but the first attached; wait until each is mounted."""
        self._write_policy()
        self.agent.start()
        for volume in self.resting[1:]:
            self._scratch.add_volume(volume, SIZE_BYTES)
        for volume in self.resting:
            self._wait_ready(volume)
        time_ready(self._scratch, self.agent, next(self._further))
        time_scrape(self.port)

    def publish_to(self, broker: int | None) -> None:
        """Have the agent publish to a broker at this port, or to none."""
        self._write_policy(**({} if broker is None else {"mqtt": {"host": "127.0.0.1", "port": broker}}))
        self.agent.reload()

    def measure(self, figures: Figures) -> None:
        """Take a further volume's way, once what goes on has come to what it stays at."""
        figures.shares.append(measure_share(self.agent))
        figures.ready.append(time_ready(self._scratch, self.agent, next(self._further)))

    def _wait_ready(self, volume: str) -> None:
        wait_until(lambda: self.agent.status(volume).get("condition") == "Ready", volume, START_S)

    def _write_policy(self, **settings: Any) -> None:
        self._scratch.write_policy(*self._entries, http={"listen": f"127.0.0.1:{self.port}"}, **settings)


def measure_both(base: Path, scratch: Scratch, node: Node) -> tuple[Figures, Figures]:
    """Return what was measured at rest and with all of it at once, by turns."""
    at_rest, loaded = Figures(), Figures()
    stalled = node.resting[0]
    with ExitStack() as stack:
        place = stack.enter_context(disk_of_its_own(base, scratch.image(stalled), SIZE_BYTES))
        # Mounts stay when an agent ends.
        stack.callback(scratch.clean)
        stack.callback(node.agent.end_anyhow)
        node.start()
        for _ in range(ROUNDS):
            node.measure(at_rest)
            at_rest.scrapes.append(time_scrape(node.port))
            with (
                flooding_broker() as broker,
                hanging(place, scratch.data / stalled),
                flooding(node.port),
                scraping(node.port) as took,
            ):
                node.publish_to(broker)
                node.measure(loaded)
                loaded.scrapes += took
            node.publish_to(None)
        print(f"{read_pss_bytes(node.agent.pid) / MIB:.0f} MB proportional set size afterwards")
        node.agent.stop()
    return at_rest, loaded


def main() -> None:
    """Print how long a further volume takes with all of it and without, and the ratio."""
    with working_directory() as base:
        scratch = Scratch(base).prepare()
        at_rest, loaded = measure_both(base, scratch, Node(scratch))
    devices = sum(1 for _ in Path("/sys/block").iterdir())
    print(f"{VOLUMES} volumes, one of them stalled; {MANY} slow connections; medians of {ROUNDS} rounds;")
    print(
        f"{os.cpu_count()} cores, Linux {os.uname().release}, {devices} block devices,"
        f" load {os.getloadavg()[0]:.0f}"
    )
    show({"at rest": at_rest, "all at once": loaded})
