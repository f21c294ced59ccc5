"""Mount options of the policy: which a person may choose, and what they become.

Refused are those that are the agent's to set, that name another device, or that give up the journal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.core.errors import InvalidValueError
from agent.core.model import FsType
from agent.core.mount_options import OPPOSITES

_FSTAB_WORDS = frozenset(
    {"auto", "defaults", "nofail", "_netdev", "silent", "loud", "nouser", "nousers", "noowner", "nogroup"}
)
"""fstab's and mount(8)'s own words. The kernel knows none; they ask for what the agent does anyway."""

_OPPOSITES = OPPOSITES | {"async": "sync", "lazytime": "nolazytime"}
_ABSENT_WHEN_CHOSEN = frozenset({"rw", "suid", "dev", "exec", "async"})
"""What a mount is when nothing is said; saying so only stops the agent's own default."""

_OURS = "the agent decides that itself"
_OTHER_DEVICE = "it names another device, and the agent vouches for this one only"
_LOSES_DATA = "a crash would then lose data that was written"
_REFUSED = {
    **dict.fromkeys(("bind", "rbind", "loop", "offset", "sizelimit", "move", "remount", "nouuid"), _OURS),
    **dict.fromkeys(("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable"), _OURS),
    **dict.fromkeys(
        ("noauto", "user", "users", "owner", "group", "helper", "uhelper"), "it is for fstab only"
    ),
    **dict.fromkeys(("iversion", "noiversion"), "the kernel's mount calls have no such word any more"),
    **dict.fromkeys(("journal_dev", "journal_path", "logdev", "rtdev", "device"), _OTHER_DEVICE),
    **dict.fromkeys(("verity.hashdevice", "verity.hashoffset", "verity.fecdevice"), _OTHER_DEVICE),
    **dict.fromkeys(("nobarrier", "journal_async_commit"), _LOSES_DATA),
    "abort": "it ends the filesystem at once",
    "sb": "a filesystem whose superblock is damaged is repaired by hand, not mounted around",
}
_PANICS = "an error of one volume would end the whole node"
_REFUSED_VALUES = (
    ("barrier", re.compile(r"[+-]?(0[xX])?0+|off|no|false", re.IGNORECASE), _LOSES_DATA),
    ("errors", re.compile(r"panic", re.IGNORECASE), _PANICS),
    ("fatal_errors", re.compile(r"panic", re.IGNORECASE), _PANICS),
)
"""Values of an option that is allowed otherwise, in every spelling the kernel reads as the same."""

_FLAGS = frozenset(
    {
        *_FSTAB_WORDS,
        *_OPPOSITES,
        *_OPPOSITES.values(),
        "dirsync",
        "mand",
        "nomand",
    }
)
"""Words that say all by themselves. mount(8) takes a value with some, which the kernel's calls do not."""

_READ_ONLY_ONLY = frozenset({"noload", "norecovery", "nologreplay"})
_CONTEXTS = ("context=", "fscontext=", "defcontext=", "rootcontext=")
"""SELinux's options, whose value may hold commas."""
_OPTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*(?:=[^\s,\"\\]*)?", re.ASCII)


def parse_option(text: str) -> str:
    """Return one mount option a policy may hold. Raises InvalidValueError."""
    text = _unquote_context(text)
    if "," in text and not text.startswith(_CONTEXTS):
        raise InvalidValueError(f"{text!r:.60} is several options.", hint="Give each its own list item.")
    word = text.replace(",", "") if text.startswith(_CONTEXTS) else text
    is_plain = _OPTION.fullmatch(word) is not None and text.isprintable()
    if not is_plain or len(text) > 255:  # noqa: PLR2004 - the mount API's own bound on a key
        raise InvalidValueError(f"{text!r:.60} is not a mount option.")
    key, equals, value = text.partition("=")
    if key != key.lower() and not key.startswith("X-"):
        raise InvalidValueError(
            f"{text!r:.60} is not a mount option.", hint=f"Options are in lower case: {text.lower()}"
        )
    if equals and key in _FLAGS:
        raise InvalidValueError(f"The option {key!r:.60} takes no value.", hint=f"Say {key}.")
    why = _REFUSED.get(key)
    for name, pattern, because in _REFUSED_VALUES:
        if key == name and pattern.fullmatch(value):
            why = because
    if key.startswith("X-"):
        why = "it is for mount(8) only"
    if why is not None:
        raise InvalidValueError(f"The option {text!r:.60} is not allowed: {why}.", hint="Remove it.")
    return text


def _unquote_context(text: str) -> str:
    """Return an SELinux context without the quotes that mount(8) wants round categories: ``…:s0:c1,c2``."""
    key, _, value = text.partition("=")
    is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return f"{key}={value[1:-1]}" if is_quoted and text.startswith(_CONTEXTS) else text


def find_contradictions(options: Sequence[str]) -> list[tuple[int, str]]:
    """Return the options, by index, that contradict an earlier one, each with a sentence."""
    found = []
    seen: dict[str, str] = {}
    for index, option in enumerate(options):
        key = option.partition("=")[0]
        topic = _OPPOSITES.get(key, key)
        earlier = seen.setdefault(topic, option)
        if earlier != option:
            found.append((index, f"The option {option!r:.60} contradicts {earlier!r:.60}."))
        if key in _READ_ONLY_ONLY and "ro" not in options:
            found.append((index, f"The option {option!r:.60} needs ro beside it."))
    return found


def normalise_options(options: Sequence[str], kind: FsType | None = None) -> tuple[str, ...]:
    """Return the options to mount a filesystem of type ``kind`` with, sorted.

    nosuid and nodev unless the policy says suid or dev. ext4 has what an error of it does to the node written
    on the volume itself, by whoever made it: it becomes read-only unless the policy says otherwise.
    """
    chosen = {option for option in options if not _is_fstab_word(option)}
    if kind is FsType.EXT4 and not any(option.startswith("errors=") for option in chosen):
        chosen.add("errors=remount-ro")
    chosen |= {default for default in ("nosuid", "nodev") if default.removeprefix("no") not in chosen}
    return tuple(sorted(chosen - _ABSENT_WHEN_CHOSEN))


def _is_fstab_word(option: str) -> bool:
    return option in _FSTAB_WORDS or option.startswith(("x-", "comment="))
