"""The status page in a real browser: live, in the dark, on a phone, by keyboard and for a screen reader."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from agent.core.model import Condition, EndCause, Ending, Reason, VolumeId
from agent.node.sampling.ebs_statistics import Direction, EbsStatistics
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.board.readings import Health, Reading, Verdict
from agent.report.endpoints.http import make_app
from agent.report.health.trends import Mark, take_mark
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.doors import HttpFace
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen
from tests.chromium import Page, open_page
from tests.unit.report.health.test_sampler import SAMPLE
from tests.unit.report.samples import CHECKPOINTS, GIB, READY, REFUSED, make_board, make_status

pytestmark = [pytest.mark.anyio, pytest.mark.needs("chromium"), pytest.mark.timeout(180)]

MIB = 1 << 20
FULL = Verdict(
    Condition.DEGRADED,
    Reason.NEARLY_FULL,
    "/data/models is 96% full: 20 GiB left, and will be full in 42 min at this rate.",
    "Make room, or expand the volume: ebs-agent expand models SIZE",
)


def make_marks(_: VolumeId) -> tuple[Mark, ...]:
    """Return a quarter of an hour of a volume that is written to in bursts."""
    readings = []
    done, written, time_us = 0, 0, 0
    for number in range(60):
        burst = 3 if number % 15 < 6 else 1
        done, written, time_us = done + 900 * burst, written + 900 * burst * MIB, time_us + 600_000 * burst
        statistics = EbsStatistics(
            Direction(done // 3, written // 4, time_us // 4),
            Direction(done, written, time_us),
            0,
            0,
            0,
            0,
            burst,
        )
        readings.append(Reading(number * 15.0, SAMPLE, statistics, SAMPLE.counters))
    return tuple(map(take_mark, readings))


def make_node() -> Board:
    """Return a node with one volume of each kind."""
    models = VolumeId("vol-00000000000000001")
    scratch = VolumeId("vol-00000000000000002")
    board = make_board(
        READY,
        REFUSED,
        make_status(volume_id=models, name="models", path="/data/models", device="/dev/nvme3n1"),
        make_status(
            volume_id=scratch,
            name="scratch",
            path="/data/scratch",
            device="/dev/nvme4n1",
            condition=Condition.FAILED,
            reason=Reason.STALLED,
            message="scratch has 12 operations in flight and completed none for 2 min.",
            hint="Processes that use it hang until it answers. See the volume's status checks.",
            is_required=False,
        ),
    )
    mount = replace(SAMPLE.mount, avail_bytes=20 * GIB, path="/data/models") if SAMPLE.mount else None
    board.judge(models, Health(replace(SAMPLE, mount=mount), None, (FULL,), 0.001))
    board.record(EventName.VOLUME_MOUNTED, CHECKPOINTS, text="mount at /data/ckpt (rw)")
    board.record(EventName.VOLUME_DEGRADED, models, reason="NearlyFull", message=FULL.message)
    board.record(EventName.VOLUME_FAILED, scratch, reason="Stalled", message="scratch does not answer.")
    return board


@asynccontextmanager
async def showing(board: Board, directory: Path) -> AsyncIterator[Page]:
    app = make_app(board, Exposition(board, Counters()), make_marks)
    async with anyio.create_task_group() as tasks:
        face = HttpFace(Server(app, HTTP_LIMITS, Tally("http")), Listen(port=0))
        await tasks.start(face.run)
        async with open_page(directory) as page:
            await page.open(f"http://127.0.0.1:{face.port}/")
            yield page
        tasks.cancel_scope.cancel()


async def test_shows_each_volume_and_follows_it(tmp_path: Path) -> None:
    """Each volume shows its condition, reason, remedy, use and charts, and changes without a reload."""
    board = make_node()
    async with showing(board, tmp_path) as page:
        cards = await page.run("[...document.querySelectorAll('article')].map((card) => card.innerText)")
        by_name = {card.splitlines()[0]: card for card in cards}
        assert set(by_name) == {"checkpoints", "datasets", "models", "scratch"}
        assert "Degraded · NearlyFull" in by_name["models"]
        assert "will be full in 42 min" in by_name["models"]
        assert "ebs-agent expand models" in by_name["models"]
        assert "Refused · NotBlank" in by_name["datasets"]
        assert "50 % of 490 GiB used" in by_name["checkpoints"]
        assert "Throughput: 15 MiB/s read, 60 MiB/s written" in by_name["checkpoints"]
        assert await page.run("document.querySelectorAll('article svg polyline[points]').length") >= 4
        assert "models" in await page.run("document.querySelector('#headline').innerText")
        await page.run("document.querySelector('article').dataset.kept = 'yes'")
        board.publish(make_status(condition=Condition.LOST, reason=Reason.DEVICE_GONE))
        board.record(EventName.VOLUME_LOST, CHECKPOINTS)
        await page.until("document.querySelector('article').innerText.includes('Lost')")
        assert await page.run("document.querySelector('article').dataset.kept") == "yes"
        assert "volume.lost" in await page.run("document.querySelector('#events tr').innerText")
        assert "checkpoints" in await page.run("document.querySelector('#headline').innerText")
        board.ending = Ending(EndCause.POWER_OFF, "This machine is being powered off.")
        await page.until("document.querySelector('#headline').innerText.includes('being powered off')")
        assert page.complaints == []


async def test_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """The page asks for itself and status.json, and a name that is markup stays text."""
    evil = "<img src=x onerror=alert(1)>{{script}}</script>"
    async with showing(make_board(make_status(name=evil)), tmp_path) as page:
        await page.until("Number(document.documentElement.dataset.polls) >= 1")
        assert await page.run("document.querySelector('article h3').textContent") == evil
        assert await page.run("document.images.length") == 0
        names = await page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert {name.rpartition("/")[2] for name in names} == {"status.json"}
        assert page.complaints == []


async def test_says_when_the_agent_is_gone(tmp_path: Path) -> None:
    """A page whose agent does not answer any more says since when, and keeps what it showed."""
    board = make_board(READY)
    app = make_app(board, Exposition(board, Counters()), make_marks)
    async with open_page(tmp_path) as page:
        async with anyio.create_task_group() as tasks:
            face = HttpFace(Server(app, HTTP_LIMITS, Tally("http")), Listen(port=0))
            await tasks.start(face.run)
            await page.open(f"http://127.0.0.1:{face.port}/")
            tasks.cancel_scope.cancel()
        await page.until("!document.querySelector('#connection').hidden")
        assert "does not answer since" in await page.run("document.querySelector('#connection').innerText")
        assert await page.run("document.querySelectorAll('article').length") == 1


async def test_for_a_screen_reader_and_by_keyboard(tmp_path: Path) -> None:
    """Volumes, charts and use have names that say what they show; every link is reached by Tab, in order."""
    async with showing(make_node(), tmp_path) as page:
        told = await page.read_accessibility()
        names = {name for role, name in told if role == "article"}
        assert names == {"checkpoints", "datasets", "models", "scratch"}
        images = [name for role, name in told if role in {"img", "image"}]
        assert any(name.startswith("Throughput over 15 minutes: now 15 MiB/s read") for name in images)
        assert any("50 % of 490 GiB used" in name for role, name in told if role == "meter")
        assert await page.run("document.documentElement.lang") == "en"
        focused = []
        for _ in range(5):
            await page.press("Tab")
            focused.append(await page.run("document.activeElement.innerText.split('\\n')[0].trim()"))
        assert focused[0] == "Skip to the volumes"
        assert focused[2:] == ["metrics", "health", "this page as JSON"]


@pytest.mark.parametrize(
    ("name", "width", "height", "is_dark"),
    [
        ("status-page", 1200, 900, False),
        ("status-page-dark", 1200, 900, True),
        ("status-page-phone", 390, 844, False),
    ],
)
async def test_fits_its_window(tmp_path: Path, name: str, width: int, height: int, is_dark: bool) -> None:  # noqa: FBT001
    """In any window nothing is cut off, and text stands out from its ground by day and by night."""
    async with showing(make_node(), tmp_path) as page:
        await page.look(width, height, is_dark=is_dark)
        assert await page.run("document.documentElement.scrollWidth") <= width
        contrast = await page.run(CONTRASTS)
        assert min(contrast) >= 4.5, contrast
        await page.shoot(Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"{name}.png")


CONTRASTS = """
(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((n) => n / 255)
      .map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("h1, h3, p, td, th, figcaption, a")]
    .filter((element) => element.innerText.trim() && !element.hidden)
    .map((element) => {
      const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    });
})()
"""
