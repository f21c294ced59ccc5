"""What a step needs: parts of what was observed, or it is not done; and how long it may take, in seconds."""

from __future__ import annotations

from agent.core.errors import RefusedError, VanishedError
from agent.core.model import Device, Filesystem, Mount, Observed

VERIFY_TIMEOUT_S = 30.0
MOUNT_TIMEOUT_S = 600.0
"""Replaying a full log takes minutes."""
GROW_TIMEOUT_S = 600.0
OWN_TIMEOUT_S = 30.0
FIND_TIMEOUT_S = 60.0
"""A node may run thousands of processes with hundreds of open files each."""
FLUSH_TIMEOUT_S = 600.0
"""Gigabytes may be waiting for a slow volume."""


def need_device(observed: Observed) -> Device:
    """Return the device that was observed, or raise VanishedError."""
    if observed.device is None:
        raise VanishedError(f"{observed.volume_id} is not attached.")
    return observed.device


def need_filesystem(observed: Observed) -> Filesystem:
    """Return the filesystem that was observed on the device, or raise RefusedError."""
    if not isinstance(observed.content, Filesystem):
        raise RefusedError(f"{observed.volume_id} was not found to hold a filesystem.")
    return observed.content


def need_mount(observed: Observed, path: str) -> Mount:
    """Return the mount that was observed at ``path``, or raise VanishedError."""
    for mount in observed.mounts:
        if mount.path == path:
            return mount
    raise VanishedError(f"{observed.volume_id} is not mounted at {path} any more.")
