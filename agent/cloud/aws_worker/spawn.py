"""Spawns the worker in a thread, so that whoever waits for it may go away: it ends then."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Spawned:
    """A process that runs, our end of the socket it is asked over, and of the pipe it complains through."""

    process: subprocess.Popen[bytes]
    stream: socket.socket
    words: int

    def discard(self) -> None:
        """Kill and reap it. SIGKILL on a process that only has sockets does not wait."""
        self.stream.close()
        os.close(self.words)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Spawning:
    """One attempt, which a thread makes, and whoever waits for it may give up at any moment."""

    def __init__(self, spawn: Callable[[], Spawned]) -> None:
        self._spawn = spawn
        self._lock = threading.Lock()
        self._is_given_up = False
        self._spawned: Spawned | None = None

    def run(self) -> Spawned:
        """Spawn it; what nobody waits for any more has ended then. Raises OSError."""
        spawned = self._spawn()
        with self._lock:
            self._spawned = spawned
            is_given_up = self._is_given_up
        if is_given_up:
            spawned.discard()
        return spawned

    def give_up(self) -> None:
        """Have it end that was spawned, or will be."""
        with self._lock:
            self._is_given_up = True
            spawned = self._spawned
        if spawned is not None:
            spawned.discard()
