"""What a process and all it has started cost: processor time and memory, from procfs."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def list_family(pid: int) -> list[int]:
    """Return a process and everything below it now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _read_stat(int(entry.name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def read_cpu_s(pid: int) -> float:
    """Return the processor time a process and all below it took so far, ended ones included."""
    total_s = 0.0
    for member in list_family(pid):
        fields = _read_stat(member)
        if fields:
            total_s += _read_own_cpu_s(member, fields)
            total_s += sum(int(word) for word in fields[13:15]) / _TICKS_PER_S  # cutime, cstime
    return total_s


def read_pss_bytes(pid: int, *, is_alone: bool = False) -> int:
    """Return the memory of a process, and of all below it unless ``is_alone``; shared pages are divided."""
    total_kib = 0
    for member in [pid] if is_alone else list_family(pid):
        try:
            rollup = Path(f"/proc/{member}/smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        total_kib += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total_kib * 1024


def _read_own_cpu_s(pid: int, fields: list[str]) -> float:
    """Return a process's own processor time: its clock (clock_getcpuclockid(3)) counts no ticks of 10 ms."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return sum(int(word) for word in fields[11:13]) / _TICKS_PER_S


def _read_stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` from the third, the state, on; none where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    except OSError:
        return []
