"""One pass over one blank volume, in this process, with someone else acting at a moment the test chooses.

A moment is a call to a worker: everything the agent asks of a device, and every note it writes, is one. So
"before call N" covers every boundary between two of its steps, without luck and without sleeping.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from typing_extensions import TypeVarTuple, Unpack

from agent.base.paths import Paths
from agent.core.errors import AgentError
from agent.core.model import FormatRule, FsType, VolumeId, Wanted, WantedFilesystem, WantedMount
from agent.core.plan import make_plan
from agent.core.steps import Format, Plan, Refuse, Wait
from agent.node.device import links
from agent.node.filesystem.format_guard import lock_and_probe
from agent.node.isolate.workers import Workers
from agent.node.kernel.mountinfo import read_mounts
from agent.node.machine import Machine
from agent.node.standins import loop_device
from agent.node.standins.source import LoopbackSource
from tests.corpus.case import MIB
from tests.corpus.tools import run

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

VOLUME = VolumeId("vol-0123456789abcdef0")
OTHER = VolumeId("vol-0123456789abcdef1")
SIZE_BYTES = 64 * MIB
MAX_STEPS = 12
LOCK_PATIENCE_S = 0.1

Act = Callable[[], None]


class WatchedWorkers(Workers):
    """Workers that do their work, and let a test act, or fail, before or after one of their calls.

    A lock that somebody keeps they wait for only so long as to be refused: how long is not what is tested.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.arguments: dict[str, tuple[object, ...]] = {}
        """Of the last call of each function."""
        self.before: dict[int, Act] = {}
        self.after: dict[int, Act] = {}

    async def call(
        self, function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts], timeout_s: float, subject: str
    ) -> T:
        """Do what ``Workers.call`` does, between what the test does."""
        number = len(self.calls)
        self.calls.append(getattr(function, "__name__", "?"))
        self.arguments[self.calls[-1]] = args
        self.before.get(number, _do_nothing)()
        if self.calls[-1] == lock_and_probe.__name__:
            args = (*args, LOCK_PATIENCE_S)  # type: ignore[assignment]  # its last argument
        answer = await super().call(function, *args, timeout_s=timeout_s, subject=subject)
        self.after.get(number, _do_nothing)()
        return answer


def _do_nothing() -> None:
    pass


@dataclass
class Outcome:
    """How a pass ended: done, or with the reason why not."""

    calls: list[str]
    steps: list[str] = field(default_factory=list)
    is_done: bool = False
    reason: str | None = None
    message: str = ""

    def end(self, plan: Plan) -> None:
        """Take a plan without actions for the end: all is done, or its ending says why it is not."""
        if isinstance(plan.ending, (Refuse, Wait)):
            self.reason, self.message = str(plan.ending.reason), plan.ending.message
        else:
            self.is_done = True

    def last_call_before_mkfs(self) -> int:
        """Return the number of the last question asked before mkfs."""
        return max(number for number, name in enumerate(self.calls) if name == "verify_formattable")


class Stage:
    """A volume on a loop device, the node it is attached to, and the policy's wish for it."""

    def __init__(self, base: Path, workers: WatchedWorkers, fs_type: FsType, device: str) -> None:
        self.workers = workers
        self.directory = base / "devices"
        self.data = base / "data"
        self.image = self.directory / f"{VOLUME}.img"
        self.device = device
        self.node = Machine(Paths(base / "root"), LoopbackSource(self.directory, workers), workers)
        self.node.allow_roots([str(self.data)])
        self.node.place({VOLUME: (self.device,)})
        links.set_link(self.node.paths.dev_ebs, f"{links.BY_ID}/{VOLUME}", self.device)
        self.wanted = Wanted(
            VOLUME,
            "ckpt",
            filesystem=WantedFilesystem(fs_type, FormatRule.IF_BLANK),
            mount=WantedMount(str(self.data / "ckpt")),
        )

    @staticmethod
    def prepare(base: Path, fs_type: FsType, fill: Callable[[Path], object] | None = None) -> str:
        """Make the directories and the volume, blank or filled, and attach it; return its device."""
        for directory in ("devices", "data"):
            (base / directory).mkdir(parents=True)
        image = base / "devices" / f"{VOLUME}.img"
        image.touch()
        os.truncate(image, SIZE_BYTES if fs_type is FsType.EXT4 else 8 * SIZE_BYTES)
        if fill is not None:
            fill(image)
        return loop_device.attach_file(image)

    @classmethod
    def find(cls, base: Path, workers: WatchedWorkers, fs_type: FsType) -> Stage:
        """Return the stage that was prepared at ``base``."""
        image = str(base / "devices" / f"{VOLUME}.img")
        device = next(item.path for item in loop_device.list_loops() if item.backing_file == image)
        return cls(base, workers, fs_type, device)

    async def run_pass(self) -> Outcome:
        """Bring the volume as far as it goes, as the agent's loop does; errors of the volume end the pass."""
        self.workers.calls = []
        outcome = Outcome(self.workers.calls)
        try:
            async with self.node.open(VOLUME) as session:
                for _ in range(MAX_STEPS):
                    observed = await session.observe(self.wanted)
                    plan = make_plan(observed, self.wanted)
                    if not plan.actions:
                        outcome.end(plan)
                        break
                    for action in plan.next_actions:
                        outcome.steps.append(action.kind)
                        await session.execute(action, observed)
        except (AgentError, OSError) as error:
            outcome.reason = str(getattr(error, "reason", None) or type(error).__name__)
            outcome.message = str(error)
        return outcome

    def clean(self) -> None:
        """Take everything down."""
        for mount in reversed(read_mounts()):
            if mount.path.startswith(f"{self.data}/"):
                run("umount", mount.path)
        loop_device.detach(self.device, str(self.image))


@asynccontextmanager
async def staged(base: Path, workers: WatchedWorkers, fs_type: FsType = FsType.EXT4) -> AsyncIterator[Stage]:
    """Give a blank volume, attached; take it down again."""
    workers.before.clear()
    workers.after.clear()
    stage = Stage(base, workers, fs_type, Stage.prepare(base, fs_type))
    try:
        yield stage
    finally:
        stage.clean()
        shutil.rmtree(base)


FORMAT = Format.kind
