from __future__ import annotations

import pytest

from agent.core.errors import InvalidValueError
from agent.core.model import FsType
from agent.policy.values.mkfs_options import find_refused_options
from agent.policy.values.mount_options import find_contradictions, normalise_options, parse_option

EXT4, XFS, BTRFS = FsType.EXT4, FsType.XFS, FsType.BTRFS


@pytest.mark.parametrize(
    ("options", "normal"),
    [
        ([], ("nodev", "nosuid")),
        (["suid"], ("nodev",)),
        (["dev"], ("nosuid",)),
        (["suid", "dev"], ()),
        (["nosuid", "nodev"], ("nodev", "nosuid")),
        (["ro", "noatime"], ("noatime", "nodev", "nosuid", "ro")),
        (["noatime", "ro"], ("noatime", "nodev", "nosuid", "ro")),
        (["rw", "exec", "async", "defaults"], ("nodev", "nosuid")),
        (["nofail", "_netdev", "auto", "x-systemd.automount", "comment=x"], ("nodev", "nosuid")),
        (["commit=5", "discard"], ("commit=5", "discard", "nodev", "nosuid")),
        (["silent", "loud", "nouser", "noowner", "nogroup"], ("nodev", "nosuid")),
        (['context="u:r:t:s0:c1,c2"'], ("context=u:r:t:s0:c1,c2", "nodev", "nosuid")),
    ],
)
def test_options_are_made_ready_for_the_kernel(options: list[str], normal: tuple[str, ...]) -> None:
    """Ready means: nosuid and nodev unless refused, no words of fstab's, nothing that is so anyway."""
    assert normalise_options([parse_option(option) for option in options]) == normal


@pytest.mark.parametrize(
    ("options", "kind", "errors"),
    [
        ([], EXT4, ["errors=remount-ro"]),
        (["errors=continue"], EXT4, ["errors=continue"]),
        (["ro"], EXT4, ["errors=remount-ro"]),
        ([], XFS, []),
        ([], BTRFS, []),
    ],
)
def test_no_volume_says_what_its_errors_do_to_the_node(
    options: list[str], kind: FsType, errors: list[str]
) -> None:
    """What whoever made an ext4 wrote on it for the case of an error is overridden."""
    normal = normalise_options([parse_option(option) for option in options], kind)
    assert [option for option in normal if option.startswith("errors=")] == errors


@pytest.mark.parametrize(
    "option",
    [
        "bind",
        "rbind",
        "loop",
        "loop=/dev/loop0",
        "remount",
        "move",
        "nouuid",
        "offset=512",
        "private",
        "rshared",
        "noauto",
        "user",
        "users",
        "journal_dev=8:1",
        "logdev=/dev/sdb",
        "rtdev=/dev/sdb",
        "device=/dev/sdb",
        "sb=32768",
        "nobarrier",
        "barrier=0",
        "barrier=00",
        "barrier=0x0",
        "barrier=+0",
        "barrier=off",
        "Barrier=0",
        "NOBARRIER",
        "abort",
        "errors=panic",
        "fatal_errors=panic",
        "iversion",
        "ro=recursive",
        "nosuid=0",
        "nofail=1",
        "uhelper=udisks2",
        "verity.hashdevice=/dev/sdb",
        'commit="5,6"',
        "X-mount.mkdir",
        "",
        "a b",
        "a,b",
        "-o",
        "=x",
        "a=b\\c",
        "é",
        "a" * 256,
        "subvol=a\0b",
        "Subvol=\0",
        "subvol=\udc80",
        "subvol=\u202ea",
    ],
)
def test_options_that_are_not_a_persons_to_set(option: str) -> None:
    """Refused: what the agent decides, what names another device, and what loses data."""
    with pytest.raises(InvalidValueError) as raised:
        parse_option(option)
    assert f"{raised.value.message}{raised.value.hint or ''}".isprintable()


@pytest.mark.parametrize(
    ("options", "places"),
    [
        (["ro", "rw"], [1]),
        (["nosuid", "ro", "suid"], [2]),
        (["commit=5", "commit=6"], [1]),
        (["commit=5", "commit=5"], []),
        (["noload"], [0]),
        (["norecovery", "ro"], []),
        (["ro", "noatime", "nodev"], []),
        (["symfollow", "nosymfollow"], [1]),
    ],
)
def test_options_that_contradict_each_other(options: list[str], places: list[int]) -> None:
    """The later of two options that cannot both hold is the wrong one."""
    assert [index for index, _ in find_contradictions(options)] == places


@pytest.mark.parametrize(
    ("fs_type", "options"),
    [
        (EXT4, []),
        (EXT4, ["-m", "0", "-b4096", "-O", "^has_journal,metadata_csum", "-i", "65536", "-T", "largefile"]),
        (EXT4, ["-E", "stride=16,stripe_width=64,lazy_itable_init=0", "-J", "size=512"]),
        (XFS, ["-m", "reflink=0,crc=1", "-d", "agcount=8,su=64k,sw=4", "-K", "-i", "size=512"]),
        (BTRFS, ["-m", "single", "--nodesize=16k", "-O", "no-holes", "--checksum", "xxhash", "-M"]),
    ],
)
def test_geometry_and_features_may_be_chosen(fs_type: FsType, options: list[str]) -> None:
    """What only shapes the filesystem is a person's to choose."""
    assert list(find_refused_options(fs_type, options)) == []


@pytest.mark.parametrize(
    ("fs_type", "options"),
    [
        (EXT4, ["/dev/sdb"]),
        (EXT4, ["100M"]),
        (EXT4, ["-F"]),
        (EXT4, ["-FF"]),
        (EXT4, ["-qF"]),
        (EXT4, ["-n"]),
        (EXT4, ["-S"]),
        (EXT4, ["-V"]),
        (EXT4, ["-U", "random"]),
        (EXT4, ["-L", "x"]),
        (EXT4, ["-d", "/etc"]),
        (EXT4, ["-z", "undo"]),
        (EXT4, ["-l", "list"]),
        (EXT4, ["-c"]),
        (EXT4, ["-b"]),
        (EXT4, ["-m", "-F"]),
        (EXT4, ["-m", "/dev/sdb"]),
        (EXT4, ["-E", "offset=1048576"]),
        (EXT4, ["-E", "stride=1,offset=5"]),
        (EXT4, ["-E", "assume_storage_prezeroed=1"]),
        (EXT4, ["-J", "device=UUID=x"]),
        (EXT4, ["-O", "journal_dev"]),
        (EXT4, ["-O", "none"]),
        (EXT4, ["-Onone,extent"]),
        (XFS, ["-m", "crc=0"]),
        (XFS, ["-m", "reflink=0,crc=0"]),
        (EXT4, ["--"]),
        (EXT4, ["-"]),
        (EXT4, ["--force"]),
        (XFS, ["-f"]),
        (XFS, ["-N"]),
        (XFS, ["-L", "x"]),
        (XFS, ["-m", "uuid=x"]),
        (XFS, ["-d", "name=/dev/sdb"]),
        (XFS, ["-d", "file=1,size=5g"]),
        (XFS, ["-d", "size=5g"]),
        (XFS, ["-l", "logdev=/dev/sdb"]),
        (XFS, ["-l", "logdev=sdb,size=5m"]),
        (XFS, ["-r", "rtdev=sdb"]),
        (XFS, ["-p", "proto"]),
        (XFS, ["-c", "options=x"]),
        (BTRFS, ["-f"]),
        (BTRFS, ["--force"]),
        (BTRFS, ["--forc"]),
        (BTRFS, ["-r", "/etc"]),
        (BTRFS, ["--rootdir=/etc"]),
        (BTRFS, ["-b", "5g"]),
        (BTRFS, ["--uuid=x"]),
        (BTRFS, ["-U", "x"]),
        (BTRFS, ["--mixed=1"]),
        (BTRFS, ["--shrink"]),
    ],
)
def test_options_that_would_break_the_safety(fs_type: FsType, options: list[str]) -> None:
    """Nothing that names a device, forces, skips, shrinks or replaces what the agent decides reaches mkfs."""
    assert list(find_refused_options(fs_type, options)) != []
