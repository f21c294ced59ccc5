"""What the face's process complains of, as the log has it."""

from __future__ import annotations

import os

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from agent.report.feed import words
from agent.report.feed.words import LINE_LIMIT, LINES_AT_ONCE, Words
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_words_are_cleaned_cut_and_told_as_somebody_elses() -> None:
    """No byte of it can look like a line of the daemon's."""
    pipe, complaining = os.pipe()
    os.write(complaining, b"\x1b[31m<3>red\r\n\n" + b"x" * 3000 + b"\nend")
    os.close(complaining)
    with capture_logs() as logs:
        await Words("web.said").tell(pipe, 7)
    assert {(line["event"], line["pid"], line["log_level"]) for line in logs} == {("web.said", 7, "warning")}
    assert all(line["text"].isprintable() and len(line["text"]) <= LINE_LIMIT + 1 for line in logs)
    assert (logs[0]["text"], logs[-1]["text"]) == (" [31m<3>red", "end")


async def test_whoever_says_more_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood is told so far, and then no faster than a line in a while, however many processes say it."""
    monkeypatch.setattr(words, "REFILL_S", 1e9)
    teller = Words("web.said")
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            for pid in (1, 2):
                pipe, complaining = os.pipe()
                os.write(complaining, b"word\n" * LINES_AT_ONCE)
                os.close(complaining)
                tasks.start_soon(teller.tell, pipe, pid)
            await until(lambda: len(logs) >= LINES_AT_ONCE)
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert len(logs) == LINES_AT_ONCE
