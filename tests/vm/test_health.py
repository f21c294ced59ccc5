"""Every verdict by a real fault, in the guest: emulated EBS volumes under the installed agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.vm.ebs import EbsTarget
from tests.vm.guest import Guest
from tests.vm.guest_agent import WAIT_S, GuestAgent, make_entry

pytestmark = pytest.mark.nightly

GIB = 1 << 30
VOLUME = "vol-0123456789abcdef0"
METRICS = "http://127.0.0.1:9842/metrics"
HEALTH = {"interval": "2s"}
FETCH = (
    "import sys, urllib.request as u; sys.stdout.write(u.urlopen(sys.argv[1], timeout=30).read().decode())"
)
TIMED = f"import time; began = time.monotonic()\n{FETCH}\nprint(); print(time.monotonic() - began)"
"""Fetches a page and prints how long the agent took, without the guest's own slowness around it."""


@pytest.fixture
def agent(guest: Guest) -> GuestAgent:
    """Give the shared guest's agent, stopped, with no policy and no state."""
    return GuestAgent(guest).install()


@pytest.fixture
def ebs(guest: Guest) -> Iterator[EbsTarget]:
    """Give emulated EBS volumes."""
    with EbsTarget(guest) as target:
        yield target


def start(agent: GuestAgent, ebs: EbsTarget, fs_type: str = "ext4", **health: Any) -> None:
    """Have one volume formatted and mounted by an agent that samples often."""
    agent.write_policy(make_entry(VOLUME, fs_type), health={**HEALTH, **health})
    ebs.attach(VOLUME, GIB)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")


def wait(agent: GuestAgent, is_reached: Callable[[], object]) -> None:
    """Wait until something is so, asking the guest again and again."""
    agent.guest.wait_until(lambda: bool(is_reached()), timeout_s=WAIT_S)


def scrape(agent: GuestAgent) -> dict[str, float]:
    """Return the agent's series by their name and labels."""
    text = agent.guest.run(["python3", "-I", "-S", "-c", FETCH, METRICS]).stdout.decode()
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def series(name: str, volume: str = VOLUME, **labels: str) -> str:
    pairs = ",".join(f'{key}="{value}"' for key, value in {"volume_id": volume, **labels}.items())
    return f"ebs_agent_{name}{{{pairs}}}"


def test_statistics_of_a_real_log_page(agent: GuestAgent, ebs: EbsTarget) -> None:
    """EBS's own counters, by its log page through the kernel, move with what is written and read."""
    start(agent, ebs)
    wait(agent, lambda: series("volume_write_bytes_total") in scrape(agent))
    before = scrape(agent)
    agent.guest.shell("dd if=/dev/urandom of=/data/ckpt/file bs=1M count=32 oflag=direct 2> /dev/null")
    name = series("volume_write_bytes_total")
    wait(agent, lambda: scrape(agent)[name] >= before[name] + 32 * (1 << 20))
    after = scrape(agent)
    assert after[series("volume_write_io_latency_seconds_sum")] > 0
    assert (
        after[series("volume_write_io_latency_seconds_count")]
        == after[series("volume_write_io_latency_seconds_bucket", le="+Inf")]
        > 0
    )


def test_stalled(agent: GuestAgent, ebs: EbsTarget) -> None:
    """A volume that holds every command is Failed as Stalled, scrapes go on at once, and it comes back."""
    start(agent, ebs)
    ebs.call("stall", volume=VOLUME)
    status = agent.wait_condition(VOLUME, "Failed", "Stalled")
    assert status["device"] is not None
    assert status["path"] == "/data/ckpt"
    for _ in range(5):
        answer = agent.guest.run(["python3", "-I", "-S", "-c", TIMED, METRICS]).stdout.decode()
        assert f"{series('volume_stalled')} 1\n" in answer
        assert float(answer.splitlines()[-1]) < 1.0
    ebs.call("resume", volume=VOLUME)
    agent.wait_condition(VOLUME, "Ready")


def test_stalled_altogether(agent: GuestAgent, ebs: EbsTarget) -> None:
    """One that does not even say who it is any more is Stalled, and the agent stops in time all the same."""
    start(agent, ebs)
    ebs.call("stall", volume=VOLUME, admin=True)
    agent.wait_condition(VOLUME, "Failed", "Stalled")
    began = time.monotonic()
    agent.stop()
    assert time.monotonic() - began < 30
    ebs.call("resume", volume=VOLUME)


def test_read_errors(agent: GuestAgent, ebs: EbsTarget) -> None:
    """A volume whose first block cannot be read is Failed as IoErrors."""
    start(agent, ebs)
    ebs.call("fail", volume=VOLUME, operations=["read"], first=0, end=4096)
    agent.wait_condition(VOLUME, "Failed", "IoErrors")
    ebs.call("heal", volume=VOLUME)


def test_write_errors_make_it_read_only(agent: GuestAgent, ebs: EbsTarget) -> None:
    """An ext4 whose journal cannot be written takes no writes any more, and is Failed as such."""
    start(agent, ebs)
    ebs.call("fail", volume=VOLUME, operations=["write"])
    agent.guest.run(["sh", "-c", "echo x > /data/ckpt/file; sync /data/ckpt/file"], check=False)
    wait(agent, lambda: agent.read_status(VOLUME).get("condition") in {"Failed", "Degraded"})
    wait(
        agent,
        lambda: (
            {"ReadOnly", "FilesystemErrors", "ShutDown"}
            & {verdict["reason"] for verdict in agent.read_status(VOLUME).get("verdicts", [])}
        ),
    )
    ebs.call("heal", volume=VOLUME)


def test_xfs_shut_down(agent: GuestAgent, ebs: EbsTarget) -> None:
    """An XFS that shuts itself down is Failed as ShutDown, though statvfs calls it well."""
    start(agent, ebs, "xfs")
    agent.guest.run(["xfs_io", "-x", "-c", "shutdown", "/data/ckpt"])
    agent.wait_condition(VOLUME, "Failed", "ShutDown")


@pytest.mark.parametrize("who", ["volume", "instance"])
def test_throttled(agent: GuestAgent, ebs: EbsTarget, who: str) -> None:
    """A volume asked for more IOPS than it, or the instance, is given is Degraded with who holds it back."""
    start(agent, ebs)
    ebs.call("limit", iops=20, **({"volume": VOLUME} if who == "volume" else {}))
    load = [
        "fio", "--name=load", "--filename=/data/ckpt/load", "--rw=randwrite", "--bs=4k", "--size=16m",
        "--direct=1", "--ioengine=psync", "--numjobs=4", "--time_based", "--runtime=150",
    ]  # fmt: skip
    writer = agent.guest.start_command(load, timeout_s=400)
    try:
        reason = "ThrottledByVolume" if who == "volume" else "ThrottledByInstance"
        status = agent.wait_condition(VOLUME, "Degraded", reason)
        assert "limit" in status["message"]
    finally:
        ebs.call("limit", iops=None, **({"volume": VOLUME} if who == "volume" else {}))
        agent.guest.run(["pkill", "fio"], check=False)
        writer.wait(timeout_s=120)


def test_wrong_timeout(agent: GuestAgent, guest: Guest) -> None:
    """With the kernel's own time-out for commands a volume is Degraded, and how to mend it is said."""
    with EbsTarget(guest, io_timeout_s=30) as ebs:
        agent.write_policy(make_entry(VOLUME), health=HEALTH)
        ebs.attach(VOLUME, GIB)
        agent.start()
        status = agent.wait_condition(VOLUME, "Degraded", "WrongTimeout")
        assert "nvme_core.io_timeout=4294967295" in status["hint"]
        agent.stop()


def test_foreign_log_page(agent: GuestAgent, ebs: EbsTarget) -> None:
    """A page that is not EBS's costs one line of the log and gives no series."""
    ebs.call("create", volume=VOLUME, size_bytes=GIB)
    ebs.call("spoil", volume=VOLUME, magic=0x12345678)
    start(agent, ebs)
    wait(agent, lambda: series("volume_stalled") in scrape(agent))
    time.sleep(5)
    assert not [name for name in scrape(agent) if name.startswith("ebs_agent_volume_read_ops_total")]
    assert len(agent.read_events("statistics.absent")) == 1
