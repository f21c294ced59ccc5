"""What starting costs: the daemon's import, the agent until it is ready, each command, and then its memory.

Processor time, since a busy machine stretches all else, and as a multiple of ``python -c 'import asyncio'``
in the same run, since machines differ.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from bench.processes import list_family, read_cpu_s, read_pss_bytes
from bench.scratch import make_entry
from tests.agent_process import AgentProcess, Scratch, reserve_port
from tests.waiting import wait_until

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
VOLUMES, MANY = 20, 128
SETTLE_S = 35.0
"""Longer than workers without work are kept beside one."""

FLOOR = ("-c", "import asyncio")
MODULES = ("agent.daemon", "agent.policy", "agent.policy.reading", "agent.cli.app", "agent.report.web.main")
PROGRAMS = (
    (b"agent.report.web", "web"),
    (b"agent.report.broker", "mqtt"),
    (b"agent.cloud.aws_worker", "cloud"),
)
COMMANDS: tuple[tuple[str, ...], ...] = (("--version",), ("status",), ("wait",), ("check",), ("plan",))


def time_python(arguments: Sequence[str]) -> float:
    """Return the seconds of processor time that one run of this Python takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def time_agent(scratch: Scratch) -> float:
    """Return the seconds of processor time that an agent without volumes, all of it, takes to be ready."""
    with running(scratch) as agent:
        return read_cpu_s(agent.pid)


@contextmanager
def running(scratch: Scratch) -> Iterator[AgentProcess]:
    """Run an agent for the block."""
    agent = AgentProcess(scratch)
    try:
        yield agent.start()
        agent.stop()
    finally:
        agent.end_anyhow()


def measure_times(scratch: Scratch) -> dict[str, list[float]]:
    """Return the times of everything, measured in turns so that what else goes on meets all alike."""
    runs: dict[str, tuple[str, ...]] = {
        "floor: import asyncio": FLOOR,
        **{f"import {module}": ("-c", f"import {module}") for module in MODULES},
    }
    root = ("--root", str(scratch.root))
    commands = {f"ebs-agent {' '.join(words)}": ("-m", "agent", *root, *words) for words in COMMANDS}
    times: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, arguments in runs.items():
            times.setdefault(name, []).append(time_python(arguments))
        times.setdefault("agent until ready", []).append(time_agent(scratch))
    with running(scratch):
        for _ in range(ROUNDS):
            for name, arguments in commands.items():
                times.setdefault(name, []).append(time_python(arguments))
    return times


def measure_memory(base: Path) -> None:
    """Print what each process of an agent with many volumes holds, before anybody asked it and after."""
    with mounted(base / "asked", VOLUMES) as (agent, scratch):
        show_memory(VOLUMES, "before anybody asked", agent)
        agent.client.status()
        time.sleep(SETTLE_S)
        show_memory(VOLUMES, "once somebody has", agent)
        scrape(scratch)
        time.sleep(SETTLE_S)
        show_memory(VOLUMES, "once scraped", agent)
    if shutil.which("mosquitto") is None:
        print("with a broker: not measured, mosquitto is not installed")
    else:
        port = reserve_port()
        mqtt = {"host": "127.0.0.1", "port": port}
        with broker(port), mounted(base / "mqtt", VOLUMES, mqtt=mqtt) as (agent, _):
            show_memory(VOLUMES, "with a broker", agent)
        bare = measure_bare("import asyncio, ssl, aiomqtt") / 1e6
        print(f"floor of the process that publishes, import asyncio, ssl, aiomqtt: {bare:.1f} MB", flush=True)
    with mounted(base / "many", MANY) as (agent, _):
        show_memory(MANY, "before anybody asked", agent)


def show_memory(volumes: int, when: str, agent: AgentProcess) -> None:
    """Print the proportional set size of an agent, of all its processes and each."""
    print(f"{volumes} volumes at rest, {when + ':':<22}{describe_memory(agent.pid)}", flush=True)


def measure_bare(code: str) -> int:
    """Return the proportional set size in bytes of a Python that does no more than ``code``."""
    program = [sys.executable, "-I", "-c", f"{code}\nprint(flush=True)\ninput()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        size = read_pss_bytes(process.pid, is_alone=True)
        process.stdin.write(b"\n")
        process.stdin.close()
    return size


@contextmanager
def mounted(base: Path, count: int, **settings: Any) -> Iterator[tuple[AgentProcess, Scratch]]:
    """Run an agent with so many volumes for the block, which begins when all have rested for a while."""
    base.mkdir()
    scratch = Scratch(base).prepare()
    volumes = [f"vol-0{number:016x}" for number in range(count)]
    scratch.write_policy(*(make_entry(scratch, volume) for volume in volumes), **settings)
    for volume in volumes:
        scratch.add_volume(volume)
    try:
        with running(scratch) as agent:
            wait_until(lambda: len(agent.read_events("volume.ready")) == count, "all volumes are ready", 600)
            time.sleep(SETTLE_S)
            yield agent, scratch
    finally:
        scratch.clean()


@contextmanager
def broker(port: int) -> Iterator[None]:
    """Run a mosquitto at a port of this machine for the block."""
    process = subprocess.Popen(["mosquitto", "-p", str(port)], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def describe_memory(pid: int) -> str:
    """Return the proportional set size of a process and all below it, together and each."""
    family = list_family(pid)
    each = " + ".join(
        f"{read_pss_bytes(member, is_alone=True) / 1e6:.1f} {name_process(member, pid)}" for member in family
    )
    return f"{read_pss_bytes(pid) / 1e6:.0f} MB = {each}"


def name_process(member: int, daemon: int) -> str:
    """Return what one of an agent's processes is for."""
    if member == daemon:
        return "daemon"
    command = Path(f"/proc/{member}/cmdline").read_bytes()
    for part, name in PROGRAMS:
        if part in command:
            return name
    status = Path(f"/proc/{member}/status").read_text("utf-8")
    return "zygote" if f"\nPPid:\t{daemon}\n" in status else "worker"


def scrape(scratch: Scratch) -> None:
    """Ask for the metrics once."""
    address = yaml.safe_load(scratch.paths.policy.read_text())["agent"]["http"]["listen"]
    with urlopen(f"http://{address}/metrics", timeout=60) as answer:
        answer.read()


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="ebs-agent-startup-") as directory:
        scratch = Scratch(Path(directory)).prepare()
        scratch.write_policy()
        times = measure_times(scratch)
        floor_s = statistics.median(next(iter(times.values())))
        print("processor time in ms, medians, and as a multiple of the floor")
        for name, all_s in times.items():
            median_s = statistics.median(all_s)
            print(f"{name:<28}{1000 * median_s:>6.0f}{median_s / floor_s:>7.1f}x")
        measure_memory(scratch.base)


if __name__ == "__main__":
    main()
