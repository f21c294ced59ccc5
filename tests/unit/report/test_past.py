"""How volumes were in the last hour outlives the agent; no content of its file keeps one from starting."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from agent.core.model import Condition, Reason
from agent.report.board.board import Board
from agent.report.board.timelines import PastOfVolumes
from agent.report.board.volume_status import Past
from agent.report.past import MAX_FILE_BYTES, MOST_VOLUMES, PastKeeper, load_past, parse_past, write_past
from tests.unit.report.samples import CHECKPOINTS, NOON, READY, Clock, make_status

pytestmark = pytest.mark.anyio


async def wait_forever(*_: object, **__: object) -> Any:
    await anyio.sleep_forever()


FAILED = make_status(condition=Condition.FAILED, reason=Reason.STALLED)
PAST: PastOfVolumes = {CHECKPOINTS: (Past(NOON - timedelta(minutes=30), Condition.READY),)}


async def save(write: Callable[..., None], *args: Any) -> None:
    write(*args)


async def test_strip_goes_on_after_a_restart(tmp_path: Path) -> None:
    """The agent after it knows how each volume was, and that what it was left in lasted until it was seen."""
    path, clock = tmp_path / "state/past.json", Clock()
    before = Board(now=clock)
    before.publish(READY)
    clock.pass_s(600)
    before.publish(FAILED)
    clock.pass_s(600)
    await PastKeeper(before, path, save, now=clock).flush()
    assert path.stat().st_mode & 0o777 == 0o600
    clock.pass_s(60)
    after = Board(now=clock)
    after.recall(await load_past(path, now=clock))
    assert after.list_past().keys() == {CHECKPOINTS}, "written down again though nothing was shown yet"
    after.publish(READY)
    (shown,) = after.statuses()
    assert shown.since == clock()
    assert shown.past == (
        Past(NOON, Condition.READY),
        Past(NOON + timedelta(minutes=10), Condition.FAILED),
    )


async def test_what_is_long_ago_is_not_gone_on_with() -> None:
    """Neither where the agent was away for long, nor for a volume that comes long after it has begun."""
    text = write_past(PAST, NOON)
    for minutes, is_known in ((9, True), (11, False), (-1, False)):
        assert bool(parse_past(text.encode(), NOON + timedelta(minutes=minutes))) is is_known
    clock = Clock()
    board = Board(now=clock)
    board.recall(PAST)
    clock.pass_s(1200)
    board.publish(READY)
    assert board.statuses()[0].past == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"at": 7, "volumes": {}}',
        b'{"at": "2026-01-02T12:00:00", "volumes": {}}',
        b'{"at": "2026-01-02T12:00:00+00:00"}',
        b'{"at": "2026-01-02T12:00:00+00:00", "volumes": [1]}',
        b'{"at": "2026-01-02T12:00:00+00:00", "volumes": {"v": 7}}',
        b'{"at": "2026-01-02T12:00:00+00:00", "volumes": {"v": [["2026-01-02T11:00:00+00:00", "Fine"]]}}',
        b'{"at": "2026-01-02T12:00:00+00:00", "volumes": {"v": [["2026-01-02T11:00:00", "Ready"]]}}',
        b'{"at": "2026-01-02T12:00:00+00:00", "volumes": {"v": [["2026-01-02T13:00:00+00:00", "Ready"]]}}',
        b'{"at": "2026-01-02T12:00:00+00:00", "volumes": {"v": [["9999-12-31T23:59:59-23:59", "Ready"]]}}',
        b'{"at": "0001-01-01T00:00:00+23:59", "volumes": {}}',
        b" " * (MAX_FILE_BYTES + 1),
    ],
    ids=range(16),
)
async def test_what_makes_no_sense_is_nothing(tmp_path: Path, content: bytes) -> None:
    """A file that somebody else wrote tells nothing, and is no error."""
    path = tmp_path / "past.json"
    path.write_bytes(content)
    assert await load_past(path, now=Clock()) == {}


async def test_file_is_bounded() -> None:
    """However many volumes there were, and however often they changed, it can be read again."""
    spans = tuple(Past(NOON - timedelta(seconds=100 - n), Condition.UNMANAGED) for n in range(100))
    text = write_past({f"vol-{number:017x}": spans for number in range(2 * MOST_VOLUMES)}, NOON)
    assert len(text) < MAX_FILE_BYTES
    assert len(parse_past(text.encode(), NOON)) == MOST_VOLUMES
    many = json.dumps({"at": NOON.isoformat(), "volumes": {str(n): [] for n in range(2 * MOST_VOLUMES)}})
    assert len(parse_past(many.encode(), NOON)) == MOST_VOLUMES


async def test_disk_that_fails_costs_the_past_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said once, and neither beginning nor writing waits for it."""
    (tmp_path / "file").write_text("")
    keeper = PastKeeper(Board(now=Clock()), tmp_path / "file/past.json", save, now=Clock())
    with capture_logs() as logs:
        await keeper.flush()
        await keeper.flush()
        assert await load_past(tmp_path / "file/past.json", now=Clock()) == {}
        monkeypatch.setattr("agent.report.past.READ_LIMIT_S", 0.01)
        assert await load_past(tmp_path / "past.json", wait_forever, Clock()) == {}
    assert [line["event"] for line in logs] == ["past.unwritable", "past.unreadable"]
