"""A real agent in a process of its own, over stand-in volumes in a scratch directory: real mkfs, real mounts.

``AgentProcess`` is the test's handle on it; ``Scratch`` holds its files and takes everything down again.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.base.paths import Paths
from agent.cli.client import Client
from agent.core.errors import AgentError
from tests.leftovers import take_away_below
from tests.waiting import WAIT_S, wait_until

MIB = 1024**2


def reserve_port() -> int:
    """Return a TCP port of the loopback address that nobody but a server told of it is given.

    It stays bound for as long as this process lives, which keeps the kernel from giving it to anybody who
    asks for any port, but not from a server that asks for this very one, as long as nobody listens on it.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    holder.detach()
    return port


def hand_over(descriptors: Mapping[str, int], argv: list[str]) -> list[str]:
    """Return what starts a program with these descriptors as 3, 4, … (sd_listen_fds(3))."""
    if not descriptors:
        return argv
    moves = " ".join(f"{to}<&{fd} {fd}<&-" for to, fd in enumerate(descriptors.values(), start=3))
    said = f"LISTEN_FDS={len(descriptors)} LISTEN_FDNAMES={':'.join(descriptors)}"
    return ["bash", "-c", f'exec env LISTEN_PID=$$ {said} "$@" {moves}', "agent", *argv]


@dataclass(frozen=True)
class Scratch:
    """Directories of one test's agent: its own files, the stand-in volumes, and where they are mounted."""

    base: Path

    @property
    def root(self) -> Path:
        return self.base / "root"

    @property
    def devices(self) -> Path:
        return self.base / "devices"

    @property
    def data(self) -> Path:
        return self.base / "data"

    @property
    def kubelet(self) -> Path:
        """What an agent may be told is kubelet's root; whoever plays kubelet makes it.

        Its sockets have long names, and all of a socket's path has 107 bytes.
        """
        return self.base / "k"

    @property
    def paths(self) -> Paths:
        return Paths(self.root)

    def prepare(self) -> Scratch:
        """Make the directories."""
        for directory in (self.paths.policy.parent, self.devices, self.data):
            directory.mkdir(parents=True)
        return self

    def write_policy(
        self, *volumes: Mapping[str, Any], classes: Mapping[str, Any] | None = None, **agent: Any
    ) -> None:
        """Write a policy with these volume entries, and ``agent`` settings beside the usual ones."""
        http = {"listen": f"127.0.0.1:{reserve_port()}"}
        settings = {
            "allowed_roots": [str(self.data)],
            "http": http,
            "resync": "5s",
            **agent,
        }
        policy = {"version": 1, "agent": settings, "classes": dict(classes or {}), "volumes": list(volumes)}
        self.paths.policy.write_text(yaml.safe_dump(policy))

    def add_volume(self, volume: str, size_bytes: int = 512 * MIB) -> Path:
        """Attach a volume of zeros."""
        return self.put_volume(volume, lambda image: os.truncate(image, size_bytes))

    def put_volume(self, volume: str, fill: Callable[[Path], object]) -> Path:
        """Attach a volume that ``fill`` has written first: it appears whole, as an attached one does."""
        made = self.base / f"{volume}.new"
        made.touch()
        fill(made)
        return made.rename(self.image(volume))

    def image(self, volume: str) -> Path:
        return self.devices / f"{volume}.img"

    def clean(self) -> None:
        """Unmount and detach everything of this test's, innermost mounts first."""
        take_away_below(self.base)


class AgentProcess:
    """A running ``ebs-agent run --devices``."""

    def __init__(self, scratch: Scratch) -> None:
        self.environment: dict[str, str] = {}
        """Variables to start it with, beside the test's own."""
        self.stored: Mapping[str, int] = {}
        """Descriptors from 64 on to hand over at its start, by name, as systemd does with those it stores."""
        self.module = "agent"
        """What is run as it."""
        self._scratch = scratch
        self._log = scratch.base / "agent.base.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = Client(scratch.paths.socket)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *, wait: bool = True) -> AgentProcess:
        """Start the agent, and wait until its first full look is done."""
        # A run that is killed leaves no agent, which would mount anew what the next run takes away.
        argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", self.module]
        argv += ["--root", str(self._scratch.root)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                hand_over(self.stored, [*argv, "run", "--devices", str(self._scratch.devices)]),
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                pass_fds=tuple(self.stored.values()),
            )
        if wait:
            wait_until(self._is_started, "the agent started")
        return self

    def _is_started(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (
            f"the agent ended with {self._process.returncode}:\n{self.read_log()}"
        )
        return "agent.ready" in self.read_log()

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        status = self._process.wait(timeout=WAIT_S)
        self._log.rename(self._log.with_suffix(f".{self._process.pid}"))
        self._process = None
        return status

    def end_anyhow(self) -> None:
        """End it whatever state it is in, for cleaning up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=WAIT_S)

    def reload(self) -> None:
        """Send SIGHUP."""
        os.kill(self.pid, signal.SIGHUP)

    def read_log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def read_events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event, but for a line that is being written."""
        whole = self.read_log().rpartition("\n")[0].splitlines()
        lines = (json.loads(line) for line in whole if line.startswith("{"))
        return [line for line in lines if line.get("event") == name]

    def status(self, volume: str) -> dict[str, Any]:
        """Return a volume's status; empty where the agent does not know it or does not answer."""
        try:
            return self.client.volume_status(volume)
        except AgentError:
            return {}

    def wait_device(self, volume: str) -> str:
        """Return the device node of a volume once it was looked at."""
        device: str = wait_until(lambda: self.status(volume).get("device"), f"{volume} was looked at")
        return device

    def wait_condition(self, volume: str, condition: str, reason: str | None = None) -> dict[str, Any]:
        """Return the volume's status once it is in ``condition``, for ``reason`` if one is given."""
        found: dict[str, Any] = {}

        def is_reached() -> bool:
            found.clear()
            found.update(self.status(volume))
            return found.get("condition") == condition and reason in {None, found.get("reason")}

        try:
            wait_until(is_reached, f"{volume} {condition}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {found}\n{self.read_log()[-4000:]}") from None
        return found
