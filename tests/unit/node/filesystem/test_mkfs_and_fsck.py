from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import Checked, FsType, Reason
from agent.node.filesystem.mkfs_and_fsck import (
    build_mkfs_argv,
    build_wipe_argv,
    check_filesystem,
    check_label,
    make_filesystem,
    parse_btrfs_super,
    parse_e2fsck,
    parse_xfs_log,
)
from agent.node.isolate.programs import Completed

EXT4_FAST = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
UUID = "6f1c1f0e-5a0b-4d0a-9c43-0d6c1d7a2b11"


@dataclass
class ScriptedRun:
    """Runs nothing: answers what is scripted, in order, and fails on anything else."""

    answers: list[Completed | AgentError] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        pass_fds: Sequence[int] = (),
        input: str | None = None,  # noqa: A002 (subprocess's own word)
        check: Sequence[int] = (0,),
        name: str | None = None,
    ) -> Completed:
        assert timeout_s > 0
        assert input is None
        assert name is None or name in argv
        assert pass_fds, "a tool without the descriptor would open a path"
        self.asked.append(tuple(argv))
        answer = self.answers.pop(0)
        if isinstance(answer, AgentError):
            raise answer
        assert answer.returncode in check
        return answer


def completed(returncode: int = 0, stdout: str = "", stderr: str = "") -> Completed:
    return Completed(("tool",), returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("fs_type", "argv"),
    [
        (
            FsType.EXT4,
            f"mkfs.ext4 -q -E {EXT4_FAST} -m 0 -L ckpt -U {UUID} /proc/self/fd/7",
        ),
        (FsType.XFS, f"mkfs.xfs -q -K -m 0 -L ckpt -m uuid={UUID} /proc/self/fd/7"),
        (FsType.BTRFS, f"mkfs.btrfs -q -K -m 0 -L ckpt -U {UUID} /proc/self/fd/7"),
    ],
)
def test_mkfs_command(fs_type: FsType, argv: str) -> None:
    """The UUID, the label and the device are the agent's and come last; nothing forces."""
    built = build_mkfs_argv(fs_type, "/proc/self/fd/7", uuid=UUID, label="ckpt", options=["-m", "0"])
    words = argv.split()
    assert built[-len(words) :] == words
    assert built[: -len(words)] == [] or fs_type is FsType.BTRFS
    assert not {"-f", "-F", "--force"} & set(built)


@pytest.mark.parametrize(
    ("options", "extended", "others"),
    [
        ([], EXT4_FAST, []),
        (["-E", "stride=16"], f"{EXT4_FAST},stride=16", []),
        (["-m", "0", "-Estride=16,lazy_itable_init=0", "-E", "discard"],
         "lazy_journal_init=1,stride=16,lazy_itable_init=0,discard", ["-m", "0"]),
    ],
)  # fmt: skip
def test_extended_options_are_one(options: list[str], extended: str, others: list[str]) -> None:
    """mkfs.ext4 heeds the last -E alone: the policy's and the agent's own are given together."""
    built = build_mkfs_argv(FsType.EXT4, "/dev/x", uuid=UUID, options=options)
    assert built == ["mkfs.ext4", "-q", "-E", extended, *others, "-U", UUID, "/dev/x"]


def test_btrfs_is_made_where_no_other_device_is_seen() -> None:
    """mkfs.btrfs reads every block device it finds, so it is started where /dev is empty."""
    built = build_mkfs_argv(FsType.BTRFS, "/proc/self/fd/7", uuid=UUID)
    assert built[: built.index("mkfs.btrfs")] == [
        *("unshare", "--mount", "--propagation", "private", "--", "sh", "-c"),
        'mount -t tmpfs -o size=0 none /dev && exec "$0" "$@"',
    ]


@pytest.mark.parametrize(
    ("fs_type", "label"),
    [
        (FsType.EXT4, "a" * 17),
        (FsType.EXT4, "ä" * 9),
        (FsType.XFS, "a" * 13),
        (FsType.BTRFS, "a" * 256),
        (FsType.EXT4, ""),
        (FsType.XFS, "-f"),
        (FsType.BTRFS, "a\nb"),
    ],
)
def test_label_that_does_not_fit_is_refused(fs_type: FsType, label: str) -> None:
    """A label is printable, fits its field, and cannot be taken for an option."""
    with pytest.raises(InvalidValueError):
        build_mkfs_argv(fs_type, "/proc/self/fd/7", uuid=UUID, label=label)


@pytest.mark.parametrize(
    ("fs_type", "label"), [(FsType.EXT4, "a" * 16), (FsType.XFS, "a" * 12), (FsType.BTRFS, "ä" * 127)]
)
def test_label_that_just_fits_is_taken(fs_type: FsType, label: str) -> None:
    """The limits are the fields' own."""
    check_label(fs_type, label)


@pytest.mark.anyio
async def test_interrupted_format_is_wiped_of_its_own_type_only() -> None:
    """Taking up a format removes the signature of that type, and mkfs then judges what is left."""
    run = ScriptedRun([completed(), completed()])
    await make_filesystem(7, FsType.XFS, uuid=UUID, is_resuming=True, run=run)
    assert run.asked[0] == tuple(build_wipe_argv(FsType.XFS, "/proc/self/fd/7"))
    assert run.asked[0][-2:] == ("xfs", "/proc/self/fd/7")
    assert run.asked[1][0] == "mkfs.xfs"


@pytest.mark.anyio
async def test_mkfs_does_not_run_where_the_wipe_failed() -> None:
    """A device whose old signature would not go is left alone."""
    run = ScriptedRun([AgentError("wipefs ended with 1: busy")])
    with pytest.raises(AgentError, match="busy"):
        await make_filesystem(7, FsType.EXT4, uuid=UUID, is_resuming=True, run=run)
    assert len(run.asked) == 1


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
        (0, "", False),
    ],
)
def test_xfs_log_state(returncode: int, stdout: str, *, is_clean: bool) -> None:
    """A log that can be read is replayed by mounting; one that cannot is damage."""
    assert parse_xfs_log(completed(returncode, stdout)).is_clean is is_clean


@pytest.mark.parametrize("parse", [parse_xfs_log, parse_btrfs_super])
@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("xfs_logprint: cannot allocate memory\n", Reason.NODE_EXHAUSTED),
        ("ERROR: cannot open /proc/self/fd/7: Operation not permitted\n", Reason.STEP_FAILED),
        ("cannot open /proc/self/fd/7: Device or resource busy\n", Reason.DEVICE_BUSY),
    ],
)
def test_tool_that_could_not_look_found_no_damage(
    parse: Callable[[Completed], Checked], stderr: str, reason: Reason
) -> None:
    """What a tool lacked to look is no fault of the filesystem."""
    with pytest.raises(AgentError) as caught:
        parse(completed(1, "", stderr))
    assert caught.value.reason is reason


SUPER = "csum\t\t\t0xde9a6c66 [match]\nbytenr\t\t\t65536\nflags\t\t\t0x1\n\t\t\t( WRITTEN )\n"


@pytest.mark.parametrize(
    ("returncode", "stdout", "is_clean"),
    [
        (0, SUPER, True),
        (0, SUPER.replace("[match]", "[DON'T MATCH]"), False),
        (0, SUPER.replace("0x1\n", "0x5\n"), False),
        (0, SUPER.replace("0x1\n", f"0x{1 | 1 << 35:x}\n"), False),
        (0, "", False),
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
