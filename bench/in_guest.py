"""Runs a measurement in a guest of the guest tests: its kernel has what this machine's may lack."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.vm.guest import Guest, GuestOptions
from tests.vm.guest.agent_disk import REPOSITORY
from tests.vm.guest.guest import AGENT_HOME
from tests.vm.guest.settings import CACHE, SHARED_GUEST

COPY = Path("/scratch/bench-repo")
COPIED = ("agent", "bench", "tests")
TIMEOUT_S = 1800.0


def run_in_guest(arguments: list[str], env: dict[str, str]) -> str:
    """Run Python with these arguments and the agent's dependencies in a guest; return what it printed."""
    running = None if SHARED_GUEST is None else Guest.find(CACHE / "guests" / SHARED_GUEST)
    guest = running or Guest.boot(GuestOptions(has_agent=True))
    try:
        guest.run(["rm", "-rf", str(COPY), "/scratch/bench"])
        guest.put_tree(REPOSITORY, str(COPY), names=COPIED)
        guest.run(["modprobe", "-a", "ext4", "xfs"])
        done = guest.run(
            [f"{AGENT_HOME}/bin/python", *arguments],
            check=False,
            timeout_s=TIMEOUT_S,
            env={"PYTHONPATH": str(COPY), **env},
            cwd=str(COPY),
        )
        sys.stderr.write(done.stderr.decode())
        done.check_returncode()
        return done.stdout.decode()
    finally:
        (guest.detach if guest is running else guest.close)()
