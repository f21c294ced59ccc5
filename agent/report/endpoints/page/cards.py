"""One volume on the page: as a card with all that is known of it, or as a row of a table."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any
from urllib.parse import quote

from agent.core.quoting import fit
from agent.core.units import show_duration, show_size
from agent.report.endpoints.page.charts import draw_charts
from agent.report.endpoints.page.markup import Element, element, join
from agent.report.endpoints.page.strip import KINDS, draw_strip
from agent.report.endpoints.page.triage import Volume, name_volume
from agent.report.endpoints.page.wording import show_age, show_time

MARKS = {"good": "✓", "wait": "!", "bad": "✗", "calm": "·"}
TEXT_LIMIT = 600
"""Of a sentence, in characters."""
_ALL = 100


def draw_card(volume: Volume, now: datetime, *, has_charts: bool) -> Element:
    """Return a card: what is wrong and what to do about it first, then what it is, then how it does."""
    name, kind, key = name_volume(volume), choose_kind(volume), make_id(volume)
    hint = volume["hint"]
    return element(
        "article",
        element("h3", element("a", element("bdi", name), href=link_to(volume)), id=f"{key}-name"),
        draw_condition(volume, now),
        element("p", fit(volume["message"], TEXT_LIMIT)) if volume["message"] else None,
        element("p", element("b", "What to do: "), fit(hint, TEXT_LIMIT), class_="remedy") if hint else None,
        _list_others(volume),
        draw_use(volume),
        draw_strip(volume, now),
        _list_facts(volume, now),
        draw_charts(volume) if has_charts else None,
        class_=kind,
        id=key,
        aria_labelledby=f"{key}-name",
    )


def draw_row(volume: Volume, now: datetime) -> Element:
    """Return a row: a volume in order, of which there are many."""
    words = (volume["volume_id"], volume["path"], volume["persistent_volume_claim"])
    where = " · ".join(filter(None, words))
    name = element("a", element("bdi", name_volume(volume)), href=link_to(volume))
    return element(
        "tr",
        element("th", name, element("p", where, class_="soft"), scope="row"),
        element("td", draw_condition(volume, now), class_=choose_kind(volume)),
        element("td", draw_use(volume)),
        element("td", draw_strip(volume, now)),
        id=make_id(volume),
    )


def draw_condition(volume: Volume, now: datetime) -> Element:
    """Return the condition with its mark and its reason, and since when it is so."""
    reason = f" · {volume['reason']}" if volume["reason"] else ""
    mark = element("span", MARKS[choose_kind(volume)], aria_hidden="true")
    since = volume["since"]
    return element(
        "p",
        element("span", mark, f" {volume['condition']}{reason}", class_="condition"),
        " since " if since else None,
        show_time(since, now) if since else None,
        f" ({show_age(since, now)})" if since else None,
        class_="state",
    )


def draw_use(volume: Volume) -> Element | None:
    """Return how full the filesystem is; how large the device is where there is none."""
    filesystem = volume["filesystem"]
    if not filesystem or not filesystem["size_bytes"]:
        return element("p", show_size(volume["size_bytes"]), class_="soft") if volume["size_bytes"] else None
    size, left = filesystem["size_bytes"], filesystem["avail_bytes"]
    used = 1 - left / size
    text = f"{used * 100:.0f} % of {show_size(size)} used, {show_size(left)} left"
    meter = element("meter", value=f"{used:.3f}", low=0.8, high=0.9, optimum=0)
    read_only = " · read-only" if filesystem["is_read_only"] else ""
    return element("label", text + read_only, meter, class_="use")


def _list_others(volume: Volume) -> Element | None:
    """Return what else is wrong, and in what the volume is not as its claim says."""
    verdicts = [one for one in volume["verdicts"] if one["reason"] != volume["reason"]]
    texts = [f"{one['reason']}: {one['message']} {one['hint'] or ''}" for one in verdicts]
    texts += [f"Not as its claim says: {one['text']}." for one in volume["drift"]]
    items = [element("li", fit(text, TEXT_LIMIT)) for text in texts]
    return element("ul", *items) if items else None


def _list_facts(volume: Volume, now: datetime) -> Element:
    device = " · ".join(filter(None, (volume["device"], volume["fstype"])))
    facts = (
        ("Volume", volume["volume_id"]),
        ("Device", device),
        ("Used at", volume["path"]),
        ("PVC", volume["persistent_volume_claim"]),
        ("PV", volume["persistent_volume"]),
        ("Snapshots", _describe_snapshots(volume["snapshots"], now)),
        ("AWS checks", _describe_checks(volume["aws_checks"])),
        ("Required", "yes" if volume["required"] else None),
    )
    return list_terms((term, said) for term, said in facts)


def list_terms(facts: Any) -> Element:
    """Return (term, what is said) pairs as a list of descriptions; pairs that say nothing are left out."""
    pairs = (
        element("div", element("dt", term), element("dd", element("bdi", said)))
        for term, said in facts
        if said
    )
    return element("dl", *pairs)


def _describe_snapshots(facts: dict[str, Any] | None, now: datetime) -> Element | None:
    if facts is None:
        return None
    last, due, failed = facts["last_completed_at"], facts["due_at"], facts["failed"]
    newest = f"newest is {show_age(last, now)} old" if last else "none has completed"
    return join(
        f"{newest}, {facts['completed']} kept",
        join("next due ", show_time(due, now)) if due else None,
        f"failed: {', '.join(failed)}" if failed else None,
        between=" · ",
    )


def _describe_checks(checks: dict[str, Any] | None) -> str | None:
    if checks is None:
        return None
    coming = checks["initialization"]
    if not coming or coming["percent"] is None or coming["percent"] >= _ALL:
        return str(checks["status"])
    left = "" if coming["left_s"] is None else f", about {show_duration(coming['left_s'])} left"
    return f"{checks['status']} · {coming['percent']} % of its content has come{left}"


def choose_kind(volume: Volume) -> str:
    """Return how bad the volume's condition is: good | calm | wait | bad."""
    return KINDS.get(volume["condition"], "wait")


def make_id(volume: Volume) -> str:
    """Return what the volume's element is called within the page."""
    if volume["volume_id"]:
        return str(volume["volume_id"])
    return f"entry-{hashlib.sha256(name_volume(volume).encode(errors='replace')).hexdigest()[:12]}"


def link_to(volume: Volume) -> str:
    """Return where the volume has a page of its own."""
    return f"?volume={quote(name_volume(volume), safe='', errors='replace')}"
