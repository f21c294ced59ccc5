"""One run of a hook: what it is told, how long it may take, and how that ended. Not whether it may be run.

Whoever runs it has its program open: the daemon, or a process that systemd started for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from msgspec import Struct, to_builtins

from agent.core.errors import AgentError, NotAnsweringError
from agent.node.isolate import programs

HOOK_TIMEOUT_S = 30.0
_LONGEST_WORDS = 4096


class HookCall(Struct, frozen=True):
    """What a hook is run with. ``path``: where its program was found; it may be another's by now."""

    path: str
    word: str
    environment: Mapping[str, str]

    def encode(self) -> bytes:
        """Return one line."""
        return json.dumps(to_builtins(self)).encode() + b"\n"


def decode_call(line: bytes) -> HookCall:
    """Return what a line of the daemon's says."""
    return HookCall(**json.loads(line))


async def run_hook_program(call: HookCall, fd: int) -> None:
    """Run the program that ``fd`` is of; AgentError where it fails, or takes too long and is ended.

    To the hook its own name is ``/proc/self/fd/N``, and ``EBS_AGENT_HOOK`` the path it was found under.
    """
    try:
        await programs.run(
            [f"/proc/self/fd/{fd}", call.word],
            timeout_s=HOOK_TIMEOUT_S,
            pass_fds=(fd,),
            environment={**call.environment, "EBS_AGENT_HOOK": call.path},
            name=call.path.rsplit("/", 1)[-1],
        )
    except NotAnsweringError as error:
        raise AgentError(
            error.message,
            hint=f"A hook has {HOOK_TIMEOUT_S:g} s; have it hand longer work to a unit (systemd-run).",
        ) from error


def encode_verdict(error: AgentError | None) -> bytes:
    """Return in one line how a run ended."""
    said = {} if error is None else {"error": error.message, "hint": error.hint}
    return json.dumps(said).encode() + b"\n"


def decode_verdict(line: bytes) -> AgentError | None:
    """Return how a run ended, None for well; ValueError where that is not what is said."""
    said = json.loads(line)
    match said:
        case dict() if not said:
            return None
        case {"error": str(error), "hint": str(hint)}:
            return AgentError(error[:_LONGEST_WORDS], hint=hint[:_LONGEST_WORDS])
        case {"error": str(error), "hint": None}:
            return AgentError(error[:_LONGEST_WORDS])
    raise ValueError("no verdict")
