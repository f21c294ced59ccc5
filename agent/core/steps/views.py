"""What is done so that pods see a volume, and see it no more."""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct

from agent.core.model import Mount


class Publish(Struct, frozen=True):
    """Show a pod the filesystem that is mounted at kubelet's staging path."""

    kind: ClassVar[str] = "publish"
    staged: Mount
    path: str
    options: tuple[str, ...] = ()
    """Of the view alone, ``ro`` among them."""

    def describe(self) -> str:
        return f"publish it at {self.path} ({','.join(self.options) or 'as it is staged'})"


class PublishNode(Struct, frozen=True):
    """Show a pod the device node of a raw volume, at a file of kubelet's."""

    kind: ClassVar[str] = "publish-node"
    path: str
    is_read_only: bool = False

    def describe(self) -> str:
        return f"publish its device node at {self.path}"


class Unpublish(Struct, frozen=True):
    """Take a view of the volume away, and the empty directory or file that it was at."""

    kind: ClassVar[str] = "unpublish"
    path: str
    is_noted: bool = False
    """It is known that the volume was shown there: a mount whose device is gone is its."""

    def describe(self) -> str:
        return f"take its view at {self.path} away"
