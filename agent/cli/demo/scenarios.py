"""The five scenes of the demo: what each volume is, what its policy entry says, and how its claim holds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

from typing_extensions import override

from agent.cli.demo.busy_writer import BLOCK_BYTES, Writer
from agent.cli.demo.sandbox import Stage
from agent.cli.demo.scene import Scene, hash_file, hash_files, make_ext4, make_sparse, measure
from agent.core.units import MIB, show_size
from agent.node.kernel.mountinfo import read_mounts

EXT4_UUID_OFFSET = 1024 + 0x68
"""Where an ext4 image has the UUID of its filesystem."""


class BlankVolume(Scene):
    """Formatted, because it is proven blank and the policy allows it."""

    name = "checkpoints"
    volume_id = "vol-0b1a00000000000a1"
    title = "A new, blank volume"
    story = "The policy says format: if-blank. The agent proves that it is blank, makes ext4 and mounts it."

    @override
    def entry(self) -> dict[str, Any]:
        return {
            "filesystem": {"type": "ext4", "format": "if-blank"},
            "mount": {"path": str(self.path), "mode": "0770"},
        }

    @override
    def prepare(self) -> None:
        make_sparse(self.image, 1024 * MIB)

    @override
    def watch(self, volume: dict[str, Any]) -> None:
        super().watch(volume)
        if self.is_over:
            self.proof = f"{volume['fstype']} of {show_size(volume['size_bytes'])}, ready for use"

    @override
    def find_problems(self) -> list[str]:
        problems = self.find_mount_problems("ext4")
        if not problems:
            (self.path / "model.bin").write_bytes(b"weights")
        return problems


class FilledVolume(Scene):
    """Mounted, and every byte of its files as it was."""

    name = "datasets"
    volume_id = "vol-0da7a0000000000a2"
    title = "A volume that has data on it"
    story = "The policy says format: never. The agent checks its filesystem, mounts it, and changes no file."

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._uuid = uuid4()
        self._before = ""

    @override
    def entry(self) -> dict[str, Any]:
        return {"filesystem": {"type": "ext4", "format": "never"}, "mount": {"path": str(self.path)}}

    @override
    def prepare(self) -> None:
        files = self.stage.workshop / "files"
        files.mkdir()
        for number in range(3):
            (files / f"shard-{number}.bin").write_bytes(os.urandom(4 * MIB))
        self._before = hash_files(files)
        make_sparse(self.image, 256 * MIB)
        make_ext4(self.image, self._uuid, files)
        shutil.rmtree(files)

    @override
    def watch(self, volume: dict[str, Any]) -> None:
        if self.is_over or volume["condition"] != "Ready":
            return
        self.is_over = True
        after = hash_files(self.path)
        state = "unchanged" if after == self._before else "CHANGED"
        self.proof = f"sha256 before {self._before[:12]}…, after {after[:12]}…: {state}"

    @override
    def find_problems(self) -> list[str]:
        problems = self.find_mount_problems("ext4")
        if hash_files(self.path) != self._before:
            problems.append("its files are not what they were")
        with self.image.open("rb") as image:
            image.seek(EXT4_UUID_OFFSET)
            if UUID(bytes=image.read(16)) != self._uuid:
                problems.append("its filesystem is another one")
        return problems


class GrowingVolume(Scene):
    """Grows under a program that goes on writing and verifying.

    It is xfs for variety, and since the kernel grows a mounted ext4 only for CAP_SYS_RESOURCE, which root in
    a container often lacks.
    """

    name = "scratch"
    volume_id = "vol-09f00000000000a3a"
    title = "A volume that grows while in use"
    story = (
        "A program writes and reads all the time. The volume is made twice as big; the filesystem follows."
    )

    FROM_BYTES: ClassVar[int] = 512 * MIB
    TO_BYTES: ClassVar[int] = 1024 * MIB
    BLOCKS_BEFORE: ClassVar[int] = 20
    BLOCKS_AFTER: ClassVar[int] = 20

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._writer = Writer(self.path)
        self._size_before: int | None = None
        self._size_after: int | None = None
        self._grown_at_block: int | None = None
        self._resized_at_block: int | None = None

    @override
    def entry(self) -> dict[str, Any]:
        return {
            "filesystem": {"type": "xfs", "format": "if-blank"},
            "mount": {"path": str(self.path)},
            "grow": True,
        }

    @override
    def prepare(self) -> None:
        make_sparse(self.image, self.FROM_BYTES)

    @override
    def watch(self, volume: dict[str, Any]) -> None:
        written = self._writer.written
        if self._size_before is None:
            if volume["condition"] == "Ready":
                self._size_before = measure(self.path)
                self._writer.start()
            return
        if self._resized_at_block is None:
            if written >= self.BLOCKS_BEFORE:
                os.truncate(self.image, self.TO_BYTES)
                self._resized_at_block = written
        elif self._grown_at_block is None:
            size_bytes = measure(self.path)
            if size_bytes > self._size_before * 3 // 2:
                self._size_after = size_bytes
                self._grown_at_block = written
        elif written >= self._grown_at_block + self.BLOCKS_AFTER:
            self.is_over = True
        self._show()

    def _show(self) -> None:
        sizes = show_size(self._size_before or 0)
        if self._size_after is not None:
            sizes += f" → {show_size(self._size_after)}"
        blocks = f"{self._writer.written} blocks of {show_size(BLOCK_BYTES)} written meanwhile"
        self.proof = f"{sizes}; {blocks}, {self._writer.error or 'no error'}"

    @override
    def end(self) -> None:
        self._writer.stop()
        if self._size_before is not None:
            self._show()

    @override
    def find_problems(self) -> list[str]:
        self.end()
        problems = self.find_mount_problems("xfs")
        if self._writer.error:
            problems.append(f"its user met an error: {self._writer.error}")
        if not self._writer.verified or self._writer.verified != self._writer.written:
            problems.append(f"{self._writer.verified} of {self._writer.written} blocks were verified")
        if self._grown_at_block is None or measure(self.path) <= self.FROM_BYTES:
            problems.append("its filesystem did not grow")
        return problems


class RawVolume(Scene):
    """No filesystem: a stable name for whoever wants the device itself."""

    name = "rawdb"
    volume_id = "vol-04a30000000000a4a"
    title = "A raw volume"
    story = "The policy wants a block device. The agent gives it a name that stays, owner and mode."

    @property
    def link(self) -> Path:
        return self.stage.paths.dev_ebs / self.name

    @override
    def entry(self) -> dict[str, Any]:
        return {"block": {"owner": "root", "group": "disk", "mode": "0660"}}

    @override
    def prepare(self) -> None:
        make_sparse(self.image, 128 * MIB)

    @override
    def watch(self, volume: dict[str, Any]) -> None:
        super().watch(volume)
        if self.is_over and self.link.is_symlink():
            self.proof = f"{self.link.name} → {self.link.resolve()}"

    @override
    def find_problems(self) -> list[str]:
        if not self.link.resolve().is_block_device():
            return [f"{self.link} leads to no device"]
        record = b"written through the stable name".ljust(4096)
        with self.link.open("r+b", buffering=0) as device:
            device.write(record)
            os.fsync(device.fileno())
        with self.image.open("rb") as image:
            return [] if image.read(len(record)) == record else ["the name leads to another volume"]


class ForeignVolume(Scene):
    """Not blank: the policy would format it, and the agent does not."""

    name = "mistake"
    volume_id = "vol-0bad0000000000a5a"
    title = "A volume that only looks blank"
    story = "The policy says format: if-blank, but a database without any filesystem is on it. Hands off."

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._before = ""

    @override
    def entry(self) -> dict[str, Any]:
        return {"filesystem": {"type": "ext4", "format": "if-blank"}, "mount": {"path": str(self.path)}}

    @override
    def prepare(self) -> None:
        make_sparse(self.image, 256 * MIB)
        with self.image.open("r+b") as image:
            image.write(b"PAYROLL " * (MIB // 8))
            image.seek(200 * MIB)
            image.write(os.urandom(8 * MIB))
        self._before = hash_file(self.image)

    @override
    def watch(self, volume: dict[str, Any]) -> None:
        if self.is_over or volume["condition"] != "Refused":
            return
        self.is_over = True
        after = hash_file(self.image)
        state = "unchanged" if after == self._before else "CHANGED"
        self.proof = f"sha256 of all of it before {self._before[:12]}…, after {after[:12]}…: {state}"

    @override
    def find_problems(self) -> list[str]:
        problems = [] if hash_file(self.image) == self._before else ["its bytes were changed"]
        if any(mount.path == str(self.path) for mount in read_mounts()):
            problems.append("it was mounted")
        return problems if self.is_over else [*problems, "it was not refused"]


SCENES: tuple[type[Scene], ...] = (BlankVolume, FilledVolume, GrowingVolume, RawVolume, ForeignVolume)
