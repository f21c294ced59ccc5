"""Holds a filesystem frozen for a moment, and thaws it whatever dies.

A frozen filesystem stays frozen when the process that froze it ends. So a small guardian process freezes and
thaws (``thaw_guardian``): when the daemon dies its end of the pipe closes, which the guardian takes for
"thaw"; when it hears nothing for too long it thaws by itself; when the guardian dies, the daemon thaws.
The guardian is never killed: one that hangs in the kernel thaws as soon as the kernel lets it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
from anyio.abc import Process

from agent.base.log import get_logger
from agent.core.errors import AgentError, FrozenError, NotAnsweringError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.frozen_filesystem import hint_at_thaw
from agent.core.model import DeviceNumber, Mount, Reason
from agent.node.filesystem import change_mount
from agent.node.filesystem.thaw_guardian import FROZEN_BY_OTHERS
from agent.node.isolate.workers import Workers

FREEZE_TIMEOUT_S = 10.0
"""Flushing what is dirty comes first; a busy volume may need seconds."""
THAW_TIMEOUT_S = 10.0

log = get_logger(__name__)


@asynccontextmanager
async def hold_frozen(
    workers: Workers, path: str, device_number: DeviceNumber, limit_s: float
) -> AsyncIterator[None]:
    """Keep the filesystem at ``path`` frozen within, for ``limit_s`` at most.

    Raises AgentError where it cannot be frozen, or where it did not stay frozen until the end; it is thawed
    in either case.
    """
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
    has_thawed = False
    try:
        await _expect(guardian, b"frozen", path, FREEZE_TIMEOUT_S)
        yield
        await _tell(guardian, b"thaw\n")
        await _expect(guardian, b"thawed", path, THAW_TIMEOUT_S)
        has_thawed = True
    finally:
        with anyio.CancelScope(shield=True):
            if guardian.stdin is not None:
                await guardian.stdin.aclose()
            with anyio.move_on_after(THAW_TIMEOUT_S):
                await guardian.wait()
            if not has_thawed and guardian.returncode not in {0, None}:
                await workers.call(
                    change_mount.thaw, path, device_number, timeout_s=THAW_TIMEOUT_S, subject=path
                )


# -- For a start after even the guardian was killed ----------------------------------------------------------


@contextmanager
def noted(note: Path, mount: Mount) -> Iterator[None]:
    """Have it written down, within, that a mount is frozen."""
    note.parent.mkdir(mode=0o700, exist_ok=True)
    note.write_text(json.dumps([mount.path, *mount.device_number]), "utf-8")
    try:
        yield
    finally:
        # Left behind, it would have the next agent thaw what somebody else froze by then.
        note.unlink(missing_ok=True)


async def thaw_noted(workers: Workers, directory: Path) -> None:
    """Thaw whatever the notes in a directory, each named after its volume, say may be frozen still."""
    for note in _list_notes(directory):
        try:
            path, major, minor = json.loads(note.read_text("utf-8"))
            number = DeviceNumber(int(major), int(minor))
            await workers.call(
                change_mount.thaw, str(path), number, timeout_s=THAW_TIMEOUT_S, subject=note.name
            )
        except (AgentError, OSError, ValueError, TypeError) as error:
            log.warning("freeze.leftover", volume_id=note.name, error=str(error))
        note.unlink(missing_ok=True)


def _list_notes(directory: Path) -> list[Path]:
    return sorted(directory.glob("vol-*"))


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
