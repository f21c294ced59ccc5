"""The status page: one self-contained HTML document made from the board. No script, nothing fetched."""

from __future__ import annotations

from html import escape

import agent
from agent.model import Condition
from agent.report.api import to_iso
from agent.report.board import Board, VolumeStatus
from agent.report.readiness import assess_node
from agent.report.sizes import show_size

REFRESH_S = 5
EVENTS_SHOWN = 20

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884 }
.good { color: light-dark(#17643a, #7fd8a4) } .bad { color: light-dark(#a3182c, #ff9aa5) }
.wait { color: light-dark(#7a5200, #f0c36a) }
.wrap { overflow-x: auto } small { opacity: .8 } code { font-size: .9em }
"""


def render_page(board: Board) -> str:
    """Return the page as it is now."""
    readiness = assess_node(board)
    if readiness.is_ready:
        headline = '<p class="good">Every volume this node requires can be used.</p>'
    elif not readiness.is_first_look_done:
        headline = '<p class="wait">The agent has just started and is looking at the volumes.</p>'
    else:
        names = ", ".join(escape(status.label) for status in readiness.waiting)
        headline = f'<p class="bad">Required and not usable: {names}</p>'
    rows = "\n".join(_render_row(status) for status in board.statuses())
    events = "\n".join(
        f"<li><time>{escape(to_iso(event.at))}</time> <code>{escape(event.name.value)}</code> "
        f"{escape(event.volume_id or '')}</li>"
        for event in reversed(board.history.latest(EVENTS_SHOWN))
    )
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{REFRESH_S}">
<title>EBS volumes of this node</title><style>{_STYLE}</style></head>
<body><h1>EBS volumes of this node</h1>
{headline}
<div class="wrap"><table>
<thead><tr><th>Volume</th><th>Condition</th><th>Used at</th><th>Size</th><th>What is known</th></tr></thead>
<tbody>
{rows}
</tbody></table></div>
<h2>Latest events</h2>
<ul>
{events}
</ul>
<p><small>ebs-agent {escape(agent.__version__)}</small></p>
</body></html>
"""


def _render_row(status: VolumeStatus) -> str:
    kind = "good" if status.condition.is_usable else "bad"
    if status.condition in {Condition.PENDING, Condition.PREPARING, Condition.UNMANAGED}:
        kind = "wait"
    reason = f" <small>{escape(status.reason.value)}</small>" if status.reason else ""
    hint = f"<br><small>{escape(status.hint)}</small>" if status.hint else ""
    size = show_size(status.size_bytes) if status.size_bytes is not None else ""
    return (
        f"<tr><th>{escape(status.label)}<br><small>{escape(status.volume_id or '')}</small></th>"
        f'<td class="{kind}">{escape(status.condition.value)}{reason}</td>'
        f"<td>{escape(status.path or '')}<br><small>{escape(status.device or '')}</small></td>"
        f"<td>{size}</td><td>{escape(status.message)}{hint}</td></tr>"
    )
