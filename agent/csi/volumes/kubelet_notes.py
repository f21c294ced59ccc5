"""Where kubelet notes which volumes it has staged, by which it takes them back after a restart of its own.

Looked at by workers, so nothing of the daemon's is imported here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

NOTE = "vol_data.json"
"""Of Kubernetes' pkg/volume/csi: written before a volume is staged, removed once it is unstaged."""

_DEVICE = re.compile(r"(.*/volumeDevices)/staging/([^/]+)", re.ASCII)


def find_note(staging_path: str) -> str:
    """Return where kubelet notes what is staged at a path: beside a filesystem, by its name for a device."""
    found = _DEVICE.fullmatch(staging_path)
    if found is not None:
        return f"{found[1]}/{found[2]}/data/{NOTE}"
    return f"{staging_path.rpartition('/')[0]}/{NOTE}"


def list_missing(paths: Sequence[str]) -> tuple[str, ...]:
    """Return which of these files are not there. Raises OSError where that cannot be told of one."""
    return tuple(path for path in paths if not _is_there(path))


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
