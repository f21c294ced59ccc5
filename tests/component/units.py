"""systemd's part where a process has a unit of its own: a socket, and a process for each who connects."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from agent.base.arrival import IN_UNIT
from agent.base.unit_process import UnitSocket


def run_module(module: str) -> tuple[str, ...]:
    """Return what a unit runs."""
    return (sys.executable, "-I", "-m", module, IN_UNIT)


def start(program: tuple[str, ...], connection: socket.socket, *fds: int) -> subprocess.Popen[bytes]:
    """Start an instance of a unit; it has these descriptors too."""
    return subprocess.Popen(program, stdin=connection.fileno(), stdout=subprocess.DEVNULL, pass_fds=fds)


@dataclass
class Listening:
    """What was started at a socket."""

    unit: UnitSocket
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)


@asynccontextmanager
async def listening_for(
    path: Path, program: tuple[str, ...] | Callable[[socket.socket], None], *fds: int
) -> AsyncIterator[Listening]:
    """Start a program with each connection as its standard input, or call what is to be done with it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        it = Listening(UnitSocket(path, os.geteuid()))

        async def serve() -> None:
            while True:
                await anyio.wait_readable(listener)
                connection, _ = listener.accept()
                if callable(program):
                    await anyio.to_thread.run_sync(program, connection)
                    continue
                with connection:
                    it.started.append(start(program, connection, *fds))

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve)
                yield it
                tasks.cancel_scope.cancel()
        finally:
            for process in it.started:
                process.kill()
                process.wait()
