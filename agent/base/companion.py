"""A process beside this one: a socket to speak over, a pipe for what it complains of. Not what it does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from msgspec import Struct

_CHUNK_BYTES = 64 << 10


class Process(Protocol):
    """What is asked of a process, whoever has it for a child."""

    pid: int

    @property
    def returncode(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


class Companion(Struct, frozen=True):
    """One that runs, our end of its socket, which never blocks, and of the pipe it complains through."""

    process: Process
    stream: socket.socket
    words: int

    def kill(self) -> None:
        """Kill it with all it started. Before anybody reaps it: its number is then still the group's."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def has_ended(self) -> bool:
        """Tell whether it has ended, without reaping it."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def discard(self) -> None:
        """Kill and reap it, before its connection ends: what is seen to end by itself is not killed."""
        self.kill()
        self.stream.close()
        os.close(self.words)
        self.await_end()

    def await_end(self) -> None:
        """Reap what was killed. SIGKILL on a process that only has sockets does not wait."""
        self.process.wait()


async def hear_line(stream: socket.socket, limit_bytes: int) -> bytes:
    """Return the one line that a companion says; ConnectionAbortedError where it ends, or says more."""
    loop, heard = asyncio.get_running_loop(), b""
    while not heard.endswith(b"\n"):
        more = await loop.sock_recv(stream, _CHUNK_BYTES)
        heard += more
        if not more or len(heard) > limit_bytes:
            raise ConnectionAbortedError("its process ended before it answered")
    return heard


def start_companion(
    argv: Sequence[str],
    environment: Mapping[str, str],
    user: int | None = None,
    group: int | None = None,
) -> Companion:
    """Start a program with the socket as its standard input and the pipe as its standard error.

    ``user`` and ``group``: whom it is to be from the start, in no other group; None: who this process is.
    Blocks until it is running; raises OSError.
    """
    with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as theirs:
        stream, its = socket.socketpair()
        theirs.enter_context(its)
        on_failure.enter_context(stream)
        words, complaining = os.pipe()
        theirs.callback(os.close, complaining)
        on_failure.callback(os.close, words)
        stream.setblocking(False)  # noqa: FBT003 -- its only form
        process = subprocess.Popen(
            argv,
            stdin=its.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=complaining,
            env=environment,
            cwd="/",
            close_fds=True,
            start_new_session=True,  # a process group of its own, to be killed whole
            user=user,
            group=group,
            extra_groups=None if user is None else (),
        )
        on_failure.pop_all()
    return Companion(process, stream, words)


@asynccontextmanager
async def open_words(pipe: int) -> AsyncIterator[asyncio.StreamReader]:
    """Give what comes through the descriptor ``pipe``, and close it afterwards."""
    reader = asyncio.StreamReader()
    file = os.fdopen(pipe, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    try:
        yield reader
    finally:
        transport.close()
