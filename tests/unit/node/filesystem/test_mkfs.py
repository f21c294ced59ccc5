from __future__ import annotations

import pytest

from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import FsType
from agent.node.filesystem.mkfs import (
    build_mkfs_argv,
    build_wipe_argv,
    check_label,
    leave_out_unknown,
    make_filesystem,
)
from tests.fakes.programs import ScriptedRun, completed

EXT4_FAST = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
UUID = "6f1c1f0e-5a0b-4d0a-9c43-0d6c1d7a2b11"


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


OLD_KERNELS = ("-m", "bigtime=0,inobtcount=0,reflink=0", "-i", "nrext64=0")


@pytest.mark.parametrize(
    ("version", "options", "kept"),
    [
        ((6, 1), OLD_KERNELS, [*OLD_KERNELS]),
        ((5, 18), OLD_KERNELS, ["-m", "bigtime=0,inobtcount=0,reflink=0"]),
        ((5, 3), OLD_KERNELS, ["-m", "reflink=0"]),
        ((4, 5), OLD_KERNELS, []),
        ((5, 3), ("-mbigtime=0,crc=1", "-K", "-l", "size=64m"), ["-m", "crc=1", "-K", "-l", "size=64m"]),
        # What is asked for and cannot be had is an error, and mkfs says which.
        ((5, 3), ("-m", "bigtime=1", "-i", "nrext64=1"), ["-m", "bigtime=1", "-i", "nrext64=1"]),
    ],
)
def test_features_that_older_tools_do_not_have(
    version: tuple[int, int], options: tuple[str, ...], kept: list[str]
) -> None:
    """What is switched off is not named to an mkfs.xfs that does not have it: it would refuse to work."""
    assert leave_out_unknown(options, version) == kept


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("said", "is_left_out"),
    [("mkfs.xfs version 5.18.0\n", True), ("mkfs.xfs version 6.1.0\n", False), ("a fork's\n", False)],
)
async def test_older_mkfs_is_asked_for_what_it_has(said: str, *, is_left_out: bool) -> None:
    """It is asked its version where that decides; Amazon Linux 2023 has 5.18, Ubuntu 22.04 has 5.13."""
    run = ScriptedRun([completed(stdout=said), completed()])
    await make_filesystem(7, FsType.XFS, uuid=UUID, options=OLD_KERNELS, run=run)
    assert run.asked[0] == ("mkfs.xfs", "-V")
    assert ("nrext64=0" not in run.asked[1]) is is_left_out
    plain = ScriptedRun([completed()])
    await make_filesystem(7, FsType.XFS, uuid=UUID, run=plain)
    assert plain.asked[0][0] == "mkfs.xfs"
