"""What a process waits for, by what kernels show of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.node.kernel.wait_channels import Hold, find_hold

PID = 4711
FROZEN_6_18 = """\
[<0>] percpu_rwsem_wait+0x11d/0x1a0
[<0>] mnt_want_write+0x8c/0xa0
[<0>] do_unlinkat+0x9e/0x2f0
[<0>] __x64_sys_unlinkat+0x38/0x70
[<0>] do_syscall_64+0xa4/0x320
[<0>] entry_SYSCALL_64_after_hwframe+0x76/0x7e
"""
FROZEN_WRITE = """\
[<0>] percpu_rwsem_wait.isra.0+0x11d/0x1a0
[<0>] __percpu_down_read+0x62/0x90
[<0>] vfs_write+0x3a5/0x420
[<0>] ksys_write+0x6f/0xf0
"""
STALLED_JOURNAL = """\
[<0>] wait_transaction_locked+0x8a/0xd0 [jbd2]
[<0>] add_transaction_credits+0x1a1/0x330 [jbd2]
[<0>] start_this_handle+0xf6/0x520 [jbd2]
[<0>] jbd2__journal_start+0xf7/0x1f0 [jbd2]
[<0>] __ext4_journal_start_sb+0x108/0x180 [ext4]
[<0>] ext4_tmpfile+0x9a/0x1c0 [ext4]
[<0>] vfs_tmpfile+0xd7/0x180
"""
OTHER_LOCK = """\
[<0>] percpu_rwsem_wait+0x11d/0x1a0
[<0>] exit_signals+0x2d1/0x330
[<0>] do_exit+0xc0/0xad0
"""
STALLED_WRITE = """\
[<0>] io_schedule+0x42/0x70
[<0>] vfs_write+0x3a5/0x420
"""


def put_process(proc: Path, state: str, wchan: str | None, stack: str | None) -> Path:
    """Make a process' directory; what is None cannot be read."""
    directory = proc / str(PID)
    directory.mkdir()
    (directory / "stat").write_text(f"{PID} (worker) D) {state} 1 1 1 0 -1")
    for name, content in (("wchan", wchan), ("stack", stack)):
        if content is None:
            (directory / name).mkdir()
        else:
            (directory / name).write_text(content)
    return proc


@pytest.mark.parametrize(
    ("state", "wchan", "stack", "hold"),
    [
        ("D", "percpu_rwsem_wait", FROZEN_6_18, Hold.FREEZE),
        ("D", "percpu_rwsem_wait", None, Hold.FREEZE),
        ("D", "percpu_rwsem_wait", "", Hold.FREEZE),
        ("D", "__percpu_down_read", None, Hold.FREEZE),
        ("D", "__sb_start_write", None, Hold.FREEZE),
        ("D", "mnt_want_write", None, Hold.FREEZE),
        ("D", "0", FROZEN_6_18, Hold.FREEZE),
        ("D", "0", FROZEN_WRITE, Hold.FREEZE),
        ("D", "0", "[<0>] mnt_want_write+0x8c/0xa0\n", Hold.FREEZE),
        ("D", "wait_transaction_locked", STALLED_JOURNAL, Hold.OTHER),
        ("D", "io_schedule", STALLED_WRITE, Hold.OTHER),
        ("D", "io_schedule", None, Hold.OTHER),
        ("D", "percpu_rwsem_wait", OTHER_LOCK, Hold.OTHER),
        ("D", "0", None, Hold.UNKNOWN),
        ("D", "", "", Hold.UNKNOWN),
        ("D", None, None, Hold.UNKNOWN),
        ("S", "0", None, Hold.OTHER),
        ("R", "0", None, Hold.OTHER),
        ("Z", None, None, Hold.OTHER),
    ],
)
def test_hold(tmp_path: Path, state: str, wchan: str | None, stack: str | None, hold: Hold) -> None:
    """Only who waits to begin to write waits for a thaw; what the kernel does not show is not guessed."""
    assert find_hold(PID, put_process(tmp_path, state, wchan, stack)) is hold


def test_process_that_is_not_there_waits_for_nothing(tmp_path: Path) -> None:
    """One that ended meanwhile holds nothing up, and this one neither."""
    assert find_hold(PID, tmp_path) is Hold.OTHER
    assert find_hold(os.getpid()) is Hold.OTHER
