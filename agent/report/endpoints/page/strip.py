"""The strip of a volume's last hour: one bar for each condition it was in, by height and colour."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any, NamedTuple

from agent.core.units import parse_time, show_duration
from agent.report.endpoints.page.markup import Element, element, join

SPAN_S = 3600.0
WIDTH = 240
"""Four units to a minute."""
_TALL = 12

KINDS = {
    "Ready": "good",
    "Degraded": "wait",
    "Pending": "wait",
    "Preparing": "calm",
    "Unmanaged": "calm",
    "Failed": "bad",
    "Refused": "bad",
    "Lost": "bad",
}
_HEIGHTS = {"good": 4, "calm": 6, "wait": 8, "bad": _TALL}


class _Span(NamedTuple):
    condition: str
    begin_s: float
    """Before now."""
    end_s: float


def draw_strip(volume: dict[str, Any], now: datetime) -> Element | None:
    """Return the strip with its sentence, or None where nothing is known."""
    spans = list_spans(volume, now)
    if not spans:
        return None
    parts: dict[str, float] = {}
    for span in spans:
        parts[span.condition] = parts.get(span.condition, 0.0) + span.begin_s - span.end_s
    said = ", ".join(f"{condition} {show_duration(length)}" for condition, length in parts.items())
    known_s = spans[0].begin_s
    if known_s < SPAN_S - 60:
        said += f"; not known before the last {show_duration(known_s)}"
    svg = element(
        "svg",
        *map(_draw_span, spans),
        viewBox=f"0 0 {WIDTH} {_TALL}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"Conditions in the last hour: {said}",
        class_="strip",
    )
    return element("div", svg, element("p", "60 min ago", element("span", said), "now", class_="axis"))


def list_spans(volume: dict[str, Any], now: datetime) -> list[_Span]:
    """Return in which condition a volume was within the last hour, oldest first."""
    if volume["since"] is None:
        return []
    states = [*((one["condition"], one["since"]) for one in volume["past"])]
    states.append((volume["condition"], volume["since"]))
    ages = [min(SPAN_S, max(0.0, (now - parse_time(since)).total_seconds())) for _, since in states]
    spans: list[_Span] = []
    for (condition, _), (begin_s, end_s) in zip(states, pairwise([*ages, 0.0]), strict=True):
        if begin_s <= end_s and end_s > 0:
            continue
        if spans and spans[-1].condition == condition:
            spans[-1] = spans[-1]._replace(end_s=end_s)
        else:
            spans.append(_Span(condition, begin_s, end_s))
    return spans


def _draw_span(span: _Span) -> Element:
    kind = KINDS.get(span.condition, "calm")
    height = _HEIGHTS[kind]
    left = round((SPAN_S - span.begin_s) / SPAN_S * WIDTH)
    width = max(1, round((SPAN_S - span.end_s) / SPAN_S * WIDTH) - left)
    left = min(left, WIDTH - width)
    return element("rect", x=left, y=_TALL - height, width=width, height=height, class_=kind)


def explain_strips() -> Element:
    """Return what the bars mean."""
    meant = (("good", "Ready"), ("calm", "being prepared"), ("wait", "Degraded, Pending"))
    entries = (*meant, ("bad", "Failed, Refused, Lost"))
    return element(
        "p",
        "The last hour: ",
        *(join(_draw_key(kind), f" {words}  ") for kind, words in entries),
        class_="legend",
    )


def _draw_key(kind: str) -> Element:
    height = _HEIGHTS[kind]
    bar = element("rect", y=_TALL - height, width=_TALL, height=height, class_=kind)
    return element("svg", bar, viewBox=f"0 0 {_TALL} {_TALL}", class_="key", aria_hidden="true")
