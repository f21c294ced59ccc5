"""Searching for the users of a mount on a node of many mount namespaces, against reading their tables alone.

The node is a made one: services that have namespaces of their own each see a copy of all that the host has
mounted, and have the volume so that it goes with the host's.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent.core.model import DeviceNumber
from agent.node.mounts.mount_users import find_processes

NAMESPACES = 60
LINES = 10_000
NUMBER = DeviceNumber(259, 3)
PATH = "/data/ckpt"
_FIRST_PID = 5_000_000
_PATIENCE_S = 600.0


def write_proc(proc: Path, second_hand: int = 0) -> None:
    """Write a /proc of the host's first process and of one in each namespace.

    ``second_hand``: how many are slaves of the first one's mounts, which pass on what the host's tell them.
    """
    _write_process(proc, "self", 1, _make_table("shared:{0}"))
    _write_process(proc, "1", 1, b"")
    for index in range(NAMESPACES):
        of_first = "1" if 0 < index <= second_hand else ""
        ties = f"shared:{index + 1}{{0:05}} master:{of_first}{{0{':05' if of_first else ''}}}"
        _write_process(proc, str(_FIRST_PID + index), 2 + index, _make_table(ties))


def _make_table(ties: str) -> bytes:
    rest = (
        f"{1000 + index} 22 0:{100 + index} / /var/lib/kubelet/pods/{index:032x}/volumes/token rw,relatime"
        f" {ties.format(100 + index)} - tmpfs tmpfs rw,size=1024k"
        for index in range(LINES - 2)
    )
    root = f"22 1 259:1 / / rw,relatime {ties.format(1)} - ext4 /dev/root rw"
    volume = f"50 22 {NUMBER} / {PATH} rw,nosuid {ties.format(40)} - ext4 /dev/nvme1n1 rw"
    return "\n".join([root, *rest, volume, ""]).encode()


def _write_process(proc: Path, name: str, namespace: int, table: bytes) -> None:
    (proc / name / "ns").mkdir(parents=True)
    (proc / name / "fd").mkdir()
    (proc / name / "ns/mnt").symlink_to(f"mnt:[{namespace}]")
    (proc / name / "root").symlink_to("/")
    (proc / name / "maps").write_text("")
    (proc / name / "mountinfo").write_bytes(table)


def _read_tables(proc: Path) -> None:
    for table in proc.glob("*/mountinfo"):
        table.read_bytes()


def _measure_s(function: Callable[[], object]) -> float:
    """Return the least processor time of three calls."""
    times = []
    for _ in range(3):
        before = time.process_time()
        function()
        times.append(time.process_time() - before)
    return min(times)


def main() -> None:
    """Print what a search takes, where all go with the host's mount and where some do by another's."""
    for second_hand, what in ((0, "all by the host's mounts"), (NAMESPACES // 2, "half by those of another")):
        with tempfile.TemporaryDirectory() as directory:
            proc = Path(directory)
            write_proc(proc, second_hand)
            floor_s = _measure_s(lambda proc=proc: _read_tables(proc))  # type: ignore[misc]
            search_s = _measure_s(
                lambda proc=proc: find_processes(PATH, NUMBER, _PATIENCE_S, proc=proc)  # type: ignore[misc]
            )
        print(
            f"{NAMESPACES} namespaces of {LINES:,} mounts, {what}: search {search_s * 1000:.0f} ms,"
            f" reading alone {floor_s * 1000:.0f} ms, {search_s / floor_s:.1f} times"
        )


if __name__ == "__main__":
    main()
