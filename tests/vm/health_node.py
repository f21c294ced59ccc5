"""A node of twenty EBS volumes for the health tests, one of them stalled for as long as the node lasts.

Every case has a volume of its own in one policy, attaches it, does it harm and leaves it, so that the agent
is started once. What shows only with time begins with the node: a stall, a filesystem that fills slowly, one
that does not grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from tests.vm.ebs import EbsTarget
from tests.vm.guest import Guest
from tests.vm.guest_agent import UNIT, WAIT_S, GuestAgent, make_entry

MIB = 1 << 20
SIZE_BYTES = 256 * MIB
FILLING_BYTES = 2048 * MIB
METRICS = "http://127.0.0.1:9842/metrics"
FETCH = (
    "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=30).read().decode())"
)
RAW = tuple(f"raw{number}" for number in range(16))
FROM_THE_START = ("stalled", "filling", "ungrown", "neighbour", *RAW)
FILESYSTEMS: dict[str, dict[str, Any]] = {
    # The kernel refuses to grow one of these while it is mounted.
    "ungrown": {
        "filesystem": {"type": "ext4", "format": "if-blank", "mkfs_options": ["-O", "sparse_super2"]},
        "grow": True,
    },
    "no-files": {"filesystem": {"type": "ext4", "format": "if-blank", "mkfs_options": ["-N", "128"]}},
    "read-only": {"mount": {"path": "/data/read-only", "options": ["errors=remount-ro"]}},
    "shut-down": {"filesystem": {"type": "xfs", "format": "if-blank"}},
}
NAMES = (
    *FROM_THE_START, *FILESYSTEMS, "busy", "foreign", "no-page", "silent", "severed", "unreadable",
    "unwritable", "nearly-full", "slow", "short-timeout", "pulled",
)  # fmt: skip
FILL = """
fallocate -l $1 /data/filling/most
number=0
while dd if=/dev/zero of=/data/filling/part$number bs=1M count=1 2> /dev/null; do
    number=$((number + 1))
    sleep 4
done
"""


def name_volume(name: str) -> str:
    """Return the ID of the volume that the policy calls ``name``."""
    return f"vol-0{1 + list(dict.fromkeys(NAMES)).index(name):016x}"


def series(metric: str, name: str, **labels: str) -> str:
    """Return the name and labels of a volume's series, as the exposition writes them."""
    pairs = ",".join(f'{key}="{value}"' for key, value in {"volume_id": name_volume(name), **labels}.items())
    return f"ebs_agent_{metric}{{{pairs}}}"


class HealthNode:
    """The guest, its emulated EBS and its agent. Volumes go by their name in the policy."""

    def __init__(self, guest: Guest, ebs: EbsTarget) -> None:
        self.guest = guest
        self.ebs = ebs
        self.agent = GuestAgent(guest).install()
        self.stalled_at = 0.0

    def begin(self) -> None:
        """Attach the twenty, start the agent, and begin what takes its time."""
        raw = [{"name": name, "match": {"volume_id": name_volume(name)}, "block": {}} for name in RAW]
        mounted = [_make_entry(name) for name in dict.fromkeys(NAMES) if name not in RAW]
        # This kernel's ext4 shows for certain by nothing but a write that it takes none after an error.
        health = {"interval": "4s", "write_probe": True}
        self.agent.write_policy(*mounted, *raw, health=health, resync="30s")
        self.ebs.call_all([_attach(name) for name in FROM_THE_START])
        self.agent.start()
        for name in FROM_THE_START:
            self.wait(name, "Ready")
        self.call("stall", "stalled")
        self.stalled_at = monotonic()
        self.call("grow", "ungrown", size_bytes=2 * SIZE_BYTES)
        self.guest.start_command(["sh", "-euc", FILL, "sh", str(FILLING_BYTES * 70 // 100)])

    def attach(self, name: str) -> dict[str, Any]:
        """Attach a volume and return its status once it can be used."""
        self.begin_attach(name)
        return self.wait(name, "Ready")

    def begin_attach(self, name: str) -> None:
        """Attach a volume; the agent finds it by itself."""
        self.ebs.call_all([_attach(name)])

    def call(self, do: str, name: str, **arguments: Any) -> None:
        """Do something to a volume (see tests/ebs/control.py)."""
        self.ebs.call(do, volume=name_volume(name), **arguments)

    def wait(self, name: str, condition: str, reason: str | None = None) -> dict[str, Any]:
        """Return a volume's status once it is in ``condition``, for ``reason`` if one is given."""
        return self.agent.wait_condition(name_volume(name), condition, reason)

    def wait_verdict(self, name: str, reason: str) -> dict[str, Any]:
        """Return a volume's verdict of ``reason`` once it has it, worst of all or not."""
        status = self.agent.wait_verdict(name_volume(name), reason)
        found: dict[str, Any] = next(each for each in status["verdicts"] if each["reason"] == reason)
        return found

    def wait_until_so(self, is_so: Any) -> None:
        """Wait until something is true, asking again and again."""
        # Each question starts a program in the guest, whose processors are slow.
        self.guest.wait_until(is_so, timeout_s=WAIT_S, every_s=1.0)

    def scrape(self) -> str:
        """Return the agent's exposition."""
        return self.guest.run(["python3", "-I", "-S", "-c", FETCH, METRICS]).stdout.decode()

    def read_series(self) -> dict[str, float]:
        """Return the agent's series by their name and labels."""
        lines = (line.rpartition(" ") for line in self.scrape().splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines if name}

    def wait_samples(self, name: str, count: int = 3) -> None:
        """Wait until a volume was sampled a few times more: each sample reads one block."""
        metric = series("block_read_ops_total", name)
        begin = self.read_series()[metric]
        self.wait_until_so(lambda: self.read_series()[metric] >= begin + count)

    def show_unit(self, *properties: str) -> dict[str, str]:
        """Return properties of the agent's unit."""
        argv = ["systemctl", "show", UNIT, *(f"--property={name}" for name in properties)]
        lines = self.guest.run(argv).stdout.decode().splitlines()
        return dict(line.split("=", 1) for line in lines)


def _make_entry(name: str) -> dict[str, Any]:
    return make_entry(name_volume(name), path=f"/data/{name}", **FILESYSTEMS.get(name, {}))


def _attach(name: str) -> dict[str, Any]:
    # mkfs.xfs makes nothing smaller than 300 MiB.
    size_bytes = {"filling": FILLING_BYTES, "shut-down": 2 * SIZE_BYTES}.get(name, SIZE_BYTES)
    return {"do": "attach", "volume": name_volume(name), "size_bytes": size_bytes}


@contextmanager
def run_health_node(guest: Guest) -> Iterator[HealthNode]:
    """Give the node, and take it down again."""
    with EbsTarget(guest) as ebs:
        node = HealthNode(guest, ebs)
        try:
            node.begin()
            yield node
        finally:
            node.agent.stop()
