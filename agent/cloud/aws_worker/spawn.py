"""Spawns the worker in a thread, so that whoever waits for it may go away: it ends then."""

from __future__ import annotations

import threading
from collections.abc import Callable

from agent.base.companion import Companion


class Spawning:
    """One attempt, which a thread makes, and whoever waits for it may give up at any moment."""

    def __init__(self, spawn: Callable[[], Companion]) -> None:
        self._spawn = spawn
        self._lock = threading.Lock()
        self._is_given_up = False
        self._spawned: Companion | None = None

    def run(self) -> Companion:
        """Spawn it; what nobody waits for any more has ended then. Raises OSError."""
        spawned = self._spawn()
        self.keep(spawned)
        return spawned

    def keep(self, spawned: Companion) -> None:
        """Know of one that was spawned: it ends with the wait, at once where nobody waits any more."""
        with self._lock:
            self._spawned = spawned
            is_given_up = self._is_given_up
        if is_given_up:
            spawned.discard()

    def give_up(self) -> None:
        """Have it end that was spawned, or will be."""
        with self._lock:
            self._is_given_up = True
            spawned = self._spawned
        if spawned is not None:
            spawned.discard()
