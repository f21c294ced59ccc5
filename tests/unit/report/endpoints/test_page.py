"""The page without a browser: its structure, what comes first, its size, its colours, and hostile words."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from typing_extensions import override

from agent.core.model import Condition, NodeReason, Reason, VolumeId
from agent.core.replace import replace
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.endpoints import page
from agent.report.endpoints.page import render_page, show_content
from agent.report.endpoints.page.charts import CHARTS, draw_chart
from agent.report.endpoints.page.wording import BINARY, DECIMAL, round_up, show_count, show_delay
from tests.unit.report.page_samples import CLAIM, MODELS, SCRATCH, make_fleet, make_node, make_trends
from tests.unit.report.samples import NOON, READY, Clock, make_board, make_status

VOID = {"meta", "link"}
CSS = Path(page.__file__).with_name("page.css").read_text(encoding="utf-8")
EVIL = "</title></script><img src=x onerror=alert(1)>\"'&{{script}}\u202e\x00\udcff"


class Reader(HTMLParser):
    """Reads a page, and fails where an element is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> says something twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self._open[-1] if self._open else "", data.strip()))

    def find(self, *tags: str) -> list[tuple[str, dict[str, str | None]]]:
        return [one for one in self.elements if one[0] in tags]

    def list_texts(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]


def read(board: Board, only: str | None = None) -> Reader:
    return Reader(render_page(show_content(board, make_trends(board)), NOON, only))


BOARDS: dict[str, Callable[[], Board]] = {
    "empty": Board,
    "one": lambda: make_board(READY),
    "each kind": lambda: make_node(NOON),
    "many": lambda: make_fleet(40),
}


@pytest.mark.parametrize("name", BOARDS)
def test_structure(name: str) -> None:
    """Landmarks, headings in order, IDs once, tables with headers, everything drawn with a name or hidden."""
    found = read(BOARDS[name]())
    for landmark in ("title", "h1", "header", "main", "footer"):
        assert len(found.find(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _ in found.find("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in found.find("section", "article"):
        label = attributes.get("aria-labelledby")
        assert label in ids or not attributes.get("id")
    assert all(attributes.get("scope") in {"row", "col"} for _, attributes in found.find("th"))
    for _, attributes in found.find("svg"):
        is_named = attributes.get("role") == "img" and attributes.get("aria-label")
        assert is_named or attributes.get("aria-hidden") == "true"
    assert not any("style" in attributes for _, attributes in found.elements), "the policy forbids it"
    links = [str(attributes["href"]) for _, attributes in found.find("a", "use", "link")]
    assert all(
        link.startswith(("#", "?", "data:,")) or link.isidentifier() or link == "status.json"
        for link in links
    )


def test_what_is_wrong_comes_first() -> None:
    """The worst volume first, with since when and the remedy; what the policy leaves alone is no fault."""
    board = make_node(NOON)
    board.node_conditions.show(next(iter(NodeReason)), "ebs.csi.aws.com", "It is so.", "Do that.")
    found = read(board)
    articles = [attributes["id"] for _, attributes in found.find("article") if attributes.get("id")]
    assert articles[:3] == [SCRATCH, "vol-0fedcba9876543210", MODELS]
    assert found.list_texts("title") == ["(3) compute-nodes-1 · EBS volumes"]
    assert found.list_texts("h2")[:3] == ["Needs attention (4)", "In order (2)", "Left alone (1)"]
    text = " ".join(text for _, text in found.texts)
    for said in (
        "11:46:00 UTC",
        "(14\u00a0min)",
        "Make room, or expand",
        "Do that.",
        "us-west-2b",
        "abcdef012345",
    ):
        assert said in text
    assert "newest is 5\u00a0h old" in text


def test_what_is_only_being_prepared_is_no_trouble() -> None:
    """A required volume on its way is told of calmly; beside a real trouble nothing is promised of it."""
    preparing = make_status(condition=Condition.PREPARING, volume_id=SCRATCH, name="scratch")
    failed = make_status(condition=Condition.FAILED, reason=Reason.STALLED, name="logs", is_required=False)
    required = replace(failed, is_required=True)
    told = [
        ((preparing,), "calm", "… Required and being prepared: scratch."),
        (
            (preparing, failed),
            "wait",
            "! 1 volume needs attention. Required and being prepared: scratch.",
        ),
        ((preparing, required), "bad", "✗ Required and not usable: logs."),
    ]
    for statuses, kind, sentence in told:
        found = read(make_board(*statuses))
        [headline] = [one for _, one in found.find("p") if one.get("id") == "headline"]
        assert headline["class"] == kind
        assert sentence in found.list_texts("p")


def test_the_last_hour_is_kept() -> None:
    """Each volume has a strip of its conditions, as long as each held, over no more than an hour."""
    found = read(make_node(NOON))
    labels = [str(attributes.get("aria-label")) for _, attributes in found.find("svg")]
    strips = [label for label in labels if label.startswith("Conditions")]
    assert strips[0] == "Conditions in the last hour: Ready 22 min, Degraded 24 min, Failed 14 min"
    assert strips[1] == "Conditions in the last hour: Refused 60 min"


def test_a_volume_has_a_page_of_its_own() -> None:
    """By name or by ID; of one that is not there it is said so, in words that are not markup."""
    board = make_node(NOON)
    for asked in ("models", MODELS):
        found = read(board, asked)
        assert [attributes["id"] for _, attributes in found.find("article")] == [MODELS]
        assert found.find("figure")
    assert "No volume here is called <b>." in read(board, "<b>").list_texts("p")


def test_a_volume_of_a_pod_is_named_by_its_claim() -> None:
    """On its card, on its own page, and in its row where there are many volumes."""
    board, crowd = make_node(NOON), make_fleet(30)
    volumes = [one.volume_id for one in crowd.statuses() if one.volume_id]
    crowd.put_claims({volume: f"team/data-{volume[-2:]}" for volume in volumes})
    for only in (None, CLAIM):
        assert "training/logs" in read(board, only).list_texts("bdi")
    rows = read(crowd).list_texts("p")
    assert any(text.endswith(" · team/data-01") for text in rows)


@pytest.mark.parametrize(("count", "most_kb"), [(1, 20), (8, 60), (20, 60), (128, 100)])
@pytest.mark.parametrize("are_unwell", [False, True])
def test_stays_small(count: int, most_kb: int, are_unwell: bool) -> None:  # noqa: FBT001
    """Every volume is named, whatever their number, and the page stays within its size."""
    board = make_fleet(count, lambda n: are_unwell or n % 7 == 0)
    content = render_page(show_content(board, make_trends(board)), NOON)
    assert len(content.encode()) <= most_kb * 1000
    assert all(f"dataset-{number:03d}" in content for number in range(count))


def test_hostile_words_stay_words() -> None:
    """Names, messages, events and what is asked for are text, whatever they hold."""
    board = make_board(
        make_status(
            name=EVIL, path=EVIL, message=EVIL, hint=EVIL, device=EVIL, fstype=EVIL, volume_id=VolumeId(EVIL)
        )
    )
    board.node_conditions.show(next(iter(NodeReason)), EVIL, EVIL, EVIL)
    board.put_persistent_volumes({VolumeId(EVIL): EVIL})
    board.put_claims({VolumeId(EVIL): EVIL})
    board.place = replace(board.place, host_name=EVIL, zone=EVIL)
    board.remarks = (EVIL,)
    board.record(EventName.VOLUME_MOUNTED, VolumeId(EVIL), text=EVIL, error={"a": EVIL})
    for only in (None, EVIL, EVIL * 2):
        found = read(board, only)
        assert not found.find("img")
        assert len(found.find("script")) == 1
        assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
        text = "".join(text for where, text in found.texts if where not in {"script", "style"})
        assert "\u202e" not in text
        assert "\x00" not in text


def test_colours_stand_out() -> None:
    """Text has a contrast of 4.5 on page and card, bars of 3, by day, by night and in print."""
    schemes = re.findall(r":root \{([^}]*)\}", CSS)
    assert len(schemes) == 3
    colours: dict[str, str] = {}
    for scheme in schemes:
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", scheme))
        for ground in ("paper", "card"):
            for text in ("ink", "soft", "good", "wait", "bad", "calm", "one", "two"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for bar in ("wait-bar", "bad-bar", "good-bar", "calm-bar"):
            assert contrast(colours[bar], colours["card"]) >= 3, bar


def contrast(one: str, other: str) -> float:
    """Return how much two colours differ, as WCAG 2 counts it."""
    dark, light = sorted((_weigh(one), _weigh(other)))
    return (light + 0.05) / (dark + 0.05)


def _weigh(colour: str) -> float:
    digits = colour[1:] if len(colour) > 4 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    red, green, blue = (n / 12.92 if n <= 0.04045 else ((n + 0.055) / 1.055) ** 2.4 for n in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_line_is_broken_where_nothing_is_known() -> None:
    """What is not known is not drawn, a level line is one step, and a limit far above is told, not drawn."""
    points = [{"age_s": 59.0 - n, "ops_s": None if n == 30 else 8.0} for n in range(60)]
    drawn = draw_chart(CHARTS[0], points, 3000.0)
    assert drawn is not None
    (line,) = re.findall(r'd="(M[^"]*)" class="line0"', drawn)
    assert line.count("M") == 2
    assert line.count("h") == 2
    assert "limit 3000/s" in drawn
    assert 'class="line2"' not in drawn
    assert draw_chart(CHARTS[0], [{"age_s": 0.0, "ops_s": None}], None) is None


@pytest.mark.parametrize(
    ("number", "steps", "top"),
    [
        (0, DECIMAL, 1),
        (3, DECIMAL, 5),
        (0.2, DECIMAL, 0.2),
        (900, DECIMAL, 1000),
        (3000, BINARY, 4096),
        (1 << 20, BINARY, 1 << 20),
        (1000, BINARY, 1024),
    ],
)
def test_axes_end_at_round_numbers(number: float, steps: tuple[float, ...], top: float) -> None:
    assert round_up(number, steps) == pytest.approx(top)


def test_numbers_are_short() -> None:
    assert [show_count(n) for n in (0, 0.25, 9.04, 640, 16_000, 2_500_000)] == [
        "0",
        "0.2",
        "9",
        "640",
        "16k",
        "2.5M",
    ]
    assert [show_delay(n) for n in (0, 4e-5, 0.0123, 1.5)] == ["0 µs", "40 µs", "12.3 ms", "1.5 s"]


def test_the_board_dates_what_is_shown() -> None:
    """Since when a volume is so counts from when it was shown so; of its past an hour is kept."""
    clock = Clock()
    board = Board(now=clock)
    for minute in range(120):
        clock.pass_s(60)
        condition = Condition.DEGRADED if minute % 2 else Condition.READY
        board.publish(make_status(condition=condition, reason=Reason.TOO_SLOW if minute % 2 else None))
        board.statuses()
    (status,) = board.statuses()
    assert status.since == clock()
    assert len(status.past) == 40
    clock.pass_s(7200)
    assert board.statuses()[0].past == status.past
    board.publish(make_status())
    (status,) = board.statuses()
    assert [one.condition for one in status.past] == [Condition.DEGRADED]
    clock.pass_s(10)
    (status,) = board.statuses()
    assert status.since is not None
    assert (clock() - status.since).total_seconds() == 10
