"""What a scene of the demo is: one volume and its story, and what its images are made and measured with.

A scene begins by attaching its volume. It is then told the volume's status again and again, and says when its
story has happened. At the end it checks on the disk itself what it claims, and trusts no one's word for it.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import anyio

from agent.cli.demo.sandbox import Stage
from agent.core.errors import AgentError
from agent.core.units import MIB
from agent.node.isolate import programs
from agent.node.kernel.mountinfo import read_mounts

MKFS_TIMEOUT_S = 60.0


class Scene(ABC):
    """One volume and its story."""

    name: ClassVar[str]
    volume_id: ClassVar[str]
    title: ClassVar[str]
    story: ClassVar[str]

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.image = stage.workshop / f"{self.volume_id}.img"
        self.is_over = False
        self.proof = ""
        """What the viewer sees of the claim, now."""

    @property
    def path(self) -> Path:
        return self.stage.mounts / self.name

    @abstractmethod
    def entry(self) -> dict[str, Any]:
        """Return what the policy says of the volume, but for its name and ID."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the volume's image in the workshop."""

    @abstractmethod
    def find_problems(self) -> list[str]:
        """Check the claim and return what is not true of it, as clauses."""

    def begin(self) -> None:
        """Attach the volume."""
        self.prepare()
        self.image = self.stage.attach(self.image)

    def watch(self, volume: dict[str, Any]) -> None:
        """Take note of the volume's status; the story is over once the volume is ready."""
        self.is_over = self.is_over or volume["condition"] == "Ready"

    def end(self) -> None:  # noqa: B027  # most scenes keep nothing going
        """Stop whatever the scene itself keeps going."""

    def find_mount_problems(self, type_: str) -> list[str]:
        """Check that the volume is mounted at its path with a filesystem of this type."""
        mount = next((mount for mount in read_mounts() if mount.path == str(self.path)), None)
        if mount is None:
            return [f"nothing is mounted at {self.path}"]
        return [] if mount.fs_type == type_ else [f"{self.path} is {mount.fs_type}, not {type_}"]


def check_play(scenes: list[Scene]) -> None:
    """Raise AgentError where a claim of the demo is not true."""
    problems = [f"{scene.name}: {problem}" for scene in scenes for problem in scene.find_problems()]
    if problems:
        raise AgentError(
            f"The demo did not do what it shows: {'; '.join(problems)}.",
            hint="This is a bug of the agent, or this machine's loop devices behave in an unknown way.",
        )


def make_sparse(path: Path, size_bytes: int) -> None:
    """Make a file of this size that takes no room until it is written to."""
    with path.open("xb") as file:
        file.truncate(size_bytes)


def make_ext4(image: Path, uuid: UUID, files: Path) -> None:
    """Make an ext4 filesystem in an image, filled with the files of a directory."""
    argv = ("mkfs.ext4", "-q", "-F", "-U", str(uuid), "-d", str(files), str(image))

    async def make() -> None:
        await programs.run(argv, timeout_s=MKFS_TIMEOUT_S)

    anyio.run(make)


def measure(path: Path) -> int:
    """Return the bytes of the filesystem at ``path``."""
    status = os.statvfs(path)
    return status.f_blocks * status.f_frsize


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def hash_files(directory: Path) -> str:
    """Return one SHA-256 over names and contents of the regular files in a directory."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    return hashlib.sha256("".join(f"{path.name} {hash_file(path)}\n" for path in files).encode()).hexdigest()
