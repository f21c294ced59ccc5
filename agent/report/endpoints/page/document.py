"""The whole page: its head, what is said first, its parts, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from agent.core.suggestions import find_meant
from agent.core.units import utc_now
from agent.report.endpoints.page.cards import draw_card, list_terms
from agent.report.endpoints.page.charts import define_grid
from agent.report.endpoints.page.markup import Element, element, join
from agent.report.endpoints.page.sections import (
    draw_attention,
    draw_cloud,
    draw_events,
    draw_legend,
    draw_unmanaged,
    draw_well,
)
from agent.report.endpoints.page.triage import Triage, Volume, name_volume, triage
from agent.report.endpoints.page.wording import show_time

_PLACE = re.compile(r"\{\{(\w+)\}\}")
_HERE = Path(__file__).parent
_NAMED = 8
"""Volumes in the sentence above all others."""


@cache
def content_security_policy() -> str:
    """Return what a browser may do with the page: run its own script, show its own style, ask this agent."""
    return (
        f"default-src 'none'; script-src '{_hash(_read('page.js'))}'; style-src '{_hash(_read('page.css'))}';"
        " connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


def render_page(content: dict[str, Any], now: datetime | None = None, only: str | None = None) -> str:
    """Return the page of what ``status.json`` answers. ``only``: the name or ID of the one volume to show."""
    now = now or utc_now()
    found = triage(content["volumes"])
    one = _find(content["volumes"], only)
    main = _draw_all(content, found, now) if only is None else _draw_one(content, one, only, now)
    name = content["node"]["name"] or "This node"
    headline, kind = summarize(content, found)
    subject = name if one is None else f"{name_volume(one)} · {name}"
    trouble = f"({len(found.unwell)}) " if found.unwell else ""
    parts = {
        "style": _read("page.css"),
        "script": _read("page.js"),
        "title": element("title", f"{trouble}{subject} · EBS volumes"),
        "name": element("h1", element("bdi", name)),
        "facts": _list_facts(content, now),
        "headline": element("p", headline, id="headline", class_=kind, role="status"),
        "main": join(define_grid(), main),
        "version": join(content["version"]),
    }
    # In one go: what a volume is called is not looked at again.
    return _PLACE.sub(lambda match: parts[match[1]], _read("page.html"))


def summarize(content: dict[str, Any], found: Triage) -> tuple[str, str]:
    """Return the one sentence that says how the node is, and how bad that is: good | calm | wait | bad."""
    blocking, unwell = found.blocking, len(found.unwell)
    if content["ending"]:
        return content["ending"]["text"], "bad"
    if not content["first_look_done"]:
        return "The agent has just started and is looking at the volumes.", "calm"
    if blocking:
        return f"✗ Required and not usable: {_list_few(blocking)}.", "bad"
    if content["node_conditions"]:
        return "✗ Something is wrong with the node itself.", "bad"
    how = "Every required volume can be used."
    if found.under_way:
        how = f"Required and being prepared: {_list_few(found.under_way)}."
    if unwell:
        what = "1 volume needs" if unwell == 1 else f"{unwell} volumes need"
        return f"! {what} attention. {how}", "wait"
    if found.under_way:
        return f"… {how}", "calm"
    return "✓ All is well: every required volume can be used.", "good"


def _list_few(volumes: tuple[Volume, ...]) -> str:
    names = ", ".join(name_volume(one) for one in volumes[:_NAMED])
    return f"{names} and {len(volumes) - _NAMED} more" if len(volumes) > _NAMED else names


def _draw_all(content: dict[str, Any], found: Triage, now: datetime) -> Element:
    empty = "There are no volumes here, and the policy asks for none."
    return join(
        draw_attention(content, found, now),
        draw_well(found, now),
        draw_legend(found),
        None if content["volumes"] else element("p", empty),
        draw_unmanaged(found),
        draw_cloud(content, now),
        draw_events(content, now),
    )


def _draw_one(content: dict[str, Any], one: Volume | None, asked: str, now: datetime) -> Element:
    back = element("p", element("a", "← All volumes of this node", href="?"))
    if one is None:
        names = [word for each in content["volumes"] for word in (each["name"], each["volume_id"]) if word]
        meant = find_meant(asked, names)
        target = quote(meant or "", safe="", errors="replace")
        link = meant and element("p", "Did you mean ", element("a", meant, href=f"?volume={target}"), "?")
        return join(back, element("p", f"No volume here is called {asked[:200]}."), link)
    found = Triage((one,), (), ())
    card = element("div", draw_card(one, now, has_charts=True), class_="cards one")
    heading = element("h2", "Volume")
    return join(back, heading, card, draw_legend(found), draw_events(content, now, one))


def _find(volumes: list[Volume], asked: str | None) -> Volume | None:
    """Return the volume of that ID, else of that name."""
    by_id = (one for one in volumes if asked is not None and one["volume_id"] == asked)
    by_name = (one for one in volumes if asked is not None and one["name"] == asked)
    return next(by_id, None) or next(by_name, None)


def _list_facts(content: dict[str, Any], now: datetime) -> Element:
    node = content["node"]
    instance = " · ".join(filter(None, (node["instance"], node["instance_type"])))
    cluster = " · ".join(filter(None, (node["cluster"], node["group"])))
    host = node["host_name"] if node["host_name"] != node["name"] else None
    as_of = show_time(now.isoformat(timespec="seconds").replace("+00:00", "Z"), now)
    facts = (("Cluster", cluster), ("Instance", instance), ("Zone", node["zone"]), ("Host", host))
    return list_terms((*facts, ("Agent", content["version"]), ("As of", as_of)))


@cache
def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
