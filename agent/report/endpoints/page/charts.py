"""The charts of one volume: lines over time with axes, units, a legend and, where it is known, the limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from agent.core.units import MIB, show_duration
from agent.report.endpoints.page.markup import Element, element, join
from agent.report.endpoints.page.wording import BINARY, DECIMAL, round_up, show_count, show_delay, show_rate

WIDTH, HEIGHT = 240, 56
MOST_POINTS = 60
"""Of one line, which is 240 units wide."""
_NEAR_LIMIT = 0.4
"""A limit is drawn within the chart from this part of it on; else it is only told."""


class Chart(Struct, frozen=True):
    """What is drawn in one."""

    title: str
    lines: tuple[tuple[str, str], ...]
    """(key of the points, word of the legend), the first one drawn whole, the second one dashed."""
    show: Callable[[float], str]
    limit: str | None = None
    """Key of ``limits`` in what is shown of the volume."""
    steps: tuple[float, ...] = DECIMAL


CHARTS = (
    Chart("Operations", (("ops_s", "operations"),), lambda n: f"{show_count(n)}/s", "iops"),
    Chart(
        "Throughput",
        (("write_bytes_s", "written"), ("read_bytes_s", "read")),
        show_rate,
        "throughput_bytes_s",
        steps=BINARY,
    ),
    Chart("Latency", (("latency_s", "mean"),), show_delay),
    Chart("Queue", (("queue", "in flight"),), show_count),
)


def draw_charts(volume: dict[str, Any]) -> Element | None:
    """Return the charts of a volume; None where nothing was measured twice."""
    limits = read_limits(volume)
    drawn = [draw_chart(chart, volume["trend"], limits.get(chart.limit or "")) for chart in CHARTS]
    return element("div", *drawn, class_="charts") if any(drawn) else None


def read_limits(volume: dict[str, Any]) -> dict[str, float]:
    """Return what the volume is given, by key of ``Chart.limit``; what is not known is left out."""
    given = volume.get("provisioned") or {}
    iops, mib_s = given.get("iops"), given.get("throughput_mib_s")
    limits = {} if iops is None else {"iops": float(iops)}
    return limits if mib_s is None else {**limits, "throughput_bytes_s": float(mib_s * MIB)}


def draw_chart(chart: Chart, trend: Sequence[dict[str, Any]], limit: float | None) -> Element | None:
    """Return one chart, or None where nothing of it is known."""
    known = [point[key] for key, _ in chart.lines for point in trend if point[key] is not None]
    if not known:
        return None
    highest, span_s = max(known), max(point["age_s"] for point in trend) or 1.0
    is_near = limit is not None and highest >= _NEAR_LIMIT * limit
    top = round_up(max(highest, limit if limit is not None and is_near else 0.0), chart.steps)
    now = [(word, _find_newest(trend, key)) for key, word in chart.lines]
    said = ", ".join(f"{word} {'not known' if value is None else chart.show(value)}" for word, value in now)
    told_limit = None if limit is None else f"limit {chart.show(limit)}"
    label = f"{chart.title} over {show_duration(span_s)}: now {said}; highest {chart.show(highest)}"
    drawn = [
        element("path", d=_draw_line(trend, key, span_s, top), class_=f"line{n}")
        for n, (key, _) in enumerate(chart.lines)
    ]
    if limit is not None and is_near:
        y = _place(limit, top)
        drawn.append(element("path", d=f"M0 {y}h{WIDTH}", class_="line2"))
    svg = element(
        "svg",
        element("use", href="#grid"),
        *drawn,
        viewBox=f"0 -2 {WIDTH} {HEIGHT + 4}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{label}; {told_limit}" if told_limit else label,
    )
    return element(
        "figure",
        element("figcaption", element("b", chart.title), *_draw_legend(chart, now, told_limit)),
        element("p", chart.show(top), class_="axis"),
        svg,
        element("p", f"{show_duration(span_s)} ago", element("span", "now"), class_="axis"),
    )


def _draw_legend(chart: Chart, now: list[tuple[str, float | None]], limit: str | None) -> list[Element]:
    told = [(word, "-" if value is None else chart.show(value)) for word, value in now]
    entries = [
        element("span", element("i", class_=f"key{n}"), f" {word} {number}")
        for n, (word, number) in enumerate(told)
    ]
    if limit is not None:
        entries.append(element("span", element("i", class_="key2"), f" {limit}"))
    return entries


def _find_newest(trend: Sequence[dict[str, Any]], key: str) -> float | None:
    found: float | None = trend[-1][key]
    return found


def _place(value: float, top: float) -> int:
    return HEIGHT - round(min(1.0, max(0.0, value / top)) * HEIGHT)


def _draw_line(trend: Sequence[dict[str, Any]], key: str, span_s: float, top: float) -> str:
    """Return a path in whole units; it is broken where nothing is known, and level steps are one."""
    path: list[str] = []
    at: tuple[int, int] | None = None
    level = 0
    for point in thin_out(trend, key):
        value = point[key]
        if value is None:
            _end_level(path, level)
            at, level = None, 0
            continue
        x, y = WIDTH - round(point["age_s"] / span_s * WIDTH), _place(value, top)
        if at is None:
            path.append(f"M{x} {y}")
        elif y == at[1]:
            level += x - at[0]
        else:
            _end_level(path, level)
            level = 0
            path.append(f"l{x - at[0]} {y - at[1]}".replace(" -", "-"))
        at = (x, y)
    _end_level(path, level)
    return "".join(path)


def _end_level(path: list[str], level: int) -> None:
    if level:
        path.append(f"h{level}")


def thin_out(trend: Sequence[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Return at most so many points as a line has room for: the highest of neighbours, so no peak is lost."""
    step = -(-len(trend) // MOST_POINTS)
    groups = [trend[n : n + step] for n in range(0, len(trend), step)] if step else []
    return [max(group, key=lambda point: -1.0 if point[key] is None else point[key]) for group in groups]


def define_grid() -> Element:
    """Return what every chart has behind its lines, for the document to hold once."""
    lines = join(*(element("path", d=f"M0 {HEIGHT * n // 2}h{WIDTH}") for n in range(3)))
    ends = join(*(element("path", d=f"M{WIDTH * n // 3} 0v{HEIGHT}") for n in range(4)))
    return element("svg", element("g", lines, ends, id="grid"), class_="defs", aria_hidden="true")
