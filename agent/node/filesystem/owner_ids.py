"""Owner and group names of the policy, as this node knows them. Name services can block: in a worker."""

from __future__ import annotations

import grp
import pwd

from agent.core.model import Ids


def resolve_ids(owner: str | None, group: str | None) -> Ids:
    """Return the IDs of ``owner`` and ``group``, names or numbers; ``missing`` names one not known."""
    try:
        uid = None if owner is None else _find_uid(owner)
    except KeyError:
        return Ids(missing=f"The user {owner!r}")
    try:
        gid = None if group is None else _find_gid(group)
    except KeyError:
        return Ids(uid=uid, missing=f"The group {group!r}")
    return Ids(uid, gid)


def _find_uid(owner: str) -> int:
    return int(owner) if owner.isdecimal() else pwd.getpwnam(owner).pw_uid


def _find_gid(group: str) -> int:
    return int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
