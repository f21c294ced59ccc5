"""The filter of system calls, for each architecture, as the kernel would run it."""

from __future__ import annotations

import struct

import pytest

from agent.base.seal import build_filter

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
KILL, ALLOW, FAIL = 0x80000000, 0x7FFF0000, 0x00050001


def run_filter(program: bytes, number: int, architecture: int) -> int:
    """Return what a filter says of a system call; of the kernel's machine, what such filters use."""
    steps = list(struct.iter_unpack("=HBBI", program))
    at, loaded = 0, 0
    while True:
        code, jump, other, value = steps[at]
        at += 1
        if code == 0x06:
            return int(value)
        if code == 0x20:
            loaded = {0: number, 4: architecture}[value]
        else:
            assert code == 0x15
            at += jump if loaded == value else other


@pytest.mark.parametrize(
    ("machine", "allowed", "refused"),
    [
        # read, open, socket, clone, execve, kill, ptrace, openat, and write of the x32 table
        ("x86_64", (1, 45, 44, 9, 231), (0, 2, 41, 56, 59, 62, 101, 257, 0x40000001)),
        # read, openat, socket, clone, execve, kill, ptrace
        ("aarch64", (64, 207, 206, 222, 94), (63, 56, 198, 220, 221, 129, 117)),
    ],
)
def test_answering_is_allowed_and_nothing_else(
    machine: str, allowed: tuple[int, ...], refused: tuple[int, ...]
) -> None:
    """All but what the list has fails; a call by another architecture's numbers ends the process."""
    program = build_filter(machine)
    assert {run_filter(program, number, MACHINES[machine]) for number in allowed} == {ALLOW}
    assert {run_filter(program, number, MACHINES[machine]) for number in refused} == {FAIL}
    assert sum(run_filter(program, number, MACHINES[machine]) == ALLOW for number in range(1024)) == 18
    assert {run_filter(program, number, 0x40000003) for number in allowed} == {KILL}


def test_another_architecture_has_none() -> None:
    with pytest.raises(OSError, match="no filter of system calls is known for riscv64"):
        build_filter("riscv64")
