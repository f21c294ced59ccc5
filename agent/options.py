"""Mount options as the kernel splits them: attributes of the mount, and parameters of the filesystem. Pure.

An attribute (``nosuid``) belongs to one mount and is always shown by mountinfo; a parameter (``discard``)
belongs to the filesystem, and the kernel shows it as it likes or not at all. So attributes are compared with
what is mounted, parameters only with what was asked for at the mount.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.model import Mount

ATTRIBUTES = frozenset(
    {"ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "relatime", "strictatime", "nosymfollow"}
)
"""Options of mount_setattr(2) that restrict or choose; each shown in mountinfo's per-mount field."""

_OPPOSITES = {
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
        elif option in _OPPOSITES:
            attributes.discard(_OPPOSITES[option])
        elif option and option != "defaults":
            parameters.append(option)
    if not attributes & _ACCESS_TIMES:
        attributes.add("relatime")
    return frozenset(attributes), tuple(parameters)


def differs_by_remount(mount: Mount, wanted: Iterable[str], applied: Iterable[str] | None) -> bool:
    """Whether a remount is needed for ``mount`` to have the ``wanted`` options.

    ``applied`` are the options last asked for by the agent, None for a mount it did not make: parameters are
    then left as they are.
    """
    attributes, parameters = split_options(wanted)
    mounted, _ = split_options(mount.options & (ATTRIBUTES | {"rw"}))
    # A strictatime mount shows no access-time word at all.
    if not mount.options & {"noatime", "relatime"}:
        mounted = (mounted - _ACCESS_TIMES) | {"strictatime"}
    if attributes != mounted:
        return True
    return applied is not None and set(split_options(applied)[1]) != set(parameters)


def needs_check_first(mount: Mount, wanted: Iterable[str]) -> bool:
    """Tell whether a filesystem that is only read so far is to be written to.

    What is only read is mounted unchecked, and a kernel that writes by damaged structures spreads the damage.
    """
    return "ro" in mount.super_options and "ro" not in split_options(wanted)[0]
