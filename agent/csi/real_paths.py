"""Where paths lead that kubelet names: its root may be a link, and mounts are named by real paths. Pure."""

from __future__ import annotations

from msgspec import Struct


class RealPaths(Struct):
    """kubelet's root as kubelet writes it, and where that leads as far as it was looked at."""

    given: str
    real: str

    def resolve(self, path: str) -> str:
        """Return where a path of kubelet's leads: below the root no link is followed."""
        beneath = f"{self.given}/"
        return f"{self.real}/{path.removeprefix(beneath)}" if path.startswith(beneath) else path
