"""What a scrape costs: the agent with 1, 28 and 128 volumes, beside node_exporter on as many filesystems.

The agent's volumes are on the board alone, with every number EBS gives (statistics with full histograms), and
each is sampled anew between any two scrapes, more often than ever in use; a scrape touches no device, so the
rest of the agent adds nothing to it. node_exporter runs its filesystem and disk collectors over as many loop
devices with ext4, mounted. Both are processes of their own, asked in turn, so that the machine's mood is the
same for both.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from agent.core.model import Condition, DeviceNumber, VolumeId
from agent.core.replace import replace
from agent.node.kernel.disk_counters import BlockCounters
from agent.node.sampling.ebs_statistics import Direction, EbsStatistics, Histogram
from agent.node.sampling.values import MountSample, Sample
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.readings import Health
from agent.report.board.volume_status import VolumeStatus
from agent.report.endpoints.http import make_app
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.doors import HttpFace
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen
from bench.processes import read_cpu_s, read_pss_bytes

VOLUMES = (1, 28, 128)
SCRAPES = 200
IMAGE_BYTES = 8 << 20
GIB = 1 << 30
TARGET_S = 0.050
EDGES_US = tuple(1 << exponent for exponent in range(27))


@dataclass
class Cost:
    """What scraping one process took."""

    times_s: list[float]
    cpu_s: float = 0.0
    memory_bytes: int = 0
    series: int = 0

    def describe(self) -> str:
        ordered = sorted(self.times_s)
        p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
        return (
            f"p50 {statistics.median(ordered) * 1e3:7.2f} ms   p99 {p99 * 1e3:7.2f} ms   "
            f"CPU {self.cpu_s / len(ordered) * 1e3:6.2f} ms/scrape   "
            f"PSS {self.memory_bytes / (1 << 20):5.1f} MiB   {self.series} series"
        )


# -- The agent's side ----------------------------------------------------------------------------------------


def make_direction(seed: int) -> Direction:
    """Return statistics with something in every bin."""
    counts = tuple((seed * (edge % 97)) % 1000 for edge in range(len(EDGES_US)))
    return Direction(sum(counts), sum(counts) * 65536, sum(counts) * 750, Histogram(EDGES_US, counts))


def make_health(number: int, turn: int) -> Health:
    """Return what sampling volume ``number`` found, other numbers at each turn."""
    seed = number + turn + 1
    mount = MountSample(
        f"/data/v{number}", "ext4", is_read_only=False, size_bytes=100 * GIB, avail_bytes=50 * GIB - seed,
        files=1000, files_free=900, spans_bytes=101 * GIB, errors=0,
    )  # fmt: skip
    counters = BlockCounters(seed, seed, seed, seed, seed, seed, 1, seed)
    sample = Sample(DeviceNumber(259, number), 101 * GIB, counters, mount=mount, io_timeout_s=4294967295)
    page = EbsStatistics(make_direction(seed), make_direction(seed + 1), seed, seed, seed, seed, 1)
    return Health(sample, page, probe_s=0.0005)


async def serve(volumes: int) -> None:
    """Serve the face of an agent with so many volumes, sampling each anew five times a second."""
    board = Board()
    ids = [VolumeId(f"vol-0{number:016x}") for number in range(volumes)]
    for number, volume_id in enumerate(ids):
        board.publish(
            VolumeStatus(
                volume_id,
                f"v{number}",
                Condition.READY,
                device=f"/dev/nvme{number}n1",
                path=f"/data/v{number}",
                fstype="ext4",
                size_bytes=101 * GIB,
            )
        )
    app = make_app(board, Exposition(board, Counters()))
    turns = [[make_health(number, turn) for number in range(volumes)] for turn in range(2)]

    def sample_all(turn: int) -> None:
        for volume_id, health in zip(ids, turns[turn % 2], strict=True):
            board.judge(volume_id, replace(health))

    sample_all(0)
    async with anyio.create_task_group() as tasks:
        face = HttpFace(Server(app, HTTP_LIMITS, Tally("http")), Listen(port=0))
        await tasks.start(face.run)
        sys.stdout.write(f"{face.port}\n")
        sys.stdout.flush()
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
            turn = 0
            async for _ in signals:
                turn += 1
                sample_all(turn)


@contextmanager
def run_agent(volumes: int) -> Iterator[tuple[str, int]]:
    """Give the address and the process of an agent's face with so many volumes."""
    argv = [sys.executable, "-m", "bench.scrape", "--serve", str(volumes)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/metrics", process.pid
        finally:
            process.kill()


# -- node_exporter's side ------------------------------------------------------------------------------------


@contextmanager
def mount_filesystems(count: int, directory: Path) -> Iterator[None]:
    """Mount so many small ext4 filesystems on loop devices, and take them down again."""
    with ExitStack() as stack:
        model = directory / "model.img"
        model.touch()
        os.truncate(model, IMAGE_BYTES)
        run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(model))
        for number in range(count):
            image, point = directory / f"{number}.img", directory / f"m{number}"
            run("cp", "--sparse=always", str(model), str(image))
            point.mkdir()
            run("mount", "-o", "loop", str(image), str(point))
            stack.callback(run, "umount", str(point))
        yield


def run(*argv: str) -> None:
    """Run a program that must succeed."""
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def run_node_exporter(port: int) -> Iterator[tuple[str, int]]:
    """Give the address and the process of a node_exporter with the two collectors."""
    argv = [
        "prometheus-node-exporter", "--collector.disable-defaults", "--collector.filesystem",
        "--collector.diskstats", "--collector.diskstats.device-exclude=^(ram|fd)\\d+$",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}/metrics"
            deadline = time.monotonic() + 20
            while not is_answering(url):
                assert time.monotonic() < deadline, "node_exporter does not answer"
                time.sleep(0.05)
            yield url, process.pid
        finally:
            process.kill()


def find_free_port() -> int:
    """Return a TCP port of the loopback address that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def is_answering(url: str) -> bool:
    """Tell whether a scrape succeeds."""
    try:
        scrape(url)
    except OSError:
        return False
    return True


# -- Measuring -----------------------------------------------------------------------------------------------


def scrape(url: str) -> str:
    """Return one exposition."""
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 -- of this host
        text: str = answer.read().decode()
    return text


def compare(targets: dict[str, tuple[str, int]], to_renew: int) -> dict[str, Cost]:
    """Scrape each target in turn, again and again; ``to_renew`` is the agent, sampled anew each time."""
    costs = {name: Cost([]) for name in targets}
    for url, _ in targets.values():
        scrape(url)
    for _ in range(SCRAPES):
        cpu_before = read_cpu_s(to_renew)
        os.kill(to_renew, signal.SIGUSR1)
        time.sleep(0.02)
        # Sampling is not scraping.
        costs["ebs-agent"].cpu_s -= read_cpu_s(to_renew) - cpu_before
        for name, (url, _) in targets.items():
            began = time.perf_counter()
            text = scrape(url)
            costs[name].times_s.append(time.perf_counter() - began)
            costs[name].series = sum(bool(line) and line[0] != "#" for line in text.splitlines())
    return costs


def measure(volumes: int, directory: Path, port: int) -> dict[str, Cost]:
    """Return what scrapes of both cost with so many volumes."""
    with (
        mount_filesystems(volumes, directory),
        run_agent(volumes) as ours,
        run_node_exporter(port) as theirs,
    ):
        targets = {"ebs-agent": ours, "node_exporter": theirs}
        before = {name: read_cpu_s(pid) for name, (_, pid) in targets.items()}
        costs = compare(targets, ours[1])
        for name, (_, pid) in targets.items():
            costs[name].cpu_s += read_cpu_s(pid) - before[name]
            costs[name].memory_bytes = read_pss_bytes(pid)
    return costs


def main() -> None:
    """Print what scrapes cost, with each number of volumes."""
    print(f"Scrapes: {SCRAPES} of each, in turn; every volume sampled anew between any two.")
    for volumes in VOLUMES:
        with tempfile.TemporaryDirectory() as directory:
            for name, cost in measure(volumes, Path(directory), find_free_port()).items():
                print(f"  {volumes:4} volumes  {name:13} {cost.describe()}")
    print(f"Target: 128 volumes under {TARGET_S * 1e3:.0f} ms p99, and no more CPU than node_exporter.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        anyio.run(serve, int(sys.argv[2]))
    else:
        main()
