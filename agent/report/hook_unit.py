"""Has a hook run in a unit of its own, by systemd: it needs what the daemon's unit does not allow.

Its process ends the hook where that takes too long, or nobody waits; systemd ends all that is left of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess

import anyio
import anyio.to_thread

from agent.base.companion import hear_line
from agent.base.unit_process import UnitCompanion, UnitSocket, start_in_unit
from agent.core.errors import AgentError
from agent.report.hook_call import HOOK_TIMEOUT_S, HookCall, decode_verdict

LIMIT_S = HOOK_TIMEOUT_S + 15.0
"""For a hook to be run and, where it takes too long, to be ended by its own process."""
END_S = 5.0
"""For its process to end the hook once nobody waits for it."""
_LONGEST_VERDICT_BYTES = 64 << 10
_LONGEST_WORDS_BYTES = 4096
HINT = "Look at: systemctl status ebs-agent-hook.socket; journalctl --identifier ebs-agent-hook"


async def run_in_unit(unit: UnitSocket, call: HookCall, fd: int) -> None:
    """Have systemd run the program that ``fd`` is of; AgentError where it cannot, or as it ends."""
    name = call.path.rsplit("/", 1)[-1]
    try:
        running = await start_in_unit(unit, [], {})
    except OSError as error:
        raise AgentError(f"{name} could not be run: {error.strerror or error}.", hint=HINT) from error
    try:
        with anyio.fail_after(LIMIT_S):
            line = await _ask(running.stream, call, fd)
        verdict = decode_verdict(line)
    except TimeoutError as error:
        raise AgentError(f"{name} did not end within {LIMIT_S:g} s and was killed.", hint=HINT) from error
    except (OSError, ValueError) as error:
        words = _read_words(running) or str(error)
        raise AgentError(f"How {name} ended is not known: {words}.", hint=HINT) from error
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(_end, running)
    if verdict is not None:
        raise verdict


async def _ask(stream: socket.socket, call: HookCall, fd: int) -> bytes:
    """Return the line that says how the hook ended."""
    told = call.encode()
    sent = socket.send_fds(stream, [told], [fd])
    await asyncio.get_running_loop().sock_sendall(stream, told[sent:])
    return await hear_line(stream, _LONGEST_VERDICT_BYTES)


def _end(running: UnitCompanion) -> None:
    """Have its process end the hook, where that still runs, or be killed."""
    running.stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(END_S)
    running.discard()


def _read_words(running: UnitCompanion) -> str:
    """Return the last line that its process complained of, if any."""
    os.set_blocking(running.words, False)
    try:
        lines = os.read(running.words, _LONGEST_WORDS_BYTES).decode("utf-8", "replace").split("\n")
    except BlockingIOError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
