"""The process that asks the metadata service, as the daemon has it: systemd starts it when there is need.

What it says is held to a schema. One that hangs or says something else is killed; the next question starts
another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio

from agent.base.companion import hear_line
from agent.base.unit_process import UnitCompanion, UnitSocket, find_unit, start_in_unit
from agent.cloud.identity.metadata import Fetch, MetadataAnswer, fetch_here
from agent.cloud.identity.metadata_lines import LINE_LIMIT_BYTES, decode_answers, encode_question

USER = "ebs-agent-cloud"
START_S = 30.0
"""For the process to begin: the agent's own start waits for it where no file tells who the node is."""
SLACK_S = 1.0
"""For the process itself, beside the time that the service has."""


class MetadataProcess:
    """Asks by a process, one question at a time; a process that has ended since is followed by another."""

    def __init__(self, unit: UnitSocket) -> None:
        self._unit = unit
        self._running: UnitCompanion | None = None
        self._asking = anyio.Lock()

    async def fetch(
        self, endpoint: str, paths: Sequence[str], timeout_s: float
    ) -> tuple[MetadataAnswer, ...]:
        """Return what the service has at each path. Raises OSError or ValueError."""
        async with self._asking:
            with anyio.fail_after(START_S):
                running = await self._find()
            try:
                with anyio.fail_after(timeout_s + SLACK_S):
                    line = await _ask(running, encode_question(endpoint, paths, timeout_s))
                answers = decode_answers(line, len(paths))
            except BaseException:
                self.close()  # or its answer would be taken for the next question's
                raise
        if isinstance(answers, str):
            raise OSError(answers)
        return answers

    async def _find(self) -> UnitCompanion:
        running = self._running
        if running is None or running.has_ended():
            self.close()
            running = self._running = await start_in_unit(self._unit, [], {})
        return running

    def close(self) -> None:
        """Kill the process, if there is one. It has only sockets, so that does not wait."""
        running, self._running = self._running, None
        if running is not None:
            running.discard()


async def _ask(running: UnitCompanion, question: bytes) -> bytes:
    await asyncio.get_running_loop().sock_sendall(running.stream, question)
    return await hear_line(running.stream, LINE_LIMIT_BYTES)


def choose_fetch() -> Fetch:
    """Return how the metadata service is asked: by systemd, where it runs the agent."""
    unit = find_unit("metadata", USER)
    return fetch_here if unit is None else MetadataProcess(unit).fetch
