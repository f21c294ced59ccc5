"""The status page in a real browser: live, in the dark, on a phone, by keyboard and for a screen reader."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from agent.core.model import Condition, EndCause, Ending, Reason
from agent.core.units import utc_now
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.endpoints.http import make_app
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.doors import HttpFace
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen
from tests.chromium import Page, open_page
from tests.unit.report.page_samples import SCRATCH, make_marks, make_node
from tests.unit.report.samples import CHECKPOINTS, READY, make_board, make_status

pytestmark = [pytest.mark.anyio, pytest.mark.needs("chromium"), pytest.mark.timeout(180)]


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
    board = make_node(utc_now())
    async with showing(board, tmp_path) as page:
        cards = await page.run("[...document.querySelectorAll('article')].map((card) => card.innerText)")
        by_name = {card.splitlines()[0]: card for card in cards}
        assert list(by_name) == ["scratch", "datasets", "models", "checkpoints", "k8s/pvc-logs"]
        assert "Degraded · NearlyFull" in by_name["models"]
        assert "will be full in 42 min" in by_name["models"]
        assert "ebs-agent expand models" in by_name["models"]
        assert "Refused · NotBlank" in by_name["datasets"]
        assert "50 % of 490 GiB used" in by_name["checkpoints"]
        assert "limit 250 MiB/s" in by_name["checkpoints"]
        assert "pvc-2f1c9a66" in by_name["k8s/pvc-logs"]
        assert await page.run("document.querySelectorAll('article figure path.line2').length") >= 4
        assert "scratch" in await page.run("document.querySelector('#headline').innerText")
        await page.run(f"document.getElementById('{SCRATCH}').kept = 'yes'")
        board.publish(make_status(condition=Condition.LOST, reason=Reason.DEVICE_GONE))
        board.record(EventName.VOLUME_LOST, CHECKPOINTS)
        await page.until("document.querySelector('article').innerText.includes('Lost')")
        assert await page.run("document.querySelector('article').id") == CHECKPOINTS
        assert await page.run(f"document.getElementById('{SCRATCH}').kept") == "yes"
        assert "volume.lost" in await page.run("document.querySelector('#events li').innerText")
        assert "checkpoints" in await page.run("document.querySelector('#headline').innerText")
        board.ending = Ending(EndCause.POWER_OFF, "This machine is being powered off.")
        await page.until("document.querySelector('#headline').innerText.includes('being powered off')")
        assert page.complaints == []


async def test_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """The page asks for itself and nothing else, and a name that is markup stays text."""
    evil = "<img src=x onerror=alert(1)>{{script}}</script>"
    async with showing(make_board(make_status(name=evil)), tmp_path) as page:
        await page.until("Number(document.documentElement.dataset.polls) >= 1")
        assert await page.run("document.querySelector('article h3').textContent") == evil
        assert await page.run("document.images.length") == 0
        names = await page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert {name.rpartition("/")[2] for name in names} == {""}
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
    async with showing(make_node(utc_now()), tmp_path) as page:
        told = await page.read_accessibility()
        names = {name for role, name in told if role == "article"}
        assert names == {"checkpoints", "datasets", "models", "scratch", "k8s/pvc-logs"}
        images = [name for role, name in told if role in {"img", "image"}]
        assert any(name.startswith("Throughput over 14 min: now written ") for name in images)
        assert any(name.startswith("Conditions in the last hour: Ready 22 min") for name in images)
        assert any("50 % of 490 GiB used" in name for role, name in told if role == "meter")
        assert await page.run("document.documentElement.lang") == "en"
        focused = []
        for _ in range(6):
            await page.press("Tab")
            focused.append(await page.run("document.activeElement.innerText.split('\\n')[0].trim()"))
        volumes = ["scratch", "datasets", "models", "checkpoints", "k8s/pvc-logs"]
        assert focused == ["Skip to the volumes", *volumes]


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
    async with showing(make_node(utc_now()), tmp_path) as page:
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
  return [...document.querySelectorAll("h1, h2, h3, p, td, th, dt, dd, li, label, figcaption, a")]
    .filter((element) => element.innerText.trim() && !element.hidden)
    .map((element) => {
      const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05);
    });
})()
"""
