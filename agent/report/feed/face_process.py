"""A face's process, whichever face it is: started as who it is to be, and ended. Not what it is told."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

import anyio.to_thread

from agent.base.companion import Companion, start_companion
from agent.base.unit_process import UnitSocket, start_in_unit
from agent.node.isolate.resource_limits import make_killable
from agent.node.isolate.unprivileged import COMMON_USER, NOBODY_UID, find_uid

_LAST_WORDS_S = 1.0
_LOOK_EVERY_S = 0.01
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL")


def choose_user(user: str) -> int | None:
    """Return who a face is to be; None: who the daemon is, where that is not root."""
    if os.geteuid() != 0:
        return None
    uid = find_uid(user)
    return find_uid(COMMON_USER) if uid == NOBODY_UID else uid


async def start_face(program: Sequence[str], uid: int | None, unit: UnitSocket | None) -> Companion:
    """Start a process, in its unit where it has one. Raises OSError; cancelled, it leaves none."""
    if unit is not None:
        return await start_in_unit(unit, [""], {})
    with anyio.CancelScope(shield=True):  # what was started is known
        spawned = await anyio.to_thread.run_sync(spawn_face, program, uid)
    # Not within: mypy takes a scope for one that may end early, with nothing returned.
    return spawned  # noqa: RET504


def spawn_face(program: Sequence[str], uid: int | None) -> Companion:
    """Start a process: as whoever this is, since it is another user before it reads the first byte."""
    argv = [*program, "" if uid is None else str(uid)]
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    companion = start_companion(argv, environment)
    make_killable(companion.process.pid)
    return companion


async def end_face(running: Companion, telling: asyncio.Task[None], grace_s: float) -> int:
    """End a process, by itself or not, with all that it started, and return its exit code.

    Safe where it has ended. ``telling``: what tells its words; ``grace_s``: for it to end once its feed has.
    """
    process = running.process
    running.stream.close()
    await anyio.to_thread.run_sync(_await_end, running, grace_s)
    running.kill()
    code = await anyio.to_thread.run_sync(process.wait, 10)
    await asyncio.wait([telling], timeout=_LAST_WORDS_S)
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    return code


def _await_end(running: Companion, grace_s: float) -> None:
    """Wait until a process has ended, without reaping it, for so long as it is given."""
    end_at = time.monotonic() + grace_s
    while time.monotonic() < end_at:
        if running.has_ended():
            return
        time.sleep(_LOOK_EVERY_S)
