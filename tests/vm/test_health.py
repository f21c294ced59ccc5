"""Every verdict by a real fault, in the guest: emulated EBS volumes under the installed agent.

All of it happens beside a volume that is stalled from the first case to the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.prometheus import run_prometheus
from tests.scraped import serving_metrics
from tests.vm.conftest import GuestPool
from tests.vm.guest_agent import UNIT
from tests.vm.health_node import MIB, HealthNode, name_volume, run_health_node, series

STALL_S = 120.0
CUT_OFF = ("severed", "raw0")
"""Whose controllers are lost for a while: one that is mounted, and one that is raw."""


@pytest.fixture(scope="module")
def node(shared_guests: GuestPool) -> Iterator[HealthNode]:
    """Give the node of all cases."""
    with run_health_node(shared_guests.get_shared()) as node:
        yield node


# -- What EBS counts -----------------------------------------------------------------------------------------


def test_statistics_of_a_real_log_page(node: HealthNode) -> None:
    """EBS's own counters, by its log page through the kernel, move with what is written and read."""
    node.attach("busy")
    written = series("volume_write_bytes_total", "busy")
    node.wait_until_so(lambda: written in node.read_series())
    before = node.read_series()
    node.guest.shell("dd if=/dev/urandom of=/data/busy/file bs=1M count=32 oflag=direct 2> /dev/null")
    node.wait_until_so(lambda: node.read_series()[written] >= before[written] + 32 * MIB)
    after = node.read_series()
    latency = "volume_write_io_latency_seconds"
    assert after[series(f"{latency}_sum", "busy")] == after[series("volume_write_seconds_total", "busy")] > 0
    in_all = after[series(f"{latency}_bucket", "busy", le="+Inf")]
    assert (
        after[series(f"{latency}_count", "busy")] == in_all == after[series("volume_write_ops_total", "busy")]
    )


def test_pages_that_are_foreign_or_absent(node: HealthNode) -> None:
    """A page that is not EBS's, or none, costs one line of the log, and gives no series of zeros."""
    for name, fault in {"foreign": {"magic": 0x12345678}, "no-page": {"status": 0x109}}.items():
        node.call("create", name, size_bytes=256 * MIB)
        node.call("spoil", name, **fault)
        node.begin_attach(name)
    for name in ("foreign", "no-page"):
        node.wait(name, "Ready")
        node.wait_until_so(lambda name=name: series("block_read_ops_total", name) in node.read_series())
        node.wait_samples(name)
        metrics = {metric for metric in node.read_series() if name_volume(name) in metric}
        assert series("block_read_ops_total", name) in metrics
        assert not {m for m in metrics if m.startswith(("ebs_agent_volume_read", "ebs_agent_volume_queue"))}
        lines = node.agent.read_events("statistics.absent")
        assert len([line for line in lines if line["volume_id"] == name_volume(name)]) == 1


# -- The device ----------------------------------------------------------------------------------------------


def test_volume_that_does_not_even_say_who_it_is(node: HealthNode) -> None:
    """One that answers no question at all is Failed as Stalled and keeps its place."""
    node.attach("silent")
    node.call("stall", "silent", admin=True)
    status = node.wait("silent", "Failed", "Stalled")
    assert (status["device"] is not None, status["path"]) == (True, "/data/silent")
    assert node.read_series()[series("volume_stalled", "silent")] == 1
    node.call("resume", "silent")


def test_volumes_that_are_cut_off(node: HealthNode) -> None:
    """While its controller is connected again a volume is not taken for detached; its link and path stay."""
    before = {name: node.attach(name) for name in CUT_OFF}
    for name in CUT_OFF:
        node.call("sever", name, until_healed=True)
    volumes = {name_volume(name) for name in CUT_OFF}
    node.wait_until_so(lambda: volumes <= {line["volume_id"] for line in read_unreachable(node)})
    for name in CUT_OFF:
        status = node.agent.read_status(name_volume(name))
        assert (status["device"], status["path"]) == (before[name]["device"], before[name]["path"])
        node.guest.run(["test", "-L", f"/dev/ebs/by-id/{name_volume(name)}"])
        node.call("heal", name)


def read_unreachable(node: HealthNode) -> list[dict[str, Any]]:
    """Return the log lines about volumes that turned out to be out of reach."""
    return [line for line in node.agent.read_events("volume.degraded") if line["reason"] == "Unreachable"]


def test_read_errors(node: HealthNode) -> None:
    """A volume whose first block cannot be read is Failed as IoErrors."""
    node.attach("unreadable")
    node.call("fail", "unreadable", operations=["read"], first=0, end=4096)
    assert "error" in node.wait("unreadable", "Failed", "IoErrors")["message"]


def test_short_timeout(node: HealthNode) -> None:
    """With the kernel's own time-out for commands a volume is Degraded, and how to mend it is said."""
    node.attach("short-timeout")
    setting = "/sys/module/nvme_core/parameters/io_timeout"
    node.guest.shell(f"echo 30 > {setting}")
    status = node.wait("short-timeout", "Degraded", "WrongTimeout")
    assert "nvme_core.io_timeout=4294967295" in status["hint"]
    node.guest.shell(f"echo 4294967295 > {setting}")
    node.wait("short-timeout", "Ready")


# -- The filesystem ------------------------------------------------------------------------------------------


def test_journal_that_cannot_be_written(node: HealthNode) -> None:
    """An ext4 whose journal cannot be written takes no writes any more, and is Failed."""
    node.attach("unwritable")
    node.call("fail", "unwritable", operations=["write"])
    # Flushed as a whole: to flush one file ends with its own error, before the journal is written.
    write = "for n in 1 2 3; do echo x > /data/unwritable/$n; sync -f /data/unwritable; done"
    node.guest.run(["sh", "-c", write], check=False)
    node.wait_verdict("unwritable", "ReadOnly")
    assert node.agent.read_status(name_volume("unwritable"))["condition"] == "Failed"


def test_xfs_that_shut_itself_down(node: HealthNode) -> None:
    """An XFS that is shut down is Failed as ShutDown, though statvfs calls it well; unmounted, it is back."""
    node.attach("shut-down")
    node.guest.run(["xfs_io", "-x", "-c", "shutdown", "/data/shut-down"])
    assert "umount /data/shut-down" in node.wait("shut-down", "Failed", "ShutDown")["hint"]
    node.guest.run(["stat", "-f", "/data/shut-down"])
    node.guest.run(["umount", "/data/shut-down"])
    node.wait("shut-down", "Ready")


def test_ext4_that_turned_read_only(node: HealthNode) -> None:
    """An ext4 made read-only by the kernel after an error is Failed as ReadOnly, its errors counted."""
    device = node.attach("read-only")["device"].removeprefix("/dev/")
    node.guest.shell(f"echo for the test > /sys/fs/ext4/{device}/trigger_fs_error")
    assert "after an error" in node.wait("read-only", "Failed", "ReadOnly")["message"]
    node.wait_verdict("read-only", "FilesystemErrors")
    found = node.read_series()
    assert found[series("filesystem_readonly", "read-only")] == 1
    assert found[series("filesystem_errors_total", "read-only")] >= 1


def test_pulled_while_a_program_works_in_it(node: HealthNode) -> None:
    """A program left on a pulled volume's old mount is named once the volume is back, until it ends."""
    node.attach("pulled")
    node.guest.shell("echo kept > /data/pulled/file; sync -f /data/pulled/file")
    user = node.guest.start_command(["sh", "-c", "exec 3< /data/pulled/file; exec sleep 1000"])
    node.guest.wait_until(["sh", "-c", "ls -l /proc/[0-9]*/fd | grep -q /data/pulled/file"], timeout_s=60)
    node.call("pull", "pulled")
    node.wait("pulled", "Lost", "DeviceGone")
    node.call("return", "pulled")
    status = node.wait("pulled", "Degraded", "StaleMount")
    assert "sleep" in status["message"]
    assert node.guest.shell("cat /data/pulled/file") == "kept\n"
    node.guest.run(["pkill", "--full", "^sleep 1000$"])
    user.wait(60)
    node.wait("pulled", "Ready")


# -- Room ----------------------------------------------------------------------------------------------------


def test_nearly_full(node: HealthNode) -> None:
    """A filesystem with little space left is Degraded as NearlyFull, with how much is left."""
    node.attach("nearly-full")
    available = "$(df --output=avail -B1 /data/nearly-full | tail -n 1)"
    node.guest.shell(f"fallocate -l $(({available} - 2000000)) /data/nearly-full/big")
    assert "left" in node.wait("nearly-full", "Degraded", "NearlyFull")["message"]


def test_no_more_files(node: HealthNode) -> None:
    """A filesystem with space and hardly a file left is Degraded as FilesFull."""
    node.attach("no-files")
    # Until no more can be made: mkfs rounds up how many there are to be.
    fill = "cd /data/no-files; for n in $(seq 20000); do : > $n || break; done 2> /dev/null"
    node.guest.run(["sh", "-c", fill], check=False)
    node.wait("no-files", "Degraded", "FilesFull")


def test_forecast(node: HealthNode) -> None:
    """A filesystem with room that is being filled is Degraded as NearlyFull, with when it will be full."""
    message = node.wait_verdict("filling", "NearlyFull")["message"]
    assert "will be full in" in message


def test_not_grown(node: HealthNode) -> None:
    """A filesystem that the kernel refuses to grow is Degraded as NotGrown, with how much it does not use."""
    assert "256 MiB" in node.wait_verdict("ungrown", "NotGrown")["message"]
    assert node.agent.read_status(name_volume("ungrown"))["condition"] == "Degraded"
    found = node.read_series()
    assert found[series("filesystem_span_bytes", "ungrown")] == 256 * MIB
    assert found[series("volume_size_bytes", "ungrown")] == 512 * MIB


# -- Limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["volume", "instance"])
def test_throttled(node: HealthNode, who: str) -> None:
    """A volume asked for more IOPS than it, or its instance, is given is Degraded with who holds it back."""
    if who == "volume":
        node.attach("slow")
    limited = {"volume": name_volume("slow")} if who == "volume" else {}
    reason = "ThrottledByVolume" if who == "volume" else "ThrottledByInstance"
    load = [
        "fio", "--name=load", "--filename=/data/slow/load", "--rw=randwrite", "--bs=4k", "--size=16m",
        "--direct=1", "--ioengine=psync", "--numjobs=4", "--time_based", "--runtime=1000",
    ]  # fmt: skip
    node.ebs.call("limit", iops=20, **limited)
    writer = node.guest.start_command(load)
    try:
        assert "limit" in node.wait_verdict("slow", reason)["message"]
    finally:
        node.ebs.call("limit", iops=None, **limited)
        node.guest.run(["pkill", "fio"], check=False)
        writer.wait(timeout_s=120)


def test_volumes_that_answer_again(node: HealthNode) -> None:
    """Those that said nothing come back by themselves, and have never been detached.

    Last of them all, since their verdict may be held for a minute.
    """
    for name in ("silent", *CUT_OFF):
        node.wait(name, "Ready")
        assert node.read_series()[series("volume_stalled", name)] == 0
    detached = {line["volume_id"] for line in node.agent.read_events("volume.detached")}
    assert not detached & {name_volume(name) for name in CUT_OFF}


# -- One of twenty that is stalled ---------------------------------------------------------------------------


@pytest.mark.needs("prometheus")
def test_alert_fires_for_the_stalled_volume(node: HealthNode, tmp_path: Path) -> None:
    """A real Prometheus scrapes the agent while a volume is stalled, and the alert that is shipped fires."""

    async def find_firing(port: int) -> set[str]:
        async with run_prometheus(tmp_path, port, interval="5s") as prometheus:
            alerts = await prometheus.until('ALERTS{alertname="EbsVolumeStalled", alertstate="firing"}')
        return {alert["metric"]["volume_id"] for alert in alerts}

    with serving_metrics(lambda _: node.scrape().encode()) as port:
        assert asyncio.run(find_firing(port)) == {name_volume("stalled")}


def test_one_of_twenty_stalled_for_minutes(node: HealthNode) -> None:
    """Two minutes into a stall a scrape answers, nobody else is hurt, and nothing piles up."""
    node.wait_until_so(lambda: monotonic() > node.stalled_at + STALL_S)
    found = node.read_series()
    assert found[series("volume_stalled", "stalled")] == 1
    assert found[series("volume_condition", "stalled", condition="Failed")] == 1
    assert found[series("volume_stalled", "neighbour")] == 0
    node.guest.shell("dd if=/dev/zero of=/data/neighbour/file bs=1M count=8 conv=fsync 2> /dev/null")
    node.wait_samples("neighbour")
    # One worker may hang for each way of asking: by volume, and by path. More would come with every interval.
    group = node.show_unit("ControlGroup")["ControlGroup"]
    states = node.guest.shell(f"ps -o stat= -p $(paste -sd, /sys/fs/cgroup{group}/cgroup.procs)").split()
    assert sum(state.startswith("D") for state in states) <= 2
    # The watchdog would have ended it after half a minute without a sign of life.
    assert node.show_unit("NRestarts", "Result") == {"NRestarts": "0", "Result": "success"}


def test_agent_stops_in_time_and_the_volume_comes_back(node: HealthNode) -> None:
    """With a stalled volume the agent ends before systemd would end it; later the volume is Ready."""
    node.agent.stop()
    assert len(node.agent.read_events("agent.stopped")) == 1
    assert "State 'stop-sigterm' timed out" not in node.guest.shell(f"journalctl -u {UNIT} --no-pager")
    node.guest.run(["systemctl", "reset-failed", UNIT], check=False)
    node.agent.start()
    node.call("resume", "stalled")
    node.wait("stalled", "Ready")
