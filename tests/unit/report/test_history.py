from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from agent.core.errors import AgentError
from agent.report.board.board import Board
from agent.report.board.events import MAX_EVENTS, EventName
from agent.report.history import HistoryKeeper, load_history, parse_event
from tests.hung import never_answer
from tests.unit.report.samples import CHECKPOINTS, Clock

pytestmark = pytest.mark.anyio


async def save(write: Callable[..., None], *args: Any) -> None:
    write(*args)


async def test_events_outlive_the_agent(tmp_path: Path) -> None:
    """What was recorded is there after a restart, fields and all, and numbers go on counting."""
    path = tmp_path / "state/events.jsonl"
    boards = []
    for _ in range(2):
        board = Board(await load_history(path), now=Clock())
        boards.append(board)
        keeper = HistoryKeeper(board.history, path, save)
        board.record(EventName.VOLUME_MOUNTED, CHECKPOINTS, path="/data/ckpt", duration_s=0.2)
        board.record(EventName.AGENT_STOPPED)
        await keeper.flush()
        await keeper.flush()
    events = (await load_history(path)).latest()
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert events[2] == boards[1].history.latest()[2]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_file_stays_bounded(tmp_path: Path) -> None:
    """However much happens, the file holds no more than twice the history, and ends with the newest."""
    path = tmp_path / "events.jsonl"
    board = Board(await load_history(path), now=Clock())
    keeper = HistoryKeeper(board.history, path, save)
    for number in range(5 * MAX_EVENTS):
        board.record(EventName.VOLUME_TUNED, CHECKPOINTS)
        if number % 100 == 0:
            await keeper.flush()
    await keeper.flush()
    lines = path.read_text().splitlines()
    assert len(lines) <= 2 * MAX_EVENTS
    assert json.loads(lines[-1])["number"] == 5 * MAX_EVENTS
    assert len((await load_history(path)).latest()) == MAX_EVENTS


async def test_full_disk_loses_nothing_that_fits_later(tmp_path: Path) -> None:
    """Events that could not be written are written once they can be."""
    path = tmp_path / "events.jsonl"
    board = Board(await load_history(path), now=Clock())
    is_full = True

    async def save_if_there_is_room(write: Callable[..., None], *args: Any) -> None:
        if is_full:
            raise AgentError("The disk is full.")
        write(*args)

    keeper = HistoryKeeper(board.history, path, save_if_there_is_room)
    board.record(EventName.AGENT_STARTED)
    await keeper.flush()
    is_full = False
    board.record(EventName.AGENT_STOPPED)
    await keeper.flush()
    assert [event.number for event in (await load_history(path)).latest()] == [1, 2]


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"event": "volume.ready"}',
        b'{"event": "no.such", "at": "2026-01-02T12:00:00.000Z", "number": 1}',
        b'{"event": "volume.ready", "at": "yesterday", "number": 1}',
        b'{"event": "volume.ready", "at": "2026-01-02T12:00:00.000Z", "number": -1}',
        b'{"event": "volume.ready", "at": "2026-01-02T12:00:00.000Z", "number": 1, "volume_id": "../x"}',
        b"[" * 100_000,
    ],
)  # fmt: skip
async def test_nonsense_is_left_out(line: bytes, tmp_path: Path) -> None:
    """A line that is no event is none, and costs none of those around it."""
    good = b'{"event": "volume.ready", "at": "2026-01-02T12:00:00.000Z", "number": 7, "name": "ckpt"}'
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join([line, good, line, b""]))
    assert parse_event(line) is None
    assert [(event.number, event.fields) for event in (await load_history(path)).latest()] == [
        (7, {"name": "ckpt"})
    ]


async def test_unreadable_file_is_begun_anew(tmp_path: Path) -> None:
    """A history that cannot be read keeps no agent from starting."""
    (tmp_path / "events.jsonl").mkdir()
    assert (await load_history(tmp_path / "events.jsonl")).latest() == ()


async def test_history_on_a_disk_that_hangs_is_begun_anew(tmp_path: Path) -> None:
    """What cannot be read in its time keeps no agent from starting, and is told."""
    path = tmp_path / "events.jsonl"
    with capture_logs() as logs:
        assert (await load_history(path, never_answer)).latest() == ()
    assert [(line["event"], line["error"]) for line in logs] == [
        ("history.unreadable", f"{path} did not answer.")
    ]
