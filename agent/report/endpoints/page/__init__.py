"""The status page: one self-contained HTML document. It shows, polls ``status.json``, and changes nothing.

Nothing is fetched but that file, from the same origin, and the policy in the answer's header forbids all
else: the page's own script and style are named there by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from agent.report import api
from agent.report.board.shown import ShownBoard

EVENTS_SHOWN = 30

_PLACE = re.compile(r"\{\{(\w+)\}\}")
_HERE = Path(__file__).parent


@cache
def content_security_policy() -> str:
    """Return what a browser may do with the page: run its own script, show its own style, ask this agent."""
    return (
        f"default-src 'none'; script-src '{_hash(_read('page.js'))}'; style-src '{_hash(_read('page.css'))}';"
        " connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    )


def render_page(content: dict[str, Any]) -> str:
    """Return the page; ``content`` is what ``status.json`` answers now, so that it is whole at once."""
    rows = "\n".join(_render_row(volume) for volume in content["volumes"])
    # No character in it can end the element it stands in.
    first = json.dumps(content, default=str).replace("<", "\\u003c")
    parts = {"style": _read("page.css"), "script": _read("page.js"), "rows": rows, "content": first}
    # In one go: what a volume is called is not looked at again.
    return _PLACE.sub(lambda match: parts[match[1]], _read("page.html"))


def _render_row(volume: dict[str, Any]) -> str:
    """Return one line of the table for browsers without scripts."""
    cells = (volume[key] for key in ("condition", "reason", "path", "message", "hint"))
    texts = "".join(f"<td>{escape(text or '')}</td>" for text in cells)
    return f'<tr><th scope="row">{escape(volume["name"] or volume["volume_id"] or "?")}</th>{texts}</tr>'


def show_content(board: ShownBoard, trends: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows: the node, its volumes with their charts' points, the latest events."""
    node = api.show_node(board)
    for volume in node["volumes"]:
        volume["trend"] = trends.get(volume["volume_id"] or "", [])
    latest = reversed(board.history.latest(EVENTS_SHOWN))
    return {
        **node,
        "first_look_done": board.is_first_look_done,
        "events": [api.show_event(event) for event in latest],
    }


@cache
def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
