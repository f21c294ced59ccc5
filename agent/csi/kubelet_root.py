"""Where the paths lead that kubelet names: its root may be a link, and mounts are named by real paths."""

from __future__ import annotations

import os
from collections.abc import Callable


class KubeletRoot:
    """kubelet's directory, which may be a link that moves; ``tell`` is told where it leads."""

    def __init__(self, root: str, tell: Callable[[str], None]) -> None:
        self.given = root
        self._tell = tell
        self.real = ""
        self.find()

    def find(self) -> str:
        """Return where it leads now."""
        real = os.path.realpath(self.given)
        if real != self.real:
            self.real = real
            self._tell(real)
        return real

    def resolve(self, path: str) -> str:
        """Return where a path of kubelet's leads: below the root no link is followed."""
        beneath = f"{self.given}/"
        return f"{self.find()}/{path.removeprefix(beneath)}" if path.startswith(beneath) else path
