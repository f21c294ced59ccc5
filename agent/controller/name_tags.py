"""How a name is written in the tag that things are found by: as it is where EC2 takes it, else its digest.

What is written so is written to itself.
"""

from __future__ import annotations

import hashlib
import re

TAG_VOLUME_NAME = "CSIVolumeName"
TAG_SNAPSHOT_NAME = "CSIVolumeSnapshotName"
"""The tags of AWS's driver, whose volumes and snapshots are found by them, too."""

_TAKEN = re.compile(r"[\w +\-=.:/@]{1,256}")
"""Letters and digits of any script, spaces and some signs. Source: the EC2 guide, "Tag restrictions"."""


def write_name(name: str) -> str:
    """Return the tag's value for a name of any length and script."""
    if _TAKEN.fullmatch(name) and name == name.strip():
        return name
    return f"sha256-{hashlib.sha256(name.encode()).hexdigest()}"
