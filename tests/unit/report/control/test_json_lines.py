from __future__ import annotations

import json
from typing import Any

import anyio

from agent.report.control.json_lines import GOES_ON, Lines


class SlowStream:
    """Takes one line at a time, and the first only when it is let."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.may_go = anyio.Event()

    async def write(self, line: bytes) -> None:
        self.lines.append(json.loads(line))
        await self.may_go.wait()


async def test_nothing_is_said_after_the_last_line() -> None:
    """That an answer goes on, which was about to be said while its end went out, is not said any more."""
    stream = SlowStream()
    lines = Lines(stream)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: lines.write({"done": True}, is_last=True))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(lines.write, GOES_ON)
            await anyio.wait_all_tasks_blocked()
            stream.may_go.set()
    assert stream.lines == [{"done": True}]
