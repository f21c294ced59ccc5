"""Holds a filesystem frozen for a moment, and thaws it whatever dies.

A frozen filesystem stays frozen when the process that froze it ends. So a small guardian process freezes and
thaws (``thaw_guardian``): when the daemon dies its end of the pipe closes, which the guardian takes for
"thaw"; when it hears nothing for too long it thaws by itself; when the guardian dies, the daemon thaws.
The guardian is never killed: one that hangs in the kernel thaws as soon as the kernel lets it. What is frozen
is noted until it is known to be thawed, and thawing what is left is tried again until then.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import Process
from msgspec import Struct

from agent.base.error_barrier import RETRY_S
from agent.base.log import get_logger
from agent.core.errors import AgentError, FrozenError, NotAnsweringError, NotMountedError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.frozen_filesystem import hint_at_thaw
from agent.core.model import DeviceNumber, Mount, Reason, VolumeId
from agent.node.filesystem import change_mount
from agent.node.filesystem.thaw_guardian import FROZEN_BY_OTHERS
from agent.node.isolate.workers import Workers

FREEZE_TIMEOUT_S = 10.0
"""Flushing what is dirty comes first; a busy volume may need seconds."""
THAW_TIMEOUT_S = 10.0

log = get_logger(__name__)


class Freeze(Struct):
    """One freeze: who keeps it, and whether it is over for certain, or never came about."""

    guardian: Process | None = None
    is_over: bool = True


@asynccontextmanager
async def hold_frozen(
    workers: Workers, path: str, device_number: DeviceNumber, limit_s: float, freeze: Freeze | None = None
) -> AsyncIterator[None]:
    """Keep the filesystem at ``path`` frozen within, for ``limit_s`` at most.

    Raises AgentError where it cannot be frozen, or where it did not stay frozen until the end; it is thawed
    in either case. Whether that is known of it is in ``freeze`` after that.
    """
    freeze = freeze or Freeze()
    argv = [
        sys.executable,
        "-I",
        "-m",
        "agent.node.filesystem.thaw_guardian",
        path,
        *map(str, device_number),
        str(limit_s),
    ]
    try:
        guardian = await anyio.open_process(argv, stderr=None, start_new_session=True)
    except OSError as error:
        if is_shortage(error):
            raise explain_shortage(f"{path} could not be frozen", error) from error
        raise
    freeze.guardian, freeze.is_over = guardian, False
    try:
        await _expect(guardian, b"frozen", path, FREEZE_TIMEOUT_S)
        yield
        await _tell(guardian, b"thaw\n")
        await _expect(guardian, b"thawed", path, THAW_TIMEOUT_S)
        freeze.is_over = True
    finally:
        with anyio.CancelScope(shield=True):
            if guardian.stdin is not None:
                await guardian.stdin.aclose()
            with anyio.move_on_after(THAW_TIMEOUT_S):
                await guardian.wait()
            freeze.is_over = freeze.is_over or guardian.returncode == 0
            if not freeze.is_over and guardian.returncode is not None:
                await _thaw(workers, path, device_number)
                freeze.is_over = True


async def _thaw(workers: Workers, path: str, device_number: DeviceNumber) -> None:
    """Thaw what is mounted there, if it is frozen; raise AgentError where it may be so still."""
    # Under a name of its own: what waits for the thaw must not keep it from being tried.
    with suppress(NotMountedError):
        await workers.call(
            change_mount.thaw, path, device_number, timeout_s=THAW_TIMEOUT_S, subject=f"the thaw of {path}"
        )


# -- What may be left frozen ---------------------------------------------------------------------------------


class FrozenNotes:
    """Notes of what is being frozen, each named after its volume, and what thaws that of it which is left.

    They lie in a directory that outlives no boot. A note that outlived its freeze would have somebody else's
    thawed: it goes once the freeze is known to be over, and until then nobody else can freeze.
    """

    def __init__(self, workers: Workers, directory: Path, retry_s: Sequence[float] = RETRY_S) -> None:
        self._workers = workers
        self._directory = directory
        self._retry_s = retry_s
        self._held: set[Path] = set()
        self._left: dict[Path, Process | None] = {}
        """What may be frozen still, and the guardian that kept it, where that is this agent's."""
        self._told: dict[Path, str] = {}
        self._is_read = False
        self._news = anyio.Event()
        self._turn = anyio.Lock()

    @asynccontextmanager
    async def hold(self, volume: VolumeId, mount: Mount, limit_s: float) -> AsyncIterator[None]:
        """Keep a mount frozen within, as ``hold_frozen`` does; what an earlier one left is thawed first."""
        note, freeze = self._directory / volume, Freeze()
        if note.exists():
            self._left.setdefault(note, None)
        if note in self._left:
            await self._end(note)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        note.write_text(json.dumps([mount.path, *mount.device_number]), "utf-8")
        self._held.add(note)
        try:
            async with hold_frozen(self._workers, mount.path, mount.device_number, limit_s, freeze):
                yield
        finally:
            self._held.discard(note)
            if freeze.is_over:
                note.unlink(missing_ok=True)
            else:
                self._left[note] = freeze.guardian
                self._news.set()

    async def thaw_left(self) -> None:
        """Try once to thaw whatever may be frozen still, of an agent before this one as well."""
        if not self._is_read:
            found = [note for note in _list_notes(self._directory) if note not in self._held]
            self._left = {**dict.fromkeys(found), **self._left}
            self._is_read = True
        for note in list(self._left):
            await self._try(note)

    async def run(self) -> None:
        """Try again with pauses, whenever something is left, until cancelled."""
        failures = 0
        while True:
            if self._is_read and not self._left:
                failures, self._news = 0, anyio.Event()
                await self._news.wait()
            await anyio.sleep(self._retry_s[min(failures, len(self._retry_s) - 1)])
            failures += 1
            await self.thaw_left()

    async def _try(self, note: Path) -> None:
        try:
            await self._end(note)
        except (AgentError, OSError) as error:
            if self._told.get(note) != str(error):
                self._told[note] = str(error)
                log.warning("freeze.leftover", volume_id=note.name, error=str(error))

    async def _end(self, note: Path) -> None:
        """Thaw what a note tells is left, and forget it; raise where it may be frozen still."""
        async with self._turn:
            if note not in self._left:
                return
            guardian = self._left[note]
            if guardian is not None and guardian.returncode is None:
                raise NotAnsweringError(
                    f"What was to freeze {note.name} hangs in the kernel, and thaws it once that lets go.",
                    reason=Reason.STALLED,
                )
            found = None if guardian is not None and guardian.returncode == 0 else _read_note(note)
            if found is not None:
                await _thaw(self._workers, *found)
            self._forget(note)

    def _forget(self, note: Path) -> None:
        note.unlink(missing_ok=True)
        del self._left[note]
        self._told.pop(note, None)


def _list_notes(directory: Path) -> list[Path]:
    try:
        return sorted(note for note in directory.iterdir() if note.name.startswith("vol-"))
    except FileNotFoundError:
        return []


def _read_note(note: Path) -> tuple[str, DeviceNumber] | None:
    """Return what a note says is frozen; None where it is gone or makes no sense."""
    try:
        path, major, minor = json.loads(note.read_text("utf-8"))
        return str(path), DeviceNumber(int(major), int(minor))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        log.warning("freeze.leftover", volume_id=note.name, error=f"the note of it makes no sense: {error}")
        return None


# -- The guardian --------------------------------------------------------------------------------------------


async def _tell(guardian: Process, words: bytes) -> None:
    assert guardian.stdin is not None  # noqa: S101 - it was started with a pipe
    try:
        await guardian.stdin.send(words)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # what it says, or does not say, tells


async def _expect(guardian: Process, word: bytes, path: str, timeout_s: float) -> None:
    assert guardian.stdout is not None  # noqa: S101 - it was started with a pipe
    said = b""
    with anyio.move_on_after(timeout_s) as scope:
        try:
            while not said.endswith(b"\n"):
                said += await guardian.stdout.receive()
        except anyio.EndOfStream:
            pass
    if scope.cancelled_caught:
        raise NotAnsweringError(
            f"{path} could not be {word.decode()} within {timeout_s:.0f} s.", reason=Reason.STALLED
        )
    if said.strip() == FROZEN_BY_OTHERS.encode():
        raise FrozenError(
            f"{path} could not be frozen: somebody else froze it, and has not thawed it yet.",
            hint=hint_at_thaw(path),
            reason=Reason.FROZEN,
        )
    if said.strip() != word:
        words = said.decode("utf-8", "replace").strip() or "its guardian process ended"
        raise AgentError(f"{path} could not be kept frozen: {words}.", reason=Reason.STEP_FAILED)
