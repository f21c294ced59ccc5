"""From kubelet's call to a pod's usable mount, against a bare shell; registering; being asked how full it is.

The floor is ``mkfs && mount && mount --bind`` or ``e2fsck && mount && mount --bind`` by a shell that knows
which device is which, on the same devices just before. kubelet is one of ours: a connection for each call.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.base.paths import Paths
from agent.core.model import FsType
from agent.node.filesystem.format_guard import choose_uuid
from agent.node.filesystem.mkfs import build_mkfs_argv
from agent.node.kernel.mountinfo import read_mounts
from bench.beds import LoopBed
from bench.hung import disk_of_its_own, hanging
from bench.mounting import time_proofs
from bench.processes import read_cpu_s, read_pss_bytes
from bench.scratch import WITH_ME, working_directory
from tests.agent_process import reserve_port
from tests.csi.kubelet import Kubelet, running_kubelet
from tests.csi.places import Claim

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "4"))
SIZE_BYTES = 512 << 20
MANY = 20
MEASURED = 128
WAIT_S = 300.0
HEALTH_S = 20.0
"""Longer than the interval at which a volume that is written to is sampled."""
DRIVER = "ebs.csi.hyperpod-agent"


@dataclass(frozen=True)
class Times:
    """One round, in seconds."""

    floor_s: float
    proof_s: float
    agent_s: float
    agent_cpu_s: float
    """Processor time, with all that the agent started: it says the same on a busy machine."""
    registered_s: float
    """From the start of the agent's process to kubelet's having registered it."""
    pss_bytes: int


def measure_round(base: Path, count: int, first: int, *, is_blank: bool) -> Times:
    """Measure the floor, then the agent, on fresh volumes, and leave nothing behind."""
    bed = LoopBed(base)
    volumes = [f"vol-0{first + number:016x}" for number in range(count)]
    devices = bed.show(volumes, SIZE_BYTES)
    proof_s = asyncio.run(time_proofs(devices)) if is_blank else 0.0
    floor_s = time_floor(base, devices, is_blank=is_blank)
    bed.hide(volumes, is_wiped=is_blank)
    claims = [Claim(volume) for volume in volumes]
    with running_agent(base, bed) as (kubelet, pid, registered_s):
        bed.attach(volumes)
        # kubelet calls for what is attached; the agent has met the devices by then.
        time.sleep(2.0)
        # kubelet asks this before each stage and publish; it is no part of either.
        kubelet.begin(kubelet.node.get_capabilities).result(WAIT_S)
        before_s, began = read_cpu_s(pid), time.monotonic()
        calls = [kubelet.begin(stage_and_publish, kubelet, claim) for claim in claims]
        for call in calls:
            call.result(WAIT_S)
        agent_s = time.monotonic() - began
        agent_cpu_s = read_cpu_s(pid) - before_s
        pss_bytes = read_pss_bytes(pid)
        for claim in claims:
            kubelet.unpublish(claim)
            kubelet.unstage(claim)
    bed.remove(volumes)
    return Times(floor_s, proof_s, agent_s, agent_cpu_s, registered_s, pss_bytes)


async def stage_and_publish(kubelet: Kubelet, claim: Claim) -> None:
    """Do as kubelet does for a pod that begins."""
    await kubelet.node.stage(claim)
    await kubelet.node.publish(claim, "pod")


def time_floor(base: Path, devices: Sequence[str], *, is_blank: bool) -> float:
    """Return the seconds a shell takes for all devices at once."""
    scripts = []
    for number, device in enumerate(devices):
        make = build_mkfs_argv(FsType.EXT4, device, uuid=choose_uuid())
        if not is_blank:
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
        first = make if is_blank else ["e2fsck", "-p", device]
        staged, seen = base / f"staged-{number}", base / f"seen-{number}"
        then = f"mkdir -p {staged} {seen}; mount {device} {staged}; mount --bind {staged} {seen}"
        scripts.append(f"{' '.join(first)} > /dev/null; {then}")
    began = time.monotonic()
    shells = [subprocess.Popen(["sh", "-euc", script]) for script in scripts]
    if any(shell.wait(timeout=WAIT_S) for shell in shells):
        raise RuntimeError("the shell's own commands failed")
    took_s = time.monotonic() - began
    for mount in reversed(read_mounts()):
        if mount.path.startswith((f"{base}/staged-", f"{base}/seen-")):
            subprocess.run(["umount", mount.path], check=True)
    return took_s


@contextmanager
def running_agent(base: Path, bed: LoopBed) -> Iterator[tuple[Kubelet, int, float]]:
    """Run an agent with a kubelet that has registered it; give both, and how long that took in seconds."""
    paths, root = Paths(base / "root"), base / "kubelet"
    root.mkdir(mode=0o750)
    paths.policy.parent.mkdir(parents=True)
    csi = {"enabled": True, "driver": DRIVER, "kubelet_root": str(root)}
    agent = {"csi": csi, "http": {"listen": f"127.0.0.1:{reserve_port()}"}, "cloud": {"enabled": False}}
    paths.policy.write_text(yaml.safe_dump({"version": 1, "agent": agent, "volumes": []}))
    argv = [*WITH_ME, sys.executable, "-m", "agent", "--root", str(paths.root), "run"]
    log = base / "agent.log"
    with running_kubelet(root, DRIVER) as kubelet, log.open("wb") as file:
        began = time.monotonic()
        process = subprocess.Popen([*argv, *bed.list_agent_options()], stdout=file, stderr=file)
        try:
            kubelet.wait_registered()
            yield kubelet, process.pid, time.monotonic() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def measure_stats(base: Path) -> tuple[list[float], list[float]]:
    """Return the seconds of being told how full a volume is: with none of many hung, and with one of them."""
    bed = LoopBed(base)
    hung, *volumes = (f"vol-0{0xF000 + number:016x}" for number in range(MEASURED))
    size_bytes = 32 << 20
    bed.show(volumes, size_bytes)
    bed.hide(volumes, is_wiped=False)
    claims = [Claim(volume) for volume in (hung, *volumes)]
    image = bed.devices / f"{hung}.img"
    with disk_of_its_own(base, image, size_bytes) as place, running_agent(base, bed) as (kubelet, _, _):
        bed.attach(volumes)
        time.sleep(2.0)
        for call in [kubelet.begin(stage_and_publish, kubelet, claim) for claim in claims]:
            call.result(WAIT_S)
        with_none = time_measuring(kubelet, claims)
        with hanging(place, kubelet.stage(claims[0])):
            # Long enough for the agent to have asked it for its health, in vain.
            time.sleep(HEALTH_S)
            with_one = time_measuring(kubelet, claims)
        for claim in claims:
            kubelet.unpublish(claim)
            kubelet.unstage(claim)
    bed.remove(volumes)
    return with_none, with_one


def time_measuring(kubelet: Kubelet, claims: Sequence[Claim]) -> list[float]:
    """Return the seconds of each answer when all volumes are asked for three times, one after the other."""
    took: list[float] = []
    for claim in (*claims, *claims, *claims):
        began = time.monotonic()
        kubelet.measure(claim)
        took.append(time.monotonic() - began)
    return took


def find_median(rounds: Sequence[Times], read: Callable[[Times], Any]) -> float:
    """Return the median of one figure over all rounds."""
    return float(statistics.median(read(times) for times in rounds))


def main() -> None:
    """Measure each case and print it."""
    registered: list[Times] = []
    print(f"on loop devices, {SIZE_BYTES >> 20} MiB each, ext4; seconds, medians")
    print(f"{'':<24}{'floor':>8}{'proof':>8}{'agent':>8}{'ratio':>8}{'own share':>14}{'cpu: agent':>12}")
    with working_directory() as directory:
        number = 1
        for count, is_blank in ((1, True), (1, False), (MANY, True), (MANY, False)):
            rounds = []
            for turn in range(ROUNDS if count == 1 else max(1, ROUNDS // 2)):
                base = directory / f"{count}-{is_blank}-{turn}"
                rounds.append(measure_round(base, count, number, is_blank=is_blank))
                number += count
            registered += rounds
            floor_s = find_median(rounds, lambda times: times.floor_s)
            proof_s = find_median(rounds, lambda times: times.proof_s)
            agent_s = find_median(rounds, lambda times: times.agent_s)
            agent_cpu_s = find_median(rounds, lambda times: times.agent_cpu_s)
            name = f"{'blank' if is_blank else 'existing'}, {count} volume{'s' if count > 1 else ''}"
            own_ms = 1000 * (agent_s - floor_s - proof_s) / count
            print(f"{name:<24}{floor_s:>8.2f}{proof_s:>8.2f}{agent_s:>8.2f}", end="")
            print(
                f"{agent_s / (floor_s + proof_s):>7.2f}x{own_ms:>6.0f} ms each{agent_cpu_s:>12.2f}",
                flush=True,
            )
        print("ratio: agent / (floor + proof); own share: agent - floor - proof, divided by the volumes")
        took_s = find_median(registered, lambda times: times.registered_s)
        print(f"registered {took_s:.2f} s after the agent's process was started")
        print(f"{find_median(registered, lambda times: times.pss_bytes) / 1e6:.0f} MB proportional set size")
        for name, took in zip(("none", "one"), measure_stats(directory / "stats"), strict=True):
            p50_ms, p99_ms = 1000 * statistics.median(took), 1000 * statistics.quantiles(took, n=100)[98]
            print(f"asked how full {MEASURED} volumes are, {name} of them hung:", end=" ")
            print(f"p50 {p50_ms:.1f} ms, p99 {p99_ms:.1f} ms, at most {1000 * max(took):.1f} ms")
