"""Mount options as the kernel splits them: attributes of the mount, and parameters of the filesystem. Pure.

An attribute (``nosuid``) belongs to one mount and is always shown by mountinfo; a parameter (``discard``)
belongs to the filesystem, and the kernel shows it as it likes or not at all. So attributes are compared with
what is mounted, parameters with what was asked for since the mount, as far as that can have come about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.core.model import Mount

ATTRIBUTES = frozenset(
    {"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow"}
)
"""Options of mount_setattr(2) that restrict or choose; each shown in mountinfo's per-mount field."""

OPPOSITES = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "atime": "noatime",
    "diratime": "nodiratime",
    "symfollow": "nosymfollow",
    "norelatime": "relatime",
    "nostrictatime": "strictatime",
}
"""Words that say an attribute is not wanted."""

OF_A_VIEW = frozenset({"nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"})
"""Attributes that one more mount of a filesystem may have beside those of the first."""
_ACCESS_TIMES = frozenset({"noatime", "relatime", "strictatime"})


def split_options(options: Iterable[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return (attributes, parameters). The last word on an attribute wins; ``defaults`` says nothing.

    Exactly one access-time attribute results, ``relatime`` where none is named: the kernel's own default.
    """
    attributes: set[str] = set()
    parameters: list[str] = []
    for option in options:
        if option in _ACCESS_TIMES:
            attributes = (attributes - _ACCESS_TIMES) | {option}
        elif option in ATTRIBUTES:
            attributes.add(option)
        elif option in OPPOSITES:
            attributes.discard(OPPOSITES[option])
        elif option and option != "defaults":
            parameters.append(option)
    if not attributes & _ACCESS_TIMES:
        attributes.add("relatime")
    return frozenset(attributes), tuple(parameters)


def differs_by_attributes(mount: Mount, wanted: Iterable[str]) -> bool:
    """Tell whether a mount has other attributes than ``wanted``."""
    mounted, _ = split_options(mount.options & (ATTRIBUTES | {"rw"}))
    # A strictatime mount shows no access-time word at all.
    if not mount.options & {"noatime", "relatime"}:
        mounted = (mounted - _ACCESS_TIMES) | {"strictatime"}
    return split_options(wanted)[0] != mounted


class ParameterChange(Struct, frozen=True):
    """What is to become of a mounted filesystem's parameters, and what of it a remount can bring about."""

    added: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()
    """Words that take back what is not wanted any more."""
    left: tuple[str, ...] = ()
    """Not wanted any more, in force, and taken back by no word."""
    missing: tuple[str, ...] = ()
    """Wanted, and in force only from the next mount on."""


def compare_parameters(mount: Mount, wanted: Iterable[str], applied: Iterable[str]) -> ParameterChange:
    """Return how the ``wanted`` parameters differ from those that the mount has.

    ``applied`` are those the agent has asked for since it was mounted and that can have come about: most
    filesystems do not show all of theirs. What is taken out of the policy is in force for as long as the
    kernel shows it, since a remount leaves alone what it does not name.
    """
    parameters, asked = split_options(wanted)[1], split_options(applied)[1]
    known = (*asked, *_list_implied(asked, mount.fs_type))
    kept = {*parameters, *_list_implied(parameters, mount.fs_type)}
    added = [one for one in parameters if one not in known and not _is_in_force(one, mount)]
    removed = [one for one in known if one not in kept and one not in _OWN and _is_shown(one, mount)]
    named = {_name(one) for one in parameters}
    fixed = {one for one in added if _needs_new_mount(one, mount.fs_type)}
    # Named with another value, it is changed and not taken back.
    removed = [one for one in removed if _name(one) not in named]
    undone = {one: word for one in removed if (word := _find_undoing(one, mount.fs_type)) is not None}
    return ParameterChange(
        added=tuple(one for one in added if one not in fixed),
        undone=tuple(undone.values()),
        left=tuple(one for one in removed if one not in undone),
        missing=tuple(one for one in added if one in fixed),
    )


_OWN = frozenset({"nouuid"})
"""What the agent adds by itself, where a filesystem of the same UUID is mounted, and no policy names."""


def _name(parameter: str) -> str:
    return parameter.partition("=")[0]


def _list_implied(parameters: Iterable[str], fs_type: str) -> list[str]:
    """Return what comes with parameters, and stays when they go."""
    return [brought for one in parameters if (brought := _IMPLIED.get(fs_type, {}).get(one)) is not None]


def _is_in_force(parameter: str, mount: Mount) -> bool:
    """Tell whether the kernel shows that what only a new mount brings is so already.

    What a remount can bring is asked for all the same: a default that is shown may be another one tomorrow.
    """
    if not _needs_new_mount(parameter, mount.fs_type):
        return False
    negated = _DEFAULT_NEGATIONS.get(mount.fs_type, {}).get(parameter)
    if negated is not None:
        return negated not in mount.super_options
    return parameter in mount.super_options or parameter in _WITHOUT_EFFECT.get(mount.fs_type, ())


def _is_shown(parameter: str, mount: Mount) -> bool:
    """Tell whether the kernel shows a parameter; a value it may show in other words: 1m as 1024k."""
    if parameter in _SHOWN_ANYWAY.get(mount.fs_type, ()):
        return False
    shown = _SHOWN_AS.get(mount.fs_type, {}).get(parameter, parameter)
    if shown in mount.super_options:
        return True
    name = _name(shown)
    return ("=" in shown or name in _VALUE_ADDED) and any(
        one.startswith(f"{name}=") for one in mount.super_options
    )


_SHOWN_ANYWAY = {
    "btrfs": frozenset({"space_cache=v2", "subvol=/", "subvolid=5"}),
    "xfs": frozenset({"attr2", "inode64", "logbufs=8", "logbsize=32k", "noquota"}),
}
"""What is in force where nothing is said, and shown all the same."""
_SHOWN_AS = {
    "ext4": {
        "auto_da_alloc=0": "noauto_da_alloc",
        "bsdgroups": "grpid",
        "dioread_lock": "nodioread_nolock",
        "no_mbcache": "nombcache",
        "noload": "norecovery",
    },
    "btrfs": {"norecovery": "rescue=nologreplay", "nologreplay": "rescue=nologreplay"},
}
"""Words that the kernel shows as another (``ext4_show_options``)."""
_VALUE_ADDED = frozenset({"compress", "compress-force"})
"""What btrfs shows with the value it chose, where none was given (``btrfs_show_options``)."""
_IMPLIED = {"xfs": {"sync": "wsync"}}
"""What XFS sets for the life of the mount where it is mounted with sync (``xfs_fs_fill_super``)."""
_DEFAULT_NEGATIONS = {"xfs": {"nodiscard": "discard", "nolargeio": "largeio"}}
"""Words for what is so unless the opposite is shown."""
_WITHOUT_EFFECT = {"xfs": frozenset({"attr2", "ikeep", "noikeep"})}
"""Words of old that change nothing on any filesystem of today."""
_XFS_CHANGES = frozenset({"inode32", "inode64"})
"""All that XFS changes by a remount; the rest it accepts and ignores (``xfs_fs_reconfigure``)."""
_FIXED = {
    "btrfs": frozenset({"subvol", "subvolid", "degraded", "rescue", "usebackuproot"}),
    "ext4": frozenset(
        {"data", "journal_checksum", "nojournal_checksum", "dax", "nodelalloc", "nombcache", "no_mbcache"}
        | {"quota", "usrquota", "grpquota", "prjquota", "usrjquota", "grpjquota", "jqfmt"}
    ),
}
"""What others ignore at a remount, or refuse it for (``btrfs_reconfigure``, ``ext4_reconfigure``)."""


def _needs_new_mount(parameter: str, fs_type: str) -> bool:
    name = _name(parameter)
    if name in NEVER_REMOUNTED:
        return True
    if name in _VFS_UNDOING or name in _VFS_UNDOING.values():
        return False
    return name not in _XFS_CHANGES if fs_type == "xfs" else name in _FIXED.get(fs_type, ())


NEVER_REMOUNTED = frozenset({"dirsync"})
"""Flags of any filesystem that no remount may name, be they in force or not: the kernel refuses it whole
(``reconfigure_super``, MS_RMT_MASK)."""
_VFS_UNDOING = {"sync": "async", "lazytime": "nolazytime", "mand": "nomand"}
"""Flags of any filesystem, and the words of fsconfig(2) that clear them (``fs/fs_context.c``)."""
_UNDOING = {
    "ext4": {"discard": "nodiscard", "commit": "commit=0"},
    "btrfs": {"commit": "commit=0"},  # nodiscard would be less than its default
    "xfs": {"inode32": "inode64"},
}
"""Likewise of filesystems; a commit interval of 0 is the default."""


def _find_undoing(parameter: str, fs_type: str) -> str | None:
    name = _name(parameter)
    return _VFS_UNDOING.get(name) or _UNDOING.get(fs_type, {}).get(name)


def needs_check_first(mount: Mount, wanted: Iterable[str]) -> bool:
    """Tell whether a filesystem is to be written to that is only read so far, or mounted without its journal.

    What is only read is mounted unchecked, and a kernel that writes by damaged structures spreads the damage.
    ext4 makes writable in place even what was mounted with ``noload``: what its journal holds stays there, to
    be replayed one day over what was written since.
    """
    is_unchecked = "ro" in mount.super_options or ignores_journal(mount)
    return is_unchecked and "ro" not in split_options(wanted)[0]


def ignores_journal(mount: Mount) -> bool:
    """Tell whether a filesystem was mounted without replaying its journal, by the words the kernel shows."""
    return not mount.super_options.isdisjoint(_WITHOUT_JOURNAL)


_WITHOUT_JOURNAL = frozenset({"norecovery", "noload", "nologreplay", "rescue=nologreplay", "rescue=all"})
"""ext4 shows noload as norecovery, xfs norecovery as itself, and btrfs each part of ``rescue``."""
