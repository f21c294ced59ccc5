"""What the agent costs with its volumes mounted and nothing to do, and how that grows with their number.

Processor time of all its processes over some minutes, with as many block devices on the machine each time:
with the processors kept from sleeping, as on a node that works, and with nothing else on the machine. A
virtual processor that has slept takes many times as long for the first thing it does, whatever that is, so
the second figure is the machine's as much as the agent's.

The floor asks each volume once a minute as little as there is to ask: it opens the device, reads a block of
it past every cache, asks the filesystem how full it is, and what is mounted. Stand-in volumes are files,
which the agent polls in the place of what the kernel announces; what that takes is timed apart.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.node.kernel.mountinfo import read_mounts
from agent.node.standins import files, loop_device
from bench.processes import list_family, read_cpu_s, read_pss_bytes
from bench.scratch import make_entry, working_directory
from tests.agent_process import MIB, AgentProcess, Scratch
from tests.waiting import wait_until

COUNTS = tuple(int(word) for word in os.environ.get("BENCH_COUNTS", "1 20 64 128").split())
WINDOW_S = float(os.environ.get("BENCH_IDLE_SECONDS", "120"))
SETTLE_S = float(os.environ.get("BENCH_SETTLE_SECONDS", "95"))
"""Workers that nobody needs end after 90 s."""
BLOCK_DEVICES = 130
SIZE_BYTES = 64 * MIB
START_S = 600.0
MINUTE_S = 60.0
_BLOCK_BYTES = 4096
_WAKING_S = 2.0
_SPIN = """
import os, sys
core, parent = map(int, sys.argv[1:])
os.sched_setaffinity(0, {core})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
while os.getppid() == parent:
    for _ in range(10**6):
        pass
"""
_TIMES, _PAUSE_S = 5, 2.0
"""What happens now and then is timed so often, and rests so long in between."""
_POLLS = 30
"""How often in a minute at rest the stand-ins' files are looked at (``agent.node.standins.source``)."""
_SYNCS = 2
"""How often in a minute their loop devices are compared with them."""


@dataclass(frozen=True)
class Rest:
    """One count of volumes at rest; shares of one processor."""

    volumes: int
    block_devices: int
    agent: float
    """With the processors awake, as are the floor and the stand-ins."""
    agent_asleep: float
    floor: float
    standins: float
    pss_bytes: int
    processes: int

    @property
    def own(self) -> float:
        """What the agent takes where volumes are no files."""
        return self.agent - self.standins


def measure(base: Path, count: int) -> Rest:
    """Measure an agent with ``count`` volumes, and leave nothing behind."""
    scratch = Scratch(base).prepare()
    volumes = [f"vol-0{number:016x}" for number in range(count)]
    entries = [make_entry(scratch, volume) for volume in volumes]
    scratch.write_policy(*entries, resync=f"{MINUTE_S:g}s")
    agent = AgentProcess(scratch)
    with ExitStack() as stack:
        stack.callback(scratch.clean)
        stack.callback(agent.end_anyhow)
        agent.start()
        for volume in volumes:
            scratch.add_volume(volume, SIZE_BYTES)
        wait_until(lambda: len(agent.read_events("volume.ready")) >= count, "all are ready", START_S)
        add_others(base)
        time.sleep(SETTLE_S)
        paths = [str(scratch.data / volume) for volume in volumes]
        asleep = watch(agent.pid)
        with kept_awake():
            time.sleep(_WAKING_S)
            return Rest(
                volumes=count,
                block_devices=count_block_devices(),
                agent=watch(agent.pid),
                agent_asleep=asleep,
                floor=time_alone(lambda: ask_all(paths)) / MINUTE_S,
                standins=time_standins(str(scratch.devices)) / MINUTE_S,
                pss_bytes=read_pss_bytes(agent.pid),
                processes=len(list_family(agent.pid)),
            )


def watch(pid: int) -> float:
    """Return which share of a processor a process and all below it take for a while."""
    before_s, began = read_cpu_s(pid), time.monotonic()
    time.sleep(WINDOW_S)
    return (read_cpu_s(pid) - before_s) / (time.monotonic() - began)


@contextmanager
def kept_awake() -> Iterator[None]:
    """Keep every processor busy for the block, with what gives way to all else (SCHED_IDLE, sched(7))."""
    with ExitStack() as stack:
        for core in sorted(os.sched_getaffinity(0)):
            process = subprocess.Popen([sys.executable, "-I", "-S", "-c", _SPIN, str(core), str(os.getpid())])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


def add_others(base: Path) -> None:
    """Have as many block devices on the machine as a node with many volumes and an instance store."""
    for number in range(max(0, BLOCK_DEVICES - count_block_devices())):
        image = base / f"other-{number}"
        image.touch()
        os.truncate(image, MIB)
        loop_device.attach_file(image)


def count_block_devices() -> int:
    """Return how many block devices the machine has that have a size, partitions among them."""
    return len(Path("/proc/partitions").read_text(encoding="utf-8").splitlines()) - 2


def ask_all(paths: list[str]) -> None:
    """Ask each mounted volume how it is, as briefly as that can be done."""
    devices = {mount.path: mount.source for mount in read_mounts()}
    for path in paths:
        with Path("/proc/self/mountinfo").open("rb") as table:
            table.read()
        os.statvfs(path)
        fd = os.open(devices[path], os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, _BLOCK_BYTES) as block:
                os.preadv(fd, [block], 0)
        finally:
            os.close(fd)


def time_standins(directory: str) -> float:
    """Return the processor time that polling the stand-ins' files takes in a minute."""
    poll_s = time_alone(lambda: files.list_states(directory))
    return _POLLS * poll_s + _SYNCS * time_alone(lambda: files.sync_directory(directory))


def time_alone(do: Callable[[], object]) -> float:
    """Return the processor time in seconds of doing something once, a while after it was done before.

    Done again at once it takes a fraction of that, since the caches hold all of it.
    """
    do()
    took_s = 0.0
    for _ in range(_TIMES):
        time.sleep(_PAUSE_S)
        before_s = time.process_time()
        do()
        took_s += time.process_time() - before_s
    return took_s / _TIMES


def show(rests: list[Rest]) -> None:
    """Print each count of volumes, beside its floor and beside the first."""
    first, last = rests[0], rests[-1]
    print("% of a core; own: awake, without the stand-ins")
    print(f"{'volumes':>8}{'block devices':>15}{'asleep':>9}{'awake':>9}{'stand-ins':>11}", end="")
    print(f"{'own':>9}{'floor':>9}{'ratio':>9}{'growth':>9}{'processes':>11}{'MB':>6}")
    for rest in rests:
        print(f"{rest.volumes:>8}{rest.block_devices:>15}{100 * rest.agent_asleep:>9.3f}", end="")
        print(f"{100 * rest.agent:>9.3f}{100 * rest.standins:>11.3f}{100 * rest.own:>9.3f}", end="")
        print(f"{100 * rest.floor:>9.3f}{rest.own / rest.floor:>8.1f}x{rest.own / first.own:>8.1f}x", end="")
        print(f"{rest.processes:>11}{rest.pss_bytes / 1e6:>6.0f}")
    if last.volumes > first.volumes:
        each = 100 * (last.own - first.own) / (last.volumes - first.volumes)
        print(f"from {first.volumes} to {last.volumes}: {each:.4f} % of a core for each further volume")


def main() -> None:
    """Measure each count and print it."""
    print(f"{os.cpu_count()} cores, Linux {os.uname().release}, load {os.getloadavg()[0]:.1f};", end=" ")
    print(f"{WINDOW_S:g} s each, after {SETTLE_S:g} s at rest", flush=True)
    rests = []
    for count in COUNTS:
        with working_directory() as base:
            rests.append(measure(base, count))
    show(rests)
