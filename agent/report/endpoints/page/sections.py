"""The parts of the page, from what is wrong to what happened last."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from agent.core.quoting import fit
from agent.core.units import show_size
from agent.report.endpoints.page.cards import draw_card, draw_row, link_to
from agent.report.endpoints.page.markup import Element, element, join
from agent.report.endpoints.page.strip import explain_strips
from agent.report.endpoints.page.triage import CARDS, CHARTED, ROWS, Triage, Volume, name_volume
from agent.report.endpoints.page.wording import show_age, show_time

MOST_SHOWN = 40
"""Of node conditions, calls, remarks and unmanaged volumes each."""
_DETAIL_LIMIT = 240


def draw_section(key: str, title: str, *parts: str | None) -> Element | None:
    """Return a part of the page with its heading, or None where there is nothing in it."""
    if not any(parts):
        return None
    heading = element("h2", title, id=f"{key}-title")
    return element("section", heading, *parts, id=key, aria_labelledby=f"{key}-title")


def draw_attention(content: dict[str, Any], found: Triage, now: datetime) -> Element | None:
    """Return all that is wrong, the node's own troubles first."""
    troubles = [_draw_trouble(one, now) for one in content["node_conditions"][:MOST_SHOWN]]
    if content["ending"]:
        ending = element("p", content["ending"]["text"])
        troubles.insert(0, element("article", element("h3", "This instance ends"), ending, class_="bad"))
    cards = [draw_card(one, now, has_charts=n < CHARTED) for n, one in enumerate(found.unwell[:CARDS])]
    count = len(troubles) + len(found.unwell)
    shown = element("div", *troubles, *cards, class_="cards") if count else None
    return draw_section("attention", f"Needs attention ({count})", shown, _list_names(found.unwell[CARDS:]))


def _draw_trouble(one: dict[str, Any], now: datetime) -> Element:
    return element(
        "article",
        element("h3", element("bdi", one["about"])),
        element(
            "p",
            element(
                "span", element("span", "✗", aria_hidden="true"), f" {one['reason']}", class_="condition"
            ),
            " since ",
            show_time(one["since"], now),
            f" ({show_age(one['since'], now)})",
            class_="state",
        ),
        element("p", one["message"]),
        element("p", element("b", "What to do: "), one["hint"], class_="remedy") if one["hint"] else None,
        class_="bad",
    )


def draw_well(found: Triage, now: datetime) -> Element | None:
    """Return the volumes in order: as cards where there are few, else as a table."""
    title = f"In order ({len(found.well)})"
    if len(found.unwell) + len(found.well) <= CHARTED:
        cards = [draw_card(one, now, has_charts=True) for one in found.well]
        return draw_section("well", title, element("div", *cards, class_="cards") if cards else None)
    rows = [draw_row(one, now) for one in found.well[:ROWS]]
    table = _draw_table(("Volume", "Condition", "Use", "Last hour"), rows) if rows else None
    return draw_section("well", title, table, _list_names(found.well[ROWS:]))


def draw_legend(found: Triage) -> Element | None:
    """Return what the strips' bars mean, where there are any."""
    return explain_strips() if found.unwell or found.well else None


def _list_names(volumes: tuple[Volume, ...]) -> Element | None:
    """Return the volumes for which there is no room, each with a link to its own page."""
    if not volumes:
        return None
    names = [
        element(
            "li", element("a", element("bdi", name_volume(one)), href=link_to(one)), f" {one['condition']}"
        )
        for one in volumes
    ]
    summary = element("summary", f"{len(volumes)} more")
    return element("details", summary, element("ul", *names, class_="names"))


def draw_unmanaged(found: Triage) -> Element | None:
    """Return the volumes that the policy does not speak of: no fault of theirs."""
    rows = [
        element(
            "tr",
            element("th", name_volume(one), scope="row"),
            element("td", one["device"]),
            element("td", show_size(one["size_bytes"]) if one["size_bytes"] else None),
            element("td", fit(one["message"], _DETAIL_LIMIT)),
        )
        for one in found.unmanaged[:MOST_SHOWN]
    ]
    table = _draw_table(("Volume", "Device", "Size", "Why"), rows) if rows else None
    return draw_section("unmanaged", f"Left alone ({len(found.unmanaged)})", table)


def draw_cloud(content: dict[str, Any], now: datetime) -> Element | None:
    """Return what is known of the node at AWS, and what AWS is going to be asked."""
    attachments = content["attachments"]
    calls = [_draw_call(call, now) for call in content["next_calls"][:MOST_SHOWN]]
    remarks = [element("p", fit(remark, _DETAIL_LIMIT)) for remark in content["remarks"][:MOST_SHOWN]]
    room = element("p", f"{attachments['text'].capitalize()} are taken.") if attachments else None
    steps = join(element("h3", "Will be asked of AWS"), element("ul", *calls)) if calls else None
    return draw_section("cloud", "At AWS", room, *remarks, steps)


def _draw_call(call: dict[str, Any], now: datetime) -> Element:
    parts = (
        join(element("bdi", call["name"]), f": {call['text']}"),
        join("not before ", show_time(call["at"], now)) if call["at"] else None,
        fit(call["why"], _DETAIL_LIMIT) if call["why"] else None,
    )
    return element("li", join(*parts, between=" · "))


def draw_events(content: dict[str, Any], now: datetime, only: Volume | None = None) -> Element | None:
    """Return the latest events, newest first; those of one volume where ``only`` that is shown."""
    names = {one["volume_id"]: one["name"] for one in content["volumes"]}
    events = [
        _draw_event(event, names, now)
        for event in content["events"]
        if only is None or event.get("volume_id") == only["volume_id"]
    ]
    return draw_section("events", "Latest events", element("ol", *events) if events else None)


def _draw_event(event: dict[str, Any], names: dict[str, str | None], now: datetime) -> Element:
    volume = event.get("volume_id")
    told = (event.get(key) for key in ("text", "reason", "message", "error"))
    details = " · ".join(str(one) for one in told if one)
    return element(
        "li",
        show_time(event["at"], now),
        element("b", event["event"]),
        element("bdi", names.get(volume or "") or volume or ""),
        element("span", fit(details, _DETAIL_LIMIT)),
    )


def _draw_table(titles: tuple[str, ...], rows: list[Element]) -> Element:
    heads = (element("th", title, scope="col") for title in titles)
    head = element("thead", element("tr", *heads))
    return element("table", head, element("tbody", *rows))
