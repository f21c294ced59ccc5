"""A worker that nobody waits for any more ends with the wait, at whatever moment that was."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from typing_extensions import override

from agent.base.companion import Companion
from agent.cloud.aws_worker.process import WorkerSettings, start_worker
from agent.cloud.aws_worker.spawn import Spawning
from tests.waiting import until


class Gate(Mapping[str, str]):
    """An environment that a spawning thread has to wait for."""

    def __init__(self) -> None:
        self.is_reached, self.is_open = threading.Event(), threading.Event()

    @override
    def __iter__(self) -> Iterator[str]:
        self.is_reached.set()
        assert self.is_open.wait(60)
        return iter(())

    @override
    def __getitem__(self, key: str) -> str:
        raise KeyError(key)

    @override
    def __len__(self) -> int:
        return 1


def list_children() -> set[str]:
    """Return the processes that this one has to reap."""
    found = Path("/proc/self/task").glob("*/children")
    return {pid for one in found for pid in one.read_text().split()}


def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    gate, before = Gate(), list_children()

    async def run() -> None:
        starting = asyncio.create_task(start_worker(WorkerSettings(environment=gate)))
        await until(gate.is_reached.is_set)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        gate.is_open.set()

    asyncio.run(run())  # which waits for its threads
    assert list_children() == before


def test_what_was_spawned_before_it_was_given_up_has_ended() -> None:
    ours, theirs = socket.socketpair()
    read, written = os.pipe()

    def spawn() -> Companion:
        process = subprocess.Popen(["sleep", "600"], stdin=theirs.fileno(), start_new_session=True)
        return Companion(process, ours, read)

    spawning = Spawning(spawn)
    with theirs:
        spawned = spawning.run()
        spawning.give_up()
    os.close(written)
    assert spawned.process.returncode == -signal.SIGKILL
    assert ours.fileno() == -1
