"""Runs one hook in a unit of its own: told which, it hands over how that ended, and ends with all it started.

Where the daemon goes away first, the hook is ended.
"""

from __future__ import annotations

import asyncio
import socket

import anyio

from agent.base.arrival import arrive, hear_with_descriptor
from agent.core.errors import AgentError
from agent.report.hook_call import decode_call, encode_verdict, run_hook_program


async def serve(stream: socket.socket) -> None:
    """Run the hook that the daemon says and hands over, and tell how it ended."""
    told, handed = hear_with_descriptor(stream)
    if not told:
        return
    (fd,) = handed
    stream.setblocking(False)  # noqa: FBT003 -- its only form
    verdict = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_end_with_daemon, stream, tasks.cancel_scope)
        try:
            await run_hook_program(decode_call(told), fd)
        except AgentError as error:
            verdict = error
        await asyncio.get_running_loop().sock_sendall(stream, encode_verdict(verdict))
        tasks.cancel_scope.cancel()


async def _end_with_daemon(stream: socket.socket, scope: anyio.CancelScope) -> None:
    await anyio.wait_readable(stream)  # it says nothing more: its end has come
    scope.cancel()


def main() -> None:
    """Serve the socket that is standard input."""
    arrive()
    with socket.socket(fileno=0) as stream:
        anyio.run(serve, stream)


if __name__ == "__main__":
    main()
