"""From a volume's announcement to its usable mount, against a bare shell; and what the agent costs at rest.

The floor is what the agent itself runs, ``mkfs && mount`` or ``fsck && mount``, by a shell that knows which
device is which, on the same devices just before. The proof of blankness, which a shell does without, is timed
apart: its price is reading, and it is asked for.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyudev
import yaml

from agent.base.paths import Paths
from agent.core.model import FsType
from agent.node.content.blankness import prove_blank
from agent.node.filesystem.format_guard import choose_uuid
from agent.node.filesystem.mkfs import build_mkfs_argv
from agent.node.isolate.workers import Workers
from agent.node.kernel.mountinfo import read_mounts
from bench.beds import Bed, LoopBed, NvmetBed
from bench.processes import read_cpu_s, read_pss_bytes
from bench.scratch import WITH_ME, working_directory
from tests.agent_process import reserve_port

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "4"))
IDLE_S = float(os.environ.get("BENCH_IDLE_SECONDS", "60"))
SIZE_BYTES = 512 << 20
MANY = 20
WAIT_S = 300.0
QUIET_S = 0.3
IDLE_SETTLE_S = 95.0
"""Workers that nobody needs end after 90 s."""


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    fs_type: FsType
    is_blank: bool
    volumes: int

    def describe(self) -> str:
        """Return it in words."""
        count = "1 volume" if self.volumes == 1 else f"{self.volumes} volumes"
        return f"{'blank' if self.is_blank else 'existing'} {self.fs_type}, {count}"


CASES = tuple(
    Case(fs_type, is_blank, volumes)
    for volumes in (1, MANY)
    for fs_type, is_blank in ((FsType.EXT4, True), (FsType.XFS, True), (FsType.EXT4, False))
)


@dataclass(frozen=True)
class Times:
    """One round of a case, in seconds."""

    floor_s: float
    proof_s: float
    agent_s: float
    floor_cpu_s: float
    agent_cpu_s: float
    """Processor time, the agent's with all it started: it says the same on a busy machine."""


@dataclass(frozen=True)
class Rest:
    """The agent with all its volumes mounted and nothing to do."""

    volumes: int
    cpu_percent: float
    pss_bytes: int


# -- One round -----------------------------------------------------------------------------------------------


class Round:
    """One case on fresh volumes with a fresh agent, in a directory of its own."""

    def __init__(self, bed: Bed, case: Case, base: Path, first_number: int) -> None:
        self._bed = bed
        self._case = case
        self._paths = Paths(base / "root")
        self._data = base / "data"
        self._log = base / "agent.base.log"
        self._volumes = [f"vol-0{first_number + number:016x}" for number in range(case.volumes)]
        self._mounts = [str(self._data / volume) for volume in self._volumes]

    def measure(self) -> Times:
        """Measure the floor, then the agent, and leave nothing behind."""
        with self._serving() as (times, _):
            return times

    def measure_rest(self, seconds: float) -> Rest:
        """Measure the agent with its volumes mounted."""
        with self._serving() as (_, pid):
            time.sleep(IDLE_SETTLE_S)
            before_s, began = read_cpu_s(pid), time.monotonic()
            time.sleep(seconds)
            spent_s, took_s = read_cpu_s(pid) - before_s, time.monotonic() - began
            return Rest(len(self._volumes), 100 * spent_s / took_s, read_pss_bytes(pid))

    @contextmanager
    def _serving(self) -> Iterator[tuple[Times, int]]:
        """Give the times until the agent had all volumes mounted, and its process; it runs for the block."""
        agent: subprocess.Popen[bytes] | None = None
        try:
            devices = self._bed.show(self._volumes, SIZE_BYTES)
            proof_s = asyncio.run(time_proofs(devices)) if self._case.is_blank else 0.0
            os.sync()  # what rounds before have written is waited for by nobody's sync
            floor_s, floor_cpu_s = self._time_floor(devices)
            self._bed.hide(self._volumes, is_wiped=self._case.is_blank)
            agent = self._start_agent()
            os.sync()
            before_s = read_cpu_s(agent.pid)
            agent_s = self._time_agent(agent)
            agent_cpu_s = read_cpu_s(agent.pid) - before_s
            yield Times(floor_s, proof_s, agent_s, floor_cpu_s, agent_cpu_s), agent.pid
        finally:
            if agent is not None:
                agent.terminate()
                agent.wait(timeout=60)
            self._unmount()
            self._bed.remove(self._volumes)

    def _time_agent(self, agent: subprocess.Popen[bytes]) -> float:
        """Return the seconds from the announcement of the volumes to the last one's mount."""
        if not self._bed.attaches_at_once:
            # Volumes that take a while to attach are announced all at once to an agent that was stopped.
            agent.send_signal(signal.SIGSTOP)
            self._bed.attach(self._volumes)
            agent.send_signal(signal.SIGCONT)
            return self._time_mounts(time.monotonic())
        with hearing_kernel() as monitor:
            self._bed.attach(self._volumes)
            return self._time_mounts(self._wait_announced(monitor))

    def _time_floor(self, devices: Sequence[str]) -> tuple[float, float]:
        """Return the seconds a shell takes, and the processor time."""
        if not self._case.is_blank:
            for device in devices:
                subprocess.run(self._list_make(device), check=True, stdout=subprocess.DEVNULL)
        scripts = [
            self._write_floor(device, path) for device, path in zip(devices, self._mounts, strict=True)
        ]
        before, began = os.times(), time.monotonic()
        shells = [subprocess.Popen(["sh", "-euc", script]) for script in scripts]
        for shell in shells:
            if shell.wait(timeout=WAIT_S) != 0:
                raise RuntimeError(f"the shell's own {self._case.describe()} failed")
        took_s, after = time.monotonic() - began, os.times()
        self._unmount()
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        return took_s, cpu_s

    def _write_floor(self, device: str, path: str) -> str:
        make = self._list_make(device) if self._case.is_blank else ["e2fsck", "-p", device]
        return f"{' '.join(make)} > /dev/null; mkdir -p {path}; mount {device} {path}"

    def _list_make(self, device: str) -> list[str]:
        return build_mkfs_argv(self._case.fs_type, device, uuid=choose_uuid())

    def _start_agent(self) -> subprocess.Popen[bytes]:
        self._paths.policy.parent.mkdir(parents=True)
        filesystem = {"type": str(self._case.fs_type), "format": "if-blank"}
        entries = [
            {
                "name": f"bench-{volume[-4:]}",
                "match": {"volume_id": volume},
                "filesystem": filesystem,
                "mount": {"path": path},
            }
            for volume, path in zip(self._volumes, self._mounts, strict=True)
        ]
        settings = {"allowed_roots": [str(self._data)], "http": {"listen": f"127.0.0.1:{reserve_port()}"}}
        self._paths.policy.write_text(yaml.safe_dump({"version": 1, "agent": settings, "volumes": entries}))
        argv = [*WITH_ME, sys.executable, "-m", "agent", "--root", str(self._paths.root), "run"]
        with self._log.open("wb") as log:
            agent = subprocess.Popen([*argv, *self._bed.list_agent_options()], stdout=log, stderr=log)
        deadline = time.monotonic() + WAIT_S
        while b"agent.ready" not in self._log.read_bytes():
            if agent.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the agent did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)
        wait_at_rest(agent.pid)
        return agent

    def _wait_announced(self, monitor: pyudev.Monitor) -> float:
        """Return when the kernel announced the first of the volumes."""
        while (device := monitor.poll(timeout=WAIT_S)) is not None:
            if self._bed.is_ours(f"/dev/{device.sys_name}"):
                return time.monotonic()
        raise RuntimeError("the kernel announced no volume")

    def _time_mounts(self, began: float) -> float:
        """Return the seconds from ``began`` until every volume is mounted."""
        wanted = set(self._mounts)
        with Path("/proc/self/mountinfo").open(encoding="utf-8") as table:
            poll = select.poll()
            poll.register(table, select.POLLPRI)
            while time.monotonic() < began + WAIT_S:
                if wanted <= {mount.path for mount in read_mounts()}:
                    return time.monotonic() - began
                poll.poll(1000)
        raise RuntimeError(f"the agent did not mount all: {self._log.read_text()[-4000:]}")

    def _unmount(self) -> None:
        for mount in read_mounts():
            if mount.path in self._mounts:
                subprocess.run(["umount", mount.path], check=True)


def wait_at_rest(pid: int) -> None:
    """Return once a process, and all it started, does nothing: what follows its start is not measured."""
    deadline, spent_s = time.monotonic() + WAIT_S, read_cpu_s(pid)
    while time.monotonic() < deadline:
        time.sleep(QUIET_S)
        before_s, spent_s = spent_s, read_cpu_s(pid)
        if spent_s - before_s < QUIET_S * 0.02:
            return
    raise RuntimeError("the agent does not come to rest")


@contextmanager
def hearing_kernel() -> Iterator[pyudev.Monitor]:
    """Listen to the kernel's announcements of block devices for the block."""
    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    monitor.filter_by("block")
    monitor.start()
    yield monitor


async def time_proofs(devices: Sequence[str]) -> float:
    """Return the seconds to prove all of ``devices`` blank at once, as the agent does it: in workers."""
    async with Workers() as workers:
        await asyncio.gather(*(workers.call(os.getpid, timeout_s=60, subject=device) for device in devices))
        began = time.monotonic()
        calls = (workers.call(prove_device, device, timeout_s=WAIT_S, subject=device) for device in devices)
        await asyncio.gather(*calls)
        return time.monotonic() - began


def prove_device(path: str) -> None:
    """Read one device as the agent does before it formats."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        prove_blank(fd, os.lseek(fd, 0, os.SEEK_END))
    finally:
        os.close(fd)


# -- All rounds ----------------------------------------------------------------------------------------------


def measure_bed(bed: Bed, base: Path, rounds: int, idle_s: float) -> dict[str, Any]:
    """Measure every case on one kind of device; return medians in seconds as JSON values."""
    number = 1
    cases: dict[str, dict[str, float]] = {}
    for case in CASES:
        times = []
        for _ in range(rounds if case.volumes == 1 else max(1, rounds // 2)):
            times.append(asdict(Round(bed, case, base / str(number), number).measure()))
            number += case.volumes
        medians = {key: statistics.median(t[key] for t in times) for key in times[0]}
        cases[case.describe()] = {"volumes": case.volumes, **medians}
    rest = Round(bed, CASES[-1], base / str(number), number).measure_rest(idle_s) if idle_s else None
    return {"bed": bed.name, "cases": cases, "rest": None if rest is None else asdict(rest)}


def show(found: dict[str, Any]) -> None:
    """Print what was measured on one kind of device."""
    print(f"on {found['bed']}, {SIZE_BYTES >> 20} MiB each; seconds, medians")
    print(f"{'':<26}{'floor':>8}{'proof':>8}{'agent':>8}{'ratio':>8}", end="")
    print(f"{'own share':>14}{'cpu: floor':>12}{'agent':>8}")
    for name, times in found["cases"].items():
        floor_s, proof_s, agent_s = times["floor_s"], times["proof_s"], times["agent_s"]
        own_ms = 1000 * (agent_s - floor_s - proof_s) / times["volumes"]
        ratio = agent_s / (floor_s + proof_s)
        print(f"{name:<26}{floor_s:>8.2f}{proof_s:>8.2f}{agent_s:>8.2f}{ratio:>7.2f}x", end="")
        print(f"{own_ms:>6.0f} ms each{times['floor_cpu_s']:>12.2f}{times['agent_cpu_s']:>8.2f}")
    print("ratio: agent / (floor + proof); own share: agent - floor - proof, divided by the volumes")
    rest = found["rest"]
    if rest is not None:
        print(f"at rest with {rest['volumes']} volumes: {rest['cpu_percent']:.2f} % of a core,", end=" ")
        print(f"{rest['pss_bytes'] / 1e6:.0f} MB proportional set size")


def main() -> None:
    """Measure on loop devices, then on NVMe devices in a guest where there can be one."""
    # What boots guests is not there in the guest, where this module runs too.
    from bench.in_guest import run_in_guest  # noqa: PLC0415
    from tests.vm.guest.availability import vm_unavailable_reason  # noqa: PLC0415

    with working_directory() as base:
        show(measure_bed(LoopBed(base), base, ROUNDS, IDLE_S))
    reason = vm_unavailable_reason()
    if reason is None:
        env = {"BENCH_ROUNDS": str(ROUNDS), "BENCH_IDLE_SECONDS": str(IDLE_S)}
        # Not by -m: what workers are to call must be found in a module they can import.
        show(
            json.loads(run_in_guest(["-c", "from bench.mounting import main_in_guest; main_in_guest()"], env))
        )
    else:
        print(f"not measured on NVMe devices: {reason}")


def main_in_guest() -> None:
    """Measure on this machine's own NVMe target and print it as JSON."""
    base = Path("/scratch/bench")
    base.mkdir()
    print(json.dumps(measure_bed(NvmetBed(), base, ROUNDS, IDLE_S)))
