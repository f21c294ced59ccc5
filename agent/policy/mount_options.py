"""Mount options of the policy: which a person may choose, and what they become.

Refused are those that are the agent's to set, that name another device, or that give up the journal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.errors import InvalidValueError

_FSTAB_WORDS = frozenset({"auto", "defaults", "nofail", "_netdev"})
"""fstab's and mount(8)'s own words. The kernel knows none; they ask for what the agent does anyway."""

_OPPOSITES = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "async": "sync",
    "atime": "noatime",
    "diratime": "nodiratime",
    "relatime": "norelatime",
    "strictatime": "nostrictatime",
    "lazytime": "nolazytime",
}
_ABSENT_WHEN_CHOSEN = frozenset({"rw", "suid", "dev", "exec", "async"})
"""What a mount is when nothing is said; saying so only stops the agent's own default."""

_OURS = "the agent decides that itself"
_OTHER_DEVICE = "it names another device, and the agent vouches for this one only"
_LOSES_DATA = "a crash would then lose data that was written"
_REFUSED = {
    **dict.fromkeys(("bind", "rbind", "loop", "offset", "sizelimit", "move", "remount", "nouuid"), _OURS),
    **dict.fromkeys(("private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable"), _OURS),
    **dict.fromkeys(("noauto", "user", "users", "owner", "group"), "it is for fstab only"),
    **dict.fromkeys(("journal_dev", "journal_path", "logdev", "rtdev", "device"), _OTHER_DEVICE),
    **dict.fromkeys(("nobarrier", "journal_async_commit"), _LOSES_DATA),
    "sb": "a filesystem whose superblock is damaged is repaired by hand, not mounted around",
}
_READ_ONLY_ONLY = frozenset({"noload", "norecovery", "nologreplay"})
_OPTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*(?:=[^\s,\"\\]*)?", re.ASCII)


def parse_option(text: str) -> str:
    """Return one mount option a policy may hold. Raises InvalidValueError."""
    if "," in text:
        raise InvalidValueError(f"{text!r:.60} is several options.", hint="Give each its own list item.")
    if not _OPTION.fullmatch(text) or len(text) > 255:  # noqa: PLR2004 - the mount API's own bound on a key
        raise InvalidValueError(f"{text!r:.60} is not a mount option.")
    key, _, value = text.partition("=")
    why = _REFUSED.get(key)
    if key == "barrier" and value == "0":
        why = _LOSES_DATA
    if key.startswith("X-"):
        why = "it is for mount(8) only"
    if why is not None:
        raise InvalidValueError(f"The option {text!r:.60} is not allowed: {why}.", hint="Remove it.")
    return text


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


def normalise_options(options: Sequence[str]) -> tuple[str, ...]:
    """Return the options to mount with, sorted: nosuid and nodev unless the policy says suid or dev."""
    chosen = {option for option in options if not _is_fstab_word(option)}
    chosen |= {default for default in ("nosuid", "nodev") if default.removeprefix("no") not in chosen}
    return tuple(sorted(chosen - _ABSENT_WHEN_CHOSEN))


def _is_fstab_word(option: str) -> bool:
    return option in _FSTAB_WORDS or option.startswith(("x-", "comment="))
