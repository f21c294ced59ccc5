"""How answers of the agent look on a terminal: from the JSON of ``agent.report.api`` to rich renderables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.cli.show.render_steps import draw_attachments, draw_calls, draw_steps, is_named
from agent.cli.show.words import clean, label, tell_age, tell_initialization, tell_size, tell_use
from agent.core.units import show_size

STYLES = {
    "Lost": "bold red",
    "Failed": "bold red",
    "Refused": "magenta",
    "Degraded": "yellow",
    "Preparing": "cyan",
    "Pending": "cyan",
    "Ready": "green",
    "Unmanaged": "dim",
}
"""By condition, the worst first; the sign tells them apart without colours."""
SIGNS = {
    "Ready": "✓",
    "Degraded": "!",
    "Preparing": "…",
    "Pending": "…",
    "Unmanaged": "·",
    "Refused": "⊘",
    "Failed": "✗",
    "Lost": "✗",
}


def print_view(view: RenderableType, width: int | None = None) -> None:
    """Print for people: colours on a terminal, and lines as long as they are where nobody reads columns.

    ``width``: of the lines, in columns; by default the terminal's.
    """
    console = Console(highlight=False, width=width)
    if not console.is_terminal and width is None:
        console = Console(highlight=False, width=200)
    # What may not be broken is longer than a line may be, where there is no other way.
    console.print(view, crop=False)


def show_volume(volume: dict[str, Any]) -> RenderableType:
    """Return everything about one volume, one thing a line."""
    volume = clean(volume)
    step = volume["last_step"]
    rows = {
        "volume": volume["volume_id"],
        "condition": show_condition(volume),
        "since": volume["since"] and f"{volume['since']} ({tell_age(volume['since'])})",
        "": volume["message"],
        "remedy": volume["hint"],
        "drift": "\n".join(one["text"] for one in volume.get("drift", [])),
        "required": "yes" if volume["required"] else None,
        "device": volume["device"],
        "used at": volume["path"],
        "PVC": volume.get("persistent_volume_claim"),
        "PV": volume.get("persistent_volume"),
        "type": volume["fstype"],
        "size": tell_size(volume),
        "use": tell_use(volume),
        "snapshots": _show_snapshots(volume.get("snapshots")),
        "AWS's checks": _show_checks(volume),
        "last step": step and f"{step['text']}: {step['outcome']} ({tell_age(step['at'])})",
    }
    return Group(
        Text(label(volume), style="bold"), _grid((key, value) for key, value in rows.items() if value)
    )


def show_plan(answer: dict[str, Any]) -> RenderableType:
    """Return what would be done, volume by volume."""
    parts: list[RenderableType] = []
    calls = clean(answer.get("cloud", []))
    for volume in clean(answer["volumes"]):
        parts.append(Text.assemble((label(volume), "bold"), f"  {volume['volume_id'] or ''}"))
        own = [call for call in calls if call["volume_id"] == volume["volume_id"] or is_named(call, volume)]
        calls = [call for call in calls if call not in own]
        parts.extend(draw_steps(volume, has_more=bool(own)))
        parts.extend(draw_calls(own))
    for name in dict.fromkeys(call["name"] for call in calls):
        parts.append(Text(name, style="bold"))
        parts.extend(draw_calls(call for call in calls if call["name"] == name))
    parts.extend(Text(one["text"], style="yellow") for one in clean(answer.get("departures", [])))
    parts.extend(draw_attachments(answer) if parts else ())
    return Group(*parts) if parts else Text("There is no volume to do anything for.")


def show_explanation(volume: dict[str, Any]) -> RenderableType:
    """Return a volume's status, what would be done, and every fact that decides it."""
    volume = clean(volume)
    facts = ((fact["name"], fact["value"]) for fact in volume["facts"])
    return Group(
        show_volume(volume),
        Text("\nPlan", style="bold"),
        *draw_steps(volume),
        Text("\nObserved", style="bold"),
        _grid(facts),
        *draw_attachments(volume),
    )


def show_snapshots(answer: dict[str, Any]) -> RenderableType:
    """Return the table of ``snapshots``; one still being written shows how far it is."""
    snapshots = clean(answer["snapshots"])
    if not snapshots:
        return Text("There is no snapshot.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("SNAPSHOT", "VOLUME", "STATE", "SIZE", "BEGUN", "FROZEN", "MADE BY"):
        table.add_column(title, no_wrap=title != "MADE BY", overflow="fold")
    for one in snapshots:
        progress = f" {one['progress_percent']} %" if one["state"] == "pending" else ""
        table.add_row(
            Text(one["snapshot_id"]),
            Text(one["volume_id"]),
            Text(f"{one['state']}{progress}"),
            Text(show_size(one["size_bytes"])),
            Text(one["started_at"][:19]),
            Text(one["frozen"] or "-"),
            Text(_name_maker(one)),
        )
    return table


def show_orphans(answer: dict[str, Any]) -> RenderableType:
    """Return the table of ``orphans`` and their sum."""
    found = clean(answer["orphans"])
    if not found:
        return Text("Every volume of this cluster's claims is held.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("VOLUME", "CLAIM", "SIZE", "TYPE", "ZONE", "HELD SINCE", "LAST HOLDER", "MAY BE DELETED"):
        table.add_column(title, no_wrap=title != "MAY BE DELETED", overflow="fold")
    for one in found:
        words = (one["claim"], show_size(one["size_bytes"]), one["type"], one["zone"], one["held_since"][:19])
        may_go = "yes" if one["may_be_deleted"] else f"no: {one['obstacle']}"
        table.add_row(*map(Text, (one["volume_id"], *words, one["last_holder"] or "-", may_go)))
    whole = show_size(sum(one["size_bytes"] for one in found))
    free = sum(one["may_be_deleted"] for one in found)
    return Group(table, Text(f"{len(found)} volumes, {whole}; {free} may be deleted.", style="bold"))


def show_condition(volume: dict[str, Any]) -> Text:
    """Return the condition with its sign, so that it can be told without colour, and its reason."""
    condition = volume["condition"]
    text = Text(f"{SIGNS.get(condition, '?')} {condition}", style=STYLES.get(condition, ""))
    return text.append(f" {volume['reason']}", style="dim") if volume["reason"] else text


def _name_maker(snapshot: dict[str, Any]) -> str:
    if not snapshot["made_by_agent"]:
        return "someone else"
    schedule = snapshot["schedule"]
    return f"the agent, on the schedule of {schedule}" if schedule else "the agent"


def _show_snapshots(facts: dict[str, Any] | None) -> str | None:
    """Return how the snapshots of a volume's schedule are; None where it has none, or that is not known."""
    if facts is None:
        return None
    newest, due, failed = facts["last_completed_at"], facts["due_at"], facts["failed"]
    parts = [f"newest of {newest[:16]}Z ({tell_age(newest)})" if newest else "none has completed"]
    parts += [f"next due {due[:16]}Z"] if due else []
    parts += [f"failed: {', '.join(failed)}"] if failed else []
    return "; ".join(parts)


def _show_checks(volume: dict[str, Any]) -> str | None:
    """Return what AWS's own status checks found; None where AWS was not asked."""
    checks, coming = volume.get("aws_checks"), tell_initialization(volume)
    return checks and ": ".join(filter(None, (checks["status"], coming)))


def _grid(rows: Iterable[tuple[str, Any]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(f"  {key}", value if isinstance(value, Text) else Text(str(value)))
    return table
