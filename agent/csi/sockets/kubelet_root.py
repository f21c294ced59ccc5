"""Where kubelet keeps its sockets, and the plugins theirs: looked up anew each time, since the root may move.

A lifecycle script moves kubelet's root to another disk and leaves a link in its place. Nothing is made below
it before kubelet runs: a live socket could not be moved along.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct


class Seen(NamedTuple):
    """What a look at kubelet's root found."""

    root: str | None
    """Its real path; None: there is none."""
    is_kubelet_there: bool = False
    """kubelet has run here: it makes ``plugins_registry`` itself."""
    endpoint_inode: int | None = None
    registration_inode: int | None = None
    """Of what is at the sockets' paths, if anything."""


class Places(Struct, frozen=True):
    """The sockets of one driver below one root, which is resolved."""

    root: str
    driver: str

    @property
    def endpoint(self) -> Path:
        """The plugin's own socket."""
        return Path(self.root, "plugins", self.driver, "csi.sock")

    @property
    def registration(self) -> Path:
        """The socket that kubelet finds by itself."""
        return Path(self.root, "plugins_registry", f"{self.driver}-reg.sock")


def look_at_root(given: str, driver: str) -> Seen:
    """Return what is at kubelet's root ``given``. May block, as the disk does that it is on."""
    root = os.path.realpath(given)
    if not Path(root).is_dir():
        return Seen(None)
    places = Places(root, driver)
    return Seen(
        root,
        is_kubelet_there=places.registration.parent.is_dir(),
        endpoint_inode=read_inode(places.endpoint),
        registration_inode=read_inode(places.registration),
    )


def read_inode(path: Path) -> int | None:
    """Return the inode of a socket; None where there is none, or something else."""
    with suppress(OSError):
        found = path.lstat()
        return found.st_ino if stat.S_ISSOCK(found.st_mode) else None
    return None
