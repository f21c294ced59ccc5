"""What a process gives up that speaks with strangers, before it hears the first word of them."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from agent.base.seal import PR_SET_NO_NEW_PRIVS, prctl

NOBODY_UID = 65534
"""The kernel's overflow user, for a node where the user that was meant is missing."""
COMMON_USER = "ebs-agent"
"""Who a process is on a machine that has no user of its own for it, as an earlier version installed it."""
NO_GROUP = 65534
"""The kernel's overflow group. User ebs-agent has a group of the same name, and whoever is in it may look at
all that the daemon knows. What strangers can reach may not."""

_PR_SET_DUMPABLE = 4


def find_uid(user: str) -> int:
    """Return the number of a user, or of nobody where this machine has no such user."""
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return NOBODY_UID


def become(uid: int) -> None:
    """Be another user from now on, in no group of this machine's, and without a way back. Root only."""
    os.setgroups([])
    os.setresgid(NO_GROUP, NO_GROUP, NO_GROUP)
    os.setresuid(uid, uid, uid)


def give_up_privileges() -> None:
    """Let neither this process nor a child gain privileges by a set-user-ID program."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def hide_memory() -> None:
    """Let no other process of the same user look into this one, or change it."""
    prctl(_PR_SET_DUMPABLE, 0)


def limit_resources(limits: Mapping[int, int]) -> None:
    """Bound what this process can take of the node: ``limits`` by their kinds, each only ever lowered."""
    for kind, limit in {resource.RLIMIT_CORE: 0, **limits}.items():
        _, hard = resource.getrlimit(kind)
        lowest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowest, lowest))


class Means(Struct, frozen=True):
    """What a process that speaks with strangers may take of the node."""

    address_space_bytes: int
    processes: int
    """Of its user, threads included."""
    oom_score: int
    niceness: int


def become_harmless(uid: int | None, means: Means) -> None:
    """Give up all but the sockets. ``uid``: who to be from now on; None: who this is."""
    be_killed_first(means.oom_score)
    if os.getpriority(os.PRIO_PROCESS, 0) < means.niceness:  # what a unit has set it may forbid to set
        os.nice(means.niceness)
    if uid is not None:
        become(uid)
    give_up_privileges()
    hide_memory()
    limits = {resource.RLIMIT_AS: means.address_space_bytes}
    if uid not in {None, NOBODY_UID}:  # who else is nobody, nobody knows
        limits[resource.RLIMIT_NPROC] = means.processes
    limit_resources(limits)


def be_killed_first(score: int = 0) -> None:
    """Have the kernel, short of memory, end this process and not a job; 0 is what any program has."""
    # The daemon's is lowered by its unit, and inherited. Raising it again is allowed to everybody.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(score), "ascii")
