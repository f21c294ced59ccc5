from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from agent.core.errors import AgentError
from agent.core.model import Checked, FsType, Reason
from agent.node.filesystem.fsck import check_filesystem, parse_btrfs_super, parse_e2fsck, parse_xfs_log
from agent.node.isolate import programs
from agent.node.isolate.programs import Completed
from tests.fakes.programs import ScriptedRun, completed


@pytest.mark.parametrize(
    ("returncode", "stdout", "stderr", "is_clean"),
    [
        (0, "data: clean, 11/65536 files, 12955/262144 blocks\n", "", True),
        (1, "data: recovering journal\ndata: clean, 12/65536 files\n", "", True),
        (4, "data: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n", "", False),
        (5, "data: fixed some, not all\n", "", False),
        (8, "", "e2fsck: Bad magic number in super-block while trying to open /proc/self/fd/7\n", False),
        (12, "data: half done\n", "e2fsck: aborted\n", False),
    ],
)
def test_e2fsck_status(returncode: int, stdout: str, stderr: str, *, is_clean: bool) -> None:
    """Clean and mended are clean; whatever it left uncorrected, or could not read as ext4, is not."""
    assert parse_e2fsck(completed(returncode, stdout, stderr)).is_clean is is_clean


@pytest.mark.parametrize(
    ("returncode", "stdout", "stderr", "reason"),
    [
        (8, "/dev/loop0 is mounted.\n", "e2fsck: Cannot continue, aborting.\n", Reason.DEVICE_BUSY),
        (8, "", "e2fsck: Device or resource busy while trying; is it in use?\n", Reason.DEVICE_BUSY),
        (8, "/proc/self/fd/4 is in use.\n", "e2fsck: Cannot continue, aborting.\n", Reason.DEVICE_BUSY),
        (
            8,
            "/dev/loop0 has unsupported feature(s): FEATURE_C12\n",
            "e2fsck: Get a newer version of e2fsck!\n",
            Reason.UNSUPPORTED,
        ),
        (8, "", "e2fsck: Memory allocation failed while opening\n", Reason.NODE_EXHAUSTED),
        (
            12,
            (
                "data: Error reading block 9 (Input/output error) while reading inode and block bitmaps.\n"
                "data: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n"
            ),
            "",
            Reason.IO_ERRORS,
        ),
        (
            8,
            "",
            "e2fsck: Attempt to read block from filesystem resulted in short read while trying to open\n",
            Reason.IO_ERRORS,
        ),
        (2, "reboot\n", "", Reason.STEP_FAILED),
        (16, "", "Usage: e2fsck\n", Reason.STEP_FAILED),
        (32, "", "cancelled\n", Reason.STEP_FAILED),
        (-9, "", "", Reason.STEP_FAILED),
    ],
)
def test_check_that_was_not_made_says_nothing(
    returncode: int, stdout: str, stderr: str, reason: Reason
) -> None:
    """A check that did not run to its end is an error, and no verdict on the filesystem."""
    with pytest.raises(AgentError) as caught:
        parse_e2fsck(completed(returncode, stdout, stderr))
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("returncode", "stdout", "is_clean"),
    [
        (0, "xfs_logprint:\n    log tail: 2 head: 2 state: <CLEAN>\n", True),
        (0, "xfs_logprint:\n    log tail: 2 head: 9 state: <DIRTY>\n\nLOG REC AT LSN\n", True),
        (1, "xfs_logprint:\n", False),
        (1, "xfs_logprint:\n    log tail: 2 head: 9 state: <DIRTY>\n", False),
    ],
)
def test_xfs_log_state(returncode: int, stdout: str, *, is_clean: bool) -> None:
    """A log that can be read is replayed by mounting; one that cannot is damage."""
    assert parse_xfs_log(completed(returncode, stdout)).is_clean is is_clean


SUPER = "csum\t\t\t0xde9a6c66 [match]\nbytenr\t\t\t65536\nflags\t\t\t0x1\n\t\t\t( WRITTEN )\n"


@pytest.mark.parametrize(
    ("parse", "stdout"),
    [
        (parse_xfs_log, "xfs_logprint:\n"),
        (parse_btrfs_super, ""),
        (parse_btrfs_super, SUPER.partition("flags")[0]),
        (parse_btrfs_super, SUPER.partition("\n")[2]),
        (parse_btrfs_super, SUPER.replace("[match]", "[UNKNOWN CSUM TYPE OR SIZE]")),
    ],
)
def test_what_a_tool_did_not_tell_is_no_damage(parse: Callable[[Completed], Checked], stdout: str) -> None:
    """A tool that ends well and does not say what it was asked for has found nothing."""
    with pytest.raises(AgentError, match="nothing was checked") as caught:
        parse(completed(0, stdout))
    assert caught.value.reason is Reason.STEP_FAILED


async def run_in_place(tool: str, script: str, argv: Sequence[str], **options: Any) -> Completed:
    """Run a shell's script as if it was the tool."""
    assert argv[0] == tool
    return await programs.run(["sh", "-c", script], **options)


@pytest.mark.anyio
async def test_xfs_log_of_any_length_is_told_by_its_state() -> None:
    """The state comes first; what follows may be longer than what is kept of a program's words."""
    script = "echo '    log tail: 2 head: 9 state: <DIRTY>'; head -c 3145728 /dev/zero | tr '\\0' x"

    checked = await check_filesystem(0, FsType.XFS, run=partial(run_in_place, "xfs_logprint", script))
    assert checked.detail == "the log is dirty"
    assert checked.is_clean


@pytest.mark.parametrize("parse", [parse_xfs_log, parse_btrfs_super])
@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("xfs_logprint: cannot allocate memory\n", Reason.NODE_EXHAUSTED),
        ("ERROR: cannot open /proc/self/fd/7: Operation not permitted\n", Reason.STEP_FAILED),
        ("cannot open /proc/self/fd/7: Device or resource busy\n", Reason.DEVICE_BUSY),
        ("xfs_logprint: read failed: Input/output error\nempty log check failed\n", Reason.IO_ERRORS),
        ("    read of XFS superblock failed\n", Reason.IO_ERRORS),
        ("ERROR: failed to read the superblock\nERROR: error = 'Input/output error'\n", Reason.IO_ERRORS),
    ],
)
def test_tool_that_could_not_look_found_no_damage(
    parse: Callable[[Completed], Checked], stderr: str, reason: Reason
) -> None:
    """What a tool lacked to look is no fault of the filesystem."""
    with pytest.raises(AgentError) as caught:
        parse(completed(1, "", stderr))
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("returncode", "stdout", "is_clean"),
    [
        (0, SUPER, True),
        (0, SUPER.replace("[match]", "[DON'T MATCH]"), False),
        (0, SUPER.replace("0x1\n", "0x5\n"), False),
        (0, SUPER.replace("0x1\n", f"0x{1 | 1 << 35:x}\n"), False),
        (1, SUPER, False),
    ],
)
def test_btrfs_superblock(returncode: int, stdout: str, *, is_clean: bool) -> None:
    """A superblock is trusted when its checksum matches and no flag says that something is wrong."""
    assert parse_btrfs_super(completed(returncode, stdout)).is_clean is is_clean


@pytest.mark.parametrize("parse", [parse_e2fsck, parse_xfs_log, parse_btrfs_super])
def test_killed_check_says_nothing(parse: Callable[[Completed], Checked]) -> None:
    """A tool that a signal ended is an error, whatever it had written by then."""
    with pytest.raises(AgentError):
        parse(completed(-9, f"state: <CLEAN>\n{SUPER}"))


@pytest.mark.anyio
async def test_check_is_told_the_descriptor_only() -> None:
    """The check opens what is pinned, never a path that may be another device by now."""
    for fs_type, answer in (
        (FsType.EXT4, completed(0, "clean")),
        (FsType.XFS, completed(0, "state: <CLEAN>")),
        (FsType.BTRFS, completed(0, SUPER)),
    ):
        run = ScriptedRun([answer])
        assert (await check_filesystem(7, fs_type, run=run)).is_clean
        assert run.asked[0][-1] == "/proc/self/fd/7"
