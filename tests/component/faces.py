"""What tests say of every process that speaks with strangers: who it is, and what it may take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio.lowlevel

from agent.core.model import VolumeId
from agent.node.isolate.unprivileged import NOBODY_UID
from agent.node.kernel.open_files import list_descriptors
from agent.report.board.board import Board
from tests.unit.report.samples import CHECKPOINTS, make_status
from tests.waiting import until


async def outlive(board: Board, is_enough: Callable[[], bool]) -> None:
    """See that volumes go on while a process does what it does, until that was enough."""
    for number in range(1000):
        board.publish(make_status(volume_id=VolumeId(f"vol-{number:017x}"), name=None))
        board.remove(VolumeId(f"vol-{number:017x}"))
        await anyio.lowlevel.checkpoint()
    await until(is_enough)
    assert [status.volume_id for status in board.statuses()] == [CHECKPOINTS]


def make_memory_bomb(module: str, most: int) -> str:
    """Return code that takes memory within the means of a face's ``module``, 16 MiB at a time.

    It ends with how often it got some, or with 1 where that was ``most`` times or more.
    """
    return f"""
from agent.node.isolate.unprivileged import become_harmless
from {module} import MEANS
become_harmless(None, MEANS)
kept = []
try:
    while True:
        kept.append(bytearray(16 << 20))
except MemoryError:
    os._exit(len(kept) if len(kept) < {most} else 1)
"""


def check_is_nobody(pid: int | None, *, address_space_bytes: int, oom_score: int) -> None:
    """Assert that a process has no right, no file and no word of the daemon's, and bounded memory."""
    process = Path("/proc", str(pid))
    status = dict(
        line.split(":\t", 1) for line in process.joinpath("status").read_text().splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == [str(NOBODY_UID)] * 4
    assert status["Gid"].split() == [str(NOBODY_UID)] * 4
    assert status["Groups"].strip() == ""
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert process.joinpath("oom_score_adj").read_text() == f"{oom_score}\n"
    assert process.joinpath("mem").stat().st_uid == 0, "nobody else may look into it, of its user neither"
    limits = process.joinpath("limits").read_text()
    bound = next(line for line in limits.splitlines() if "address space" in line)
    assert str(address_space_bytes) in bound
    # One that closes meanwhile is none that it has.
    opened = [descriptor.link for descriptor in list_descriptors(process)]
    assert opened
    assert all(one.startswith(("socket:", "pipe:", "anon_inode:", "/dev/null")) for one in opened)
    environment = process.joinpath("environ").read_bytes().split(b"\0")
    assert {one.partition(b"=")[0] for one in environment if one} <= {b"PATH", b"LANG", b"LC_ALL"}
